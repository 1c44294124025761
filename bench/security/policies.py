"""The policies of the security scenarios, as they stand in agw's configuration.

The rules are those of the mcp-authorization example; they and the limit's key look at the caller and at names only, so what was decided once
is remembered. `arguments` adds a rule that looks at a tool's arguments, which is asked about every call.
"""

from pathlib import Path

from bench.security.tokens import AUDIENCE, ISSUER

RATE_PER_S = 5000
"""What `shared` admits, and what `keyed` admits for all keys together."""
KEYS = 50
BURST_S = 0.5
GUARDED_PATH = "/limited"

_JWT = 'jwtAuth: {mode: strict, issuer: "@ISSUER@", audiences: ["@AUDIENCE@"], jwks: {file: "@JWKS@"}}'
_RULES = (
    'mcp.tool.name == "echo"',
    'jwt.sub == "client-000001" && mcp.tool.name == "get-sum"',
    'mcp.tool.name == "get-env" && jwt.nested.key == "value"',
)
_HTTP_RULES = (f'jwt.iss == "{ISSUER}"', f'"{AUDIENCE}" in jwt.aud', 'jwt.sub.startsWith("client-")')
_LIMIT = "localRateLimit: [{name: per user, maxTokens: 1000000, tokensPerFill: 1000000, fillInterval: 1s, key: jwt.sub}]"


def _rules(name: str, rules: tuple[str, ...]) -> str:
    return f"{name}: {{rules: [{', '.join(repr(rule) for rule in rules)}]}}"


def _limit(rate: int, key: str) -> str:
    return (
        f"localRateLimit: [{{name: saturated, maxTokens: {max(1, int(rate * BURST_S))}, tokensPerFill: {rate}, fillInterval: 1s{key}}}]"
    )


_SETS = {
    "": (),
    "jwt": (_JWT,),
    "mcp": (_JWT, _rules("mcpAuthorization", _RULES), _LIMIT),
    "mcp-http": (_JWT, _rules("authorization", _HTTP_RULES), _rules("mcpAuthorization", _RULES), _LIMIT),
    "arguments": (_JWT, _rules("mcpAuthorization", ('mcp.tool.arguments.text.size() < 10000', *_RULES)), _LIMIT),
    "http": (_JWT, _rules("authorization", _HTTP_RULES), _LIMIT),
    "shared": (_JWT, _limit(RATE_PER_S, "")),
    "keyed": (_JWT, _limit(RATE_PER_S // KEYS, ", key: jwt.sub")),
}


def of_route(name: str, jwks: Path | None) -> str:
    """The `policies:` of a route, indented for a list of routes; "" for none."""
    if not _SETS[name]:
        return ""
    lines = "\n".join(f"    {line}" for line in _SETS[name])
    return "  policies:\n" + lines.replace("@ISSUER@", ISSUER).replace("@AUDIENCE@", AUDIENCE).replace("@JWKS@", str(jwks))


def route(name: str, jwks: Path | None, backend_port: int) -> str:
    """Routes with these policies beside the MCP route: the server behind it as plain HTTP, and an answer of the gateway's own."""
    if not name:
        return ""
    policies = of_route(name, jwks)
    return (
        f"- name: guarded\n  matches: [{{path: {{pathPrefix: /mcp/}}}}]\n{policies}\n  backends: [{{host: \"127.0.0.1:{backend_port}\"}}]\n"
        f"- name: answered\n  matches: [{{path: {{exact: {GUARDED_PATH}}}}}]\n{policies}\n    directResponse: {{status: 200, body: ok}}"
    )
