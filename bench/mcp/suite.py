"""All MCP scenarios: those of calls, lists and sessions, and those of security."""

from bench.mcp import scenarios
from bench.security import scenarios as security

SCENARIOS = (*scenarios.SCENARIOS, *security.SCENARIOS)
QUICK = scenarios.QUICK | security.QUICK
