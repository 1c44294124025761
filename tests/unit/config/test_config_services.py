"""Services by name and under conditions, who may enter a backend, and warnings about rules that ask for what nobody finds out."""

from __future__ import annotations

import textwrap

import pytest

from agw.config import ConfigErrors, load_bytes
from agw.config.load import Loaded
from agw.runtime.gates import Gates, taken_off
from agw.runtime.plan import PolicyPlan

GATEWAY = "gateways: {default: {port: 3000}}\n"
BACKENDS = (
    "backends:\n- {name: one, host: 'authz.example:50051'}\n- {name: two, host: 'https://rl.example'}\n"
    "- {name: mcp, mcp: {targets: [{name: t, mcp: {host: 'http://t:1/mcp'}}]}}\n"
)
DESCRIPTORS = "domain: d, descriptors: [{entries: [{key: a, value: request.path}]}]"


def load(text: str) -> Loaded:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", {})


def route(policies: str) -> PolicyPlan:
    return load(f"{GATEWAY}{BACKENDS}routes: [{{backends: [{{host: 'h:1'}}], policies: {{{policies}}}}}]").plan.routes[0].policies


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text)
    return [f"{item.path}: {item.text}" for item in caught.value.problems]


def test_a_service_may_be_a_backend() -> None:
    (grpc,) = route("extAuthz: {backend: one}").ext_authz
    assert (grpc.host, grpc.port, grpc.tls, grpc.condition) == ("authz.example", 50051, False, "")
    (limit,) = route(f"remoteRateLimit: {{backend: two, {DESCRIPTORS}}}").remote_limits
    assert (limit.host, limit.port, limit.tls) == ("rl.example", 443, True)
    (limit,) = route(f"remoteRateLimit: {{host: 'rl:1', policies: {{backendTLS: {{}}}}, {DESCRIPTORS}}}").remote_limits
    assert (limit.host, limit.port, limit.tls) == ("rl", 1, True)


def test_the_tls_of_a_backend_is_that_of_the_service() -> None:
    text = (
        "{top}backends: [{{name: b, host: 'a.example:8443', policies: {{backendTLS: {{}}}}}}]\n"
        "routes: [{{backends: [{{host: 'h:1'}}], policies: {{extAuthz: {{backend: b, protocol: {{http: {{}}}}}}}}}}]\n"
    )
    plan = load(text.format(top=GATEWAY)).plan
    (made,) = plan.routes[0].policies.ext_authz
    assert made.call is not None and plan.clusters[made.call.cluster].tls is not None
    targeted = "policies: [{name: {name: p}, target: {backend: {backend: {name: b}}}, policy: {backendTLS: {}}}]\n"
    plan = load(text.format(top=GATEWAY + targeted).replace(", policies: {backendTLS: {}}}]\nroutes", "}]\nroutes")).plan
    (made,) = plan.routes[0].policies.ext_authz
    assert made.call is not None and plan.clusters[made.call.cluster].tls is not None


def test_services_under_conditions() -> None:
    found = route("extAuthz: {conditional: [{condition: 'request.path == \"/a\"', host: 'a:1'}, {backend: one}]}").ext_authz
    assert [(item.host, item.condition) for item in found] == [("a", 'request.path == "/a"'), ("authz.example", "")]
    entries = f"{{condition: has(jwt.sub), host: 'a:1', {DESCRIPTORS}}}, {{backend: two, {DESCRIPTORS}}}"
    limits = route(f"remoteRateLimit: {{conditional: [{entries}]}}").remote_limits
    assert [(item.host, item.condition) for item in limits] == [("a", "has(jwt.sub)"), ("rl.example", "")]


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        ("extAuthz: {backend: mcp}", "extAuthz.backend: \"mcp\" is no host"), ("extAuthz: {backend: none}", "no backend is named"),
        ("extAuthz: {conditional: [{condition: request.pth, host: 'a:1'}]}", "conditional[0].condition: there is no `request.pth`"),
        ("extAuthz: {conditional: [{condition: request.path, host: 'a:1'}]}", "conditional[0].condition: the rule gives string"),
        ("extAuthz: {host: 'b:1', conditional: [{host: 'a:1'}]}", "exclude each other"),
        (f"remoteRateLimit: {{conditional: [{{host: 'a:1', {DESCRIPTORS}}}], host: 'b:1', {DESCRIPTORS}}}", "exclude each other"),
        ("remoteRateLimit: {conditional: [{host: 'a:1', domain: d}]}", "conditional[0].descriptors: there must be"),
        ("localRateLimit: [{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, key: jwt.}]", "localRateLimit[0].key: Syntax error"),
        ("localRateLimit: [{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, key: mcp.tool.name}]", "localRateLimit[0].key: `mcp.tool.name` is not known"),
    ],
)  # fmt: skip
def test_problems(policies: str, text: str) -> None:
    found = problems(f"{GATEWAY}{BACKENDS}routes: [{{backends: [{{host: 'h:1'}}], policies: {{{policies}}}}}]")
    assert any(text in item for item in found), found


def test_what_hides_another_entry_is_a_warning() -> None:
    policies = "extAuthz: {conditional: [{host: 'a:1'}, {condition: 'true', host: 'b:1'}]}"
    loaded = load(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1'}}], policies: {{{policies}}}}}]")
    assert any("never reached" in item.text for item in loaded.warnings)


# --------------------------------------------------------------------------------------------------- of backends

AUTHORIZED = "policies: {authorization: {rules: [request.path == '/a']}, extAuthz: {host: 'a:1'}}"


def test_who_may_enter_a_backend_stands_behind_the_route() -> None:
    own = "policies: {authorization: {rules: ['true']}}"
    plan = load(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1', {AUTHORIZED}}}], {own}}}]").plan
    policies = plan.routes[0].policies
    assert policies.authorization is not None and policies.authorization.rules[0].expression == "true"
    assert policies.backend_authorization is not None and policies.backend_authorization.rules[0].expression == "request.path == '/a'"
    assert [item.host for item in policies.backend_ext_authz] == ["a"]
    assert plan.routes[0].backends[0].policies is None
    gate = Gates(plan.clusters).of(policies, plan.routes[0].backends)
    assert gate is not None


def test_named_backends_and_policies_on_them() -> None:
    targeted = "policies: [{name: {name: p}, target: {backend: {backend: {name: b}}}, policy: {authorization: {rules: ['false']}}}]\n"
    plan = load(f"{GATEWAY}{targeted}backends: [{{name: b, host: 'h:1'}}]\nroutes: [{{backends: [{{backend: b}}]}}, {{backends: [{{host: 'h:2'}}]}}]").plan
    assert [item.policies.backend_authorization is not None for item in plan.routes] == [True, False]


def test_backends_of_a_route_must_agree() -> None:
    found = problems(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1', {AUTHORIZED}}}, {{host: 'h:2'}}]}}]")
    assert [item.partition(":")[0] for item in found] == ["routes[0].backends"] * len(found) and len(found) == 2
    same = load(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1', {AUTHORIZED}}}, {{host: 'h:2', {AUTHORIZED}}}]}}]")
    assert same.plan.routes[0].policies.backend_authorization is not None


def test_a_backend_of_a_target_cannot_have_rules_of_its_own_unheard() -> None:
    targets = "{{name: a, mcp: {{backend: b}}}}, {{name: c, mcp: {{host: 'http://c:1'}}}}".format()
    backends = f"backends: [{{name: b, host: 'h:1', {AUTHORIZED}}}]\n"
    found = problems(f"{GATEWAY}{backends}routes: [{{backends: [{{mcp: {{targets: [{targets}]}}}}]}}]")
    assert any("targets[0]" in item and "authorization of its own" in item for item in found), found
    alone = load(f"{GATEWAY}{backends}routes: [{{backends: [{{mcp: {{targets: [{{name: a, mcp: {{backend: b}}}}]}}}}]}}]")
    assert alone.plan.routes[0].policies.backend_authorization is not None


# ------------------------------------------------------------------------------------------------------ strangers


@pytest.mark.parametrize(
    ("policies", "warned"),
    [
        ("authorization: {rules: ['jwt.sub == \"x\"']}", ["authorization asks for `jwt`"]),
        ("authorization: {rules: ['has(apiKey) && has(jwt.sub)', {deny: 'jwt.a == 1'}]}", ["authorization asks for `apiKey`", "authorization asks for `jwt`"]),
        ("authorization: {rules: ['request.path == \"/jwt\"']}", []),
        ("authorization: {rules: ['basicAuth.username == \"x\"']}, basicAuth: {mode: strict, htpasswd: 'x:{SHA}fEqNCco3Yq9h5ZUglD3CZJT4lBs='}", []),
        ("authorization: {rules: ['basicAuth.username == \"x\"']}", ["authorization asks for `basicAuth`"]),
        ("localRateLimit: [{maxTokens: 1, tokensPerFill: 1, fillInterval: 1s, key: apiKey.user}]", ["localRateLimit asks for `apiKey`"]),
        ("remoteRateLimit: {host: 'a:1', domain: d, descriptors: [{entries: [{key: a, value: extauthz.user}]}]}", ["remoteRateLimit asks for `extauthz`"]),
        ("authorization: {rules: ['extauthz.user == \"x\"']}, extAuthz: {host: 'a:1'}", []),
    ],
)  # fmt: skip
def test_rules_about_what_nobody_finds_out(policies: str, warned: list[str]) -> None:
    loaded = load(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1'}}], policies: {{{policies}}}}}]")
    assert [item.text.partition(",")[0] for item in loaded.warnings if "asks for" in item.text] == warned


def test_a_listener_may_find_it_out() -> None:
    keys = "apiKey: {mode: strict, keys: [{key: abcdefghijklmnopqrstuvwxyz}]}"
    route = "{backends: [{host: 'h:1'}], policies: {authorization: {rules: [has(apiKey.a)]}}}"
    loaded = load(f"gateways: {{default: {{port: 3000, {keys}}}}}\nroutes: [{route}]")
    assert loaded.warnings == []


# ------------------------------------------------------------------------------------------------------ locations

KEYS = "apiKey: {mode: strict, keys: [{key: abcdefghijklmnopqrstuvwxyz}], location: %s}"


def test_a_credential_by_an_expression_is_taken_off_the_headers_it_looks_at() -> None:
    policies = route(KEYS % """{expression: 'request.headers["X-Auth"].substring(4)'}""")
    assert policies.api_key is not None
    assert (policies.api_key.location.kind, policies.api_key.location.headers) == ("expression", ["x-auth"])
    assert [(place.kind, place.name) for place in taken_off(policies, PolicyPlan())] == [("header", "x-auth")]
    gate = Gates([]).of(policies, [])
    assert gate is not None and gate.headers == (b"x-auth",) and not gate.elsewhere


@pytest.mark.parametrize(
    ("policies", "text"),
    [
        (KEYS % "{expression: request.path}", "at headers that it names and at nothing else"), (KEYS % "{expression: \"'x'\"}", "at headers that it names"),
        (KEYS % "{expression: 'request.headers.cookie(\"a\")'}", "at headers that it names"),
        (KEYS % """{expression: 'request.headers["cookie"]'}""", "at headers that it names"),
        (KEYS % """{expression: 'request.headers["x"] == "a"'}""", "gives bool"), (KEYS % "{expression: 'request.hd'}", "there is no `request.hd`"),
        (KEYS % """{expression: 'request.headers["host"]'}""", "written by agw itself"),
        ("backendAuth: {passthrough: {location: {expression: '\"a\"'}}}", "cannot put one anywhere"),
    ],
)  # fmt: skip
def test_problems_of_locations(policies: str, text: str) -> None:
    found = problems(f"{GATEWAY}routes: [{{backends: [{{host: 'h:1'}}], policies: {{{policies}}}}}]")
    assert any(text in item for item in found), found
