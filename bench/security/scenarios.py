"""The table of security scenarios. Rules as in mcp/scenarios.py; the limits are the figures of the project's issue about security."""

from bench.mcp.scenarios import Kind, Limit, McpScenario, Variant

_CLIENTS = 64


def _calls(key: str, title: str, what: str, policies: str, *more: Variant) -> McpScenario:
    """The same calls by 64 clients with a token each: with policies, without, and through nginx. agw first: see mcp/scenarios.py."""
    beside = what == "http"
    logged = {"targets": 2, "access_log": True}
    guard = {"beside": policies} if beside else {"policies": policies}
    common = {"what": what, "sessions": _CLIENTS, "tokens": _CLIENTS}
    return McpScenario(
        key,
        title,
        (
            Variant("agw", job=logged | guard, **common),  # type: ignore[arg-type]
            Variant("agw-none", job=logged, **common),  # type: ignore[arg-type]
            Variant("nginx", "nginx", logged, **common),  # type: ignore[arg-type]
            Variant("nginx-no-log", "nginx", {"targets": 2}, **common),  # type: ignore[arg-type]
            *more,
        ),
        (
            Limit("agw", "cpu_us", 1.25, "nginx", "CPU per request, x nginx (both with access log)"),
            Limit("agw", "cpu_us", 1.25, "nginx-no-log", "the same, x nginx without access log"),
            Limit("agw", "cpu_user_us", 2.5, "agw-none", "user CPU us more than without policies", difference=True),
        ),
        keep=True,
    )


def _counted(key: str, title: str, *variants: tuple[str, str, dict[str, object]]) -> McpScenario:
    """Instructions instead of time: 1 % is less than the noise of CPU time. A token per request differs from the one before."""
    logged = {"targets": 2, "access_log": True}
    return McpScenario(
        key,
        title,
        tuple(
            Variant(name, "agw-counted", logged | job, what, sessions=8, tokens=8, connections=1) for name, what, job in variants
        ),
        (Limit("beside", "instructions", 1.01, "alone", "instructions without policies, guarded routes beside it x none"),),
        kind=Kind.INSTRUCTIONS,
        rounds=1,
    )


SCENARIOS: tuple[McpScenario, ...] = (
    _calls(
        "security_jwt_rules_limit",
        "tools/call in sessions, 2 targets federated: RS256 (known tokens), 3 rules, limit per user; metrics and access log",
        "call",
        "mcp",
    ),
    _calls("security_modern", "the same, tools/call of 2026-07-28", "modern", "mcp"),
    _calls("security_all", "in sessions, with 3 HTTP rules besides", "call", "mcp-http"),
    _calls("security_http_jwt", "POST through an HTTP route: RS256 (known tokens), 3 HTTP rules, limit per user", "http", "http"),
    _counted(
        "security_none",
        "tools/call through a route without policies, alone and with guarded routes beside it; and through a guarded one",
        ("alone", "call", {}),
        ("beside", "call", {"beside": "http"}),
        ("guarded", "call", {"policies": "mcp"}),
    ),
    _counted(
        "security_none_http",
        "the same, POST through an HTTP route",
        ("alone", "http", {}),
        ("beside", "http", {"policies": "mcp"}),
        ("guarded", "http", {"beside": "http"}),
    ),
    McpScenario(
        "jwt_cold",
        "an RS256 token seen for the first time, against known ones",
        (
            Variant("cold", job={"beside": "jwt"}, what="http", tokens=1),
            Variant("warm", job={"beside": "jwt"}, what="http", tokens=_CLIENTS),
        ),
        (Limit("cold", "cpu_us", 100, "warm", "CPU us of one verification", difference=True),),
        kind=Kind.COLD,
        keep=True,
    ),
    McpScenario(
        "jwt_100000",
        "100,000 valid tokens one after another, twice; 10,000 are remembered",
        (Variant("agw", job={"beside": "jwt"}, what="http", tokens=1, held=100_000),),
        (Limit("agw", "growth_mib", 2, text="MiB of growth from 20,000 tokens to the end of the second pass"),),
        kind=Kind.TOKENS,
        rounds=1,
    ),
    McpScenario(
        "limits_saturation",
        "5,000 requests per second admitted, many more sent: 1 key and 50, 2 and 4 workers; one killed, a reload",
        (
            Variant("2-workers-1-key", job={"beside": "shared", "workers": 2}, tokens=1),
            Variant("2-workers-50-keys", job={"beside": "keyed", "workers": 2}, tokens=50),
            Variant("4-workers-1-key", job={"beside": "shared", "workers": 4}, tokens=1),
            Variant("4-workers-50-keys", job={"beside": "keyed", "workers": 4}, tokens=50),
            Variant("2-workers-killed", job={"beside": "keyed", "workers": 2}, tokens=50, disturbance="kill"),
            Variant("2-workers-reload", job={"beside": "keyed", "workers": 2}, tokens=50, disturbance="reload"),
        ),
        tuple(
            Limit(name, "off", 0.01, text=f"|admitted / exact - 1|, {name}")
            for name in (
                "2-workers-1-key", "2-workers-50-keys", "4-workers-1-key", "4-workers-50-keys", "2-workers-killed", "2-workers-reload",
            )
        ),
        kind=Kind.SATURATION,
        rounds=1,
    ),
    McpScenario(
        "limits_keys_1m",
        "1,000,000 keys that spend their whole bucket, then ask once more",
        (Variant("table", "direct"),),
        (
            Limit("table", "mapping_mib", 64, text="MiB of the mapping"),
            Limit("table", "excess", 0.001, text="share admitted too much (docs/limits.md)"),
        ),
        kind=Kind.KEYS,
        rounds=1,
    ),
)
QUICK = frozenset(scenario.key for scenario in SCENARIOS) - {"security_all", "security_http_jwt", "security_none_http"}
