"""Rules, csrf and sources of the file: what reaches the plan, what is refused with which place, what is a warning."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import pytest

from agw.config import ConfigErrors, Loaded, load_bytes
from agw.runtime.plan import PolicyPlan
from agw.runtime.plan_security import CsrfPlan, RulePlan, RulesPlan, SourcesPlan

REFERENCE = os.environ.get("AGW_REFERENCE", "")
GATEWAY = "gateways: {default: {port: 3000}}\n"


def load(text: str) -> Loaded:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", {})


def policies(text: str) -> PolicyPlan:
    """The policies of a route that has these."""
    head = GATEWAY + "routes:\n- backends: [{mcp: {targets: [{name: a, mcp: {host: 'http://h:1/mcp'}}]}}]\n  policies:\n"
    return load(head + textwrap.indent(textwrap.dedent(text), "    ")).plan.routes[0].policies


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        policies(text)
    return [f"{item.path}: {item.text}" for item in caught.value.problems]


def test_rules_reach_the_plan() -> None:
    found = policies(
        """
        authorization:
          rules:
          - request.path == "/a"
          - {deny: 'jwt.sub == "x"'}
        mcpAuthorization:
          rules:
          - 'mcp.tool.name == "echo"'
          - require: has(jwt.sub)
        """
    )
    place = "routes[0].policies.authorization.rules"
    assert found.authorization == RulesPlan(
        "http", [RulePlan('request.path == "/a"', "allow", f"{place}[0]"), RulePlan('jwt.sub == "x"', "deny", f"{place}[1].deny")]
    )
    assert found.mcp_authorization is not None
    assert (found.mcp_authorization.phase, [rule.effect for rule in found.mcp_authorization.rules]) == ("mcp", ["allow", "require"])


def test_rules_of_gateway_listener_and_the_older_form() -> None:
    text = "gateways: {default: {port: 1, authorization: {rules: ['true']}, sources: {deny: [10.0.0.0/8]}, %s}}\nroutes: [{backends: [{host: 'h:1'}]}]"
    (route,) = load(text % "").plan.routes
    assert route.policies.authorization is not None
    assert route.policies.sources == SourcesPlan([], ["10.0.0.0/8"])
    (route,) = load(text % "listeners: [{authorization: {rules: ['false || true']}}]").plan.routes
    assert route.policies.authorization is not None
    assert [rule.expression for rule in route.policies.authorization.rules] == ["false || true"]
    older = "binds: [{port: 1, listeners: [{policies: {authorization: {rules: ['true']}}, routes: [{backends: [{host: 'h:1'}]}]}]}]"
    assert load(older).plan.routes[0].policies.authorization is not None


def test_rules_about_connections() -> None:
    text = "frontendPolicies: {networkAuthorization: {rules: ['cidr(\"10.0.0.0/8\").containsIP(source.address)']}}\n" + GATEWAY
    found = load(text).plan.network_rules
    assert found is not None
    assert found.phase == "network"
    assert load(GATEWAY).plan.network_rules is None
    with pytest.raises(ConfigErrors, match=r"networkAuthorization.rules\[0\]: `request.path` is not known in this place; there are env, now, source"):
        load("frontendPolicies: {networkAuthorization: {rules: ['request.path == \"/\"']}}")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("'jwt.sub == \"a\" && foo'", "rules[0]: there is no `foo` (line 1, column 19 of the expression)"),
        ("{deny: mcp.tol.name}", "rules[0].deny: there is no `mcp.tol.name`; did you mean `mcp.tool.name`? (line 1, column 8 of the expression)"),
        (
            "{require: 'mcp.tool.name > 3'}",
            "rules[0].require: found no matching overload for '_>_' applied to '(string, int)' (line 1, column 15 of the expression)",
        ),
        ("mcp.tool.name", "rules[0]: the rule gives string, not true or false; compare it with something"),
        ("''", "rules[0]: the expression is empty (line 1, column 1 of the expression)"),
        ("{}", "rules[0]: nothing chosen; give one of `allow`, `deny`, `require`"),
        ("{allow: 'true', deny: 'true'}", "rules[0]: `allow` and `deny` exclude each other; keep one of `allow`, `deny`, `require`"),
            ("'random() > 0.5'", "rules[0]: `random` is not available: a rule must decide the same way twice (line 1, column 7 of the expression)"),
    ],
)
def test_what_is_wrong_in_a_rule_is_told_with_its_place(rule: str, expected: str) -> None:
    assert problems(f"mcpAuthorization: {{rules: [{rule}]}}") == [f"routes[0].policies.mcpAuthorization.{expected}"]


def test_every_fault_is_listed_with_the_line_of_the_file() -> None:
    rules = "      rules:\n      - |\n        foo == 1 &&\n        bar == 2\n      - {deny: baz}\n"
    with pytest.raises(ConfigErrors) as caught:
        load(GATEWAY + "routes:\n- policies:\n    authorization:\n" + rules)
    found = sorted((item.line, item.text) for item in caught.value.problems)
    assert found == [
        (6, "there is no `bar` (line 2, column 1 of the expression)"),
        (6, "there is no `foo` (line 1, column 1 of the expression)"),
        (9, "there is no `baz` (line 1, column 1 of the expression)"),
    ]


def warnings(text: str) -> list[str]:
    loaded = load(GATEWAY + "routes:\n- backends: [{mcp: {targets: [{name: a, mcp: {host: 'http://h:1/mcp'}}]}}]\n  policies: " + text)
    return [f"{item.path.removeprefix('routes[0].policies.')}: {item.text}" for item in loaded.warnings]


def test_rules_that_decide_nothing_are_warnings() -> None:
    assert warnings("{authorization: {rules: []}}") == ["authorization.rules: no rule, so everything is allowed; add one, or remove the policy"]
    (found,) = warnings("{authorization: {rules: ['1 == 2 && request.path == \"/\"']}}")
    assert found.startswith("authorization.rules[0]: the rule is false whatever is asked, so it can never match")
    (found,) = warnings("{mcpAuthorization: {rules: [{deny: 'mcp.tool.name == \"a\"'}, {deny: 'mcp.tool.name  == \"a\"'}]}}")
    assert found == "mcpAuthorization.rules[1].deny: the same rule as number 1; remove one"


def test_csrf_and_sources() -> None:
    assert policies("csrf: {}").csrf == CsrfPlan()
    assert policies("csrf: {additionalOrigins: ['https://A.example']}").csrf == CsrfPlan(["https://a.example"])
    assert policies("sources: {allow: [10.0.0.0/8, '2001:db8::1']}").sources == SourcesPlan(["10.0.0.0/8", "2001:db8::1"])
    assert "no single origin" in problems("csrf: {additionalOrigins: ['https://*.example']}")[0]
    assert "no origin" in problems("csrf: {additionalOrigins: [a.example]}")[0]
    assert "sources.deny[1]: " in problems("sources: {deny: [10.0.0.0/8, 10.0.0.0/33]}")[0]
    assert warnings("{sources: {}}") == ["sources: neither allow nor deny, so every address may come; add one, or remove the policy"]


_MCP = "{name: %s, mcp: {targets: [{name: t, mcp: {host: 'http://h:1'}}]}, policies: {mcpAuthorization: {rules: ['%s']}}}"


def test_rules_of_an_mcp_backend_are_those_of_its_routes() -> None:
    text = GATEWAY + "backends: [%s, %s]\n" % (_MCP % ("a", "true"), _MCP % ("b", "false || true"))  # noqa: UP031 - braces of YAML
    (route,) = load(text + "routes: [{backends: [{backend: a}], policies: {mcpAuthorization: {rules: ['1 == 1']}}}]").plan.routes
    assert route.policies.mcp_authorization is not None
    assert [rule.expression for rule in route.policies.mcp_authorization.rules] == ["true"]
    assert route.backends[0].policies is None
    with pytest.raises(ConfigErrors, match="different mcpAuthorization"):
        load(text + "routes: [{backends: [{backend: a}, {backend: b}]}]")


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE is not set")
def test_the_rules_of_the_examples_compile() -> None:
    import yaml

    from agw.security import cel

    found = 0

    def walk(node: object, phase: str) -> None:
        nonlocal found
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("authorization", "mcpAuthorization") and isinstance(value, dict) and "rules" in value:
                    for rule in value["rules"]:
                        text = rule if isinstance(rule, str) else next(iter(rule.values()))
                        assert cel.compile(text, "mcp" if key == "mcpAuthorization" else "http")
                        found += 1
                walk(value, phase)
        if isinstance(node, list):
            for item in node:
                walk(item, phase)

    for file in (Path(REFERENCE) / "agentgateway-examples").glob("**/*.yaml"):
        for document in yaml.safe_load_all(file.read_text()):
            walk(document, "http")
    assert found >= 4


@pytest.mark.parametrize(
    ("policy", "name"),
    [
        ("mcpAuthorization: {rules: ['true']}", "mcpAuthorization"),
        ("localRateLimit: [{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, phase: mcp}]", "localRateLimit with phase mcp"),
        ("mcpAuthentication: {issuer: 'https://i', audiences: [a], jwks: {url: 'https://i/k'}, toolScopes: {x: [y]}, resourceMetadata: {}}",
         "mcpAuthentication.toolScopes"),
    ],
    ids=["rules", "limits", "scopes"],
)  # fmt: skip
def test_rules_for_messages_where_nobody_reads_messages_are_a_problem(policy: str, name: str) -> None:
    """They would look as if they held, and let everything pass."""
    mcp = "mcp: {targets: [{name: a, mcp: {host: 'http://h:1/mcp'}}]}"
    for backends in ("{host: 'h:1'}", f"{{{mcp}}}, {{host: 'h:1'}}"):
        with pytest.raises(ConfigErrors) as caught:
            load(f"{GATEWAY}routes: [{{backends: [{backends}], policies: {{{policy}}}}}]")
        assert [str(item.path) for item in caught.value.problems] == ["routes[0].backends"]
        assert caught.value.problems[0].text.startswith(f"{name} of this route is about messages of MCP")
    assert load(f"{GATEWAY}routes: [{{backends: [{{{mcp}}}], policies: {{{policy}}}}}]").plan.routes
