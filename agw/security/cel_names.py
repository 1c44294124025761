"""The variables of CEL: which there are in which phase, of what type, and how coarse a fact each depends on.

Rules:
- a variable is a dotted, typed name, so that a misspelt one is an error when the file is loaded;
- `has(mcp.tool)` asks whether a name or anything below it is known; it is the boolean variable `has_mcp.tool`;
- what agentgateway's rules may name and agw cannot tell at this point is listed with the reason (UNAVAILABLE);
- the values of `Expression.needs` are the groups below: a decision may be remembered for as long as none of them changes. A gate serves all routes
  with the same policies, so what depends on the route is a fact like others.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, Literal, NamedTuple

Phase = Literal["network", "http", "mcp", "response", "log"]

KINDS: Final = ("tool", "prompt", "resource", "task")


class Variable(NamedTuple):
    """`kind` is a CEL type: string, int, timestamp, map, strings (map of strings) or list (of strings)."""

    name: str
    kind: str
    group: str
    first: Phase


_ORDER: Final = ("network", "http", "mcp")

_TABLE: Final = (
    *(Variable(f"source.{name}", "string", "source", "network") for name in ("address", "rawAddress", "issuer", "subject", "subjectCn", "spiffeId")),
    *(Variable(f"source.identity.{name}", "string", "source", "network") for name in ("trustDomain", "namespace", "serviceAccount")),
    Variable("source.subjectAltNames", "list", "source", "network"),
    Variable("now", "timestamp", "time", "network"),
    *(Variable(f"env.{name}", "string", "", "network") for name in ("podName", "namespace", "gateway")),
    *(Variable(f"request.{name}", "string", "head", "http") for name in ("method", "uri", "host", "scheme", "path", "pathAndQuery")),
    Variable("request.headers", "strings", "headers", "http"),
    Variable("request.startTime", "timestamp", "time", "http"),
    *(Variable(f"proxy.{name}", "string", "route", "http") for name in ("bind", "gateway", "listener", "route")),
    *(Variable(name, "map", "identity", "http") for name in ("jwt", "apiKey", "extauthz")),
    Variable("basicAuth.username", "string", "identity", "http"),
    Variable("mcp.methodName", "string", "method", "mcp"),
    Variable("mcp.sessionId", "string", "session", "mcp"),
    *(Variable(f"mcp.{kind}.{name}", "string", "name", "mcp") for kind in KINDS for name in ("name", "target")),
    Variable("mcp.tool.arguments", "map", "arguments", "mcp"),
    Variable("mcp.tool.annotations", "map", "annotations", "mcp"),
)
_RESPONSE: Final = (
    Variable("response.code", "int", "response", "response"),
    Variable("response.headers", "strings", "response", "response"),
    Variable("response.body", "string", "response", "response"),
)
_LOG: Final = (
    *(item for item in _RESPONSE if item.name != "response.body"),
    Variable("request.endTime", "timestamp", "time", "log"),
    Variable("backend", "map", "response", "log"),
)
_PORT: Final = Variable("source.port", "int", "source", "network")

ENVIRONMENT: Final = MappingProxyType({"env.podName": "POD_NAME", "env.namespace": "NAMESPACE", "env.gateway": "GATEWAY"})
"""Where `env.*` comes from."""

UNAVAILABLE: Final = MappingProxyType(
    {
        "random": "a rule must decide the same way twice",
        "with": "write cel.bind(name, value, expression)",
        "variables": "name the ones that matter",
        "mapValues": "use map()",
        "filterKeys": "use filter()",
        "removeKeys": "use filter()",
        "flatten": "name the fields that matter",
        "flattenRecursive": "name the fields that matter",
        "redacted": "header values are plain text here",
        "raw": "repeated headers are one text, joined by commas",
        "request.version": "every request is HTTP/1.1",
        "request.body": "rules see the head of a request; use mcp.tool.arguments for MCP",
        "request.bodyPrefix": "rules see the head of a request; use mcp.tool.arguments for MCP",
        "request.endTime": "it is not known before the answer",
        "response": "it is not known before the answer",
        "source.port": "it is known to networkAuthorization only",
        "source.rawPort": "it is known to nobody but the network",
        "source.certificate": "use source.subjectAltNames, source.subject, source.issuer or source.spiffeId",
        "source.unverifiedWorkload": "agw has no workloads",
        "source.connectHeaders": "agw accepts no CONNECT",
        "destination": "use proxy.bind",
        "backend": "a backend is not chosen yet",
        "llm": "it is not known before the answer",
        "llmRequest": "rules see the head of a request",
        "extproc": "agw has no external processor",
        "mcpGuardrails": "agw has no guardrails",
        "metadata": "agw has none",
        "mcp.tool.result": "it is not known before the answer",
        "mcp.tool.error": "it is not known before the answer",
    }
)
"""Names that other gateways' files use, and what to do instead."""


def variables(phase: Phase) -> dict[str, Variable]:
    """The variables of a phase by name; each phase has those of the phases before it, `response` and `log` have those of `mcp`.

    The access log knows no session ids: they are credentials, and a line has the beginning of its session's number anyhow.
    """
    reach = 2 if phase in ("response", "log") else _ORDER.index(phase)
    found = {item.name: item for item in _TABLE if _ORDER.index(item.first) <= reach}
    if phase == "network":
        found[_PORT.name] = _PORT
    if phase == "response":
        found.update((item.name, item) for item in _RESPONSE)
    if phase == "log":
        del found["mcp.sessionId"], found["mcp.tool.annotations"]
        found.update((item.name, item) for item in _LOG)
    return found


def presences(phase: Phase) -> dict[str, Variable]:
    """The variables behind `has(name)`, by their name `has_name`: of every variable, and of what groups of them have in common."""
    found: dict[str, Variable] = {}
    for item in variables(phase).values():
        parts = item.name.split(".")
        for length in range(1, len(parts) + 1):
            name = "has_" + ".".join(parts[:length])
            group = item.group if length > 1 or len(parts) == 1 or parts[0] != "mcp" else "name"
            found.setdefault(name, Variable(name, "bool", group, item.first))
    return found
