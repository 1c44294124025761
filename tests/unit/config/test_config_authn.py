"""Authentication in the file: what reaches the plan, what inherits from where, and what is said about mistakes."""

from __future__ import annotations

import hashlib
import json
import textwrap
from pathlib import Path

import pytest

from agw.config import ConfigErrors, Loaded, load_bytes
from agw.config.redact import redacted
from agw.runtime.plan import PolicyPlan
from agw.runtime.plan_security import (
    ApiKeyEntry,
    ApiKeyPlan,
    BasicPlan,
    DocumentPlan,
    IntrospectionPlan,
    JwtPlan,
    JwtProviderPlan,
    LocationPlan,
)
from tests.kits.tokens import jwks, signer

KEYS = jwks(signer("P-256"))
SHA = "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="
HEAD = "gateways: {default: {port: 3000}}\n"


def load(text: str) -> Loaded:
    return load_bytes(textwrap.dedent(text).replace("KEYS", json.dumps(json.dumps(json.loads(KEYS)))).encode(), "f.yaml", {})


def route(policies: str) -> tuple[PolicyPlan, list[str]]:
    """The policies of a route, and the warnings about them."""
    loaded = load(HEAD + "routes:\n- backends: [{host: a:1}]\n  policies:\n" + textwrap.indent(textwrap.dedent(policies), "    "))
    return loaded.plan.routes[0].policies, [f"{item.path}: {item.text}".removeprefix("routes[0].policies.") for item in loaded.warnings]


def problems(policies: str) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        route(policies)
    assert all(item.line for item in caught.value.problems)
    return [f"{item.path}: {item.text}".removeprefix("routes[0].policies.") for item in caught.value.problems]


PROVIDER = "{issuer: j, audiences: [a], jwks: KEYS}"
JWT = "{mode: strict, issuer: i, audiences: [a], jwks: KEYS}"


def test_jwt_of_one_issuer() -> None:
    policies, warnings = route(f"jwtAuth: {JWT}")
    assert warnings == []
    assert policies.jwt == JwtPlan([JwtProviderPlan("i", ["a"], json.dumps(json.loads(KEYS)))])


def test_jwt_with_every_option() -> None:
    policies, _ = route("""
        jwtAuth:
          mode: permissive
          location: {header: {name: X-Token, prefix: "Token "}}
          providers:
          - {issuer: i, audiences: [a, b], jwks: KEYS, algorithms: [ES256], leeway: 5s, jwtValidationOptions: {requiredClaims: [exp, sub]}}
          - {issuer: j, audiences: [a], jwks: {url: "https://j.example/keys"}}
    """)
    keys = json.dumps(json.loads(KEYS))
    assert policies.jwt == JwtPlan(
        [
            JwtProviderPlan("i", ["a", "b"], keys, "", ["ES256"], ["exp", "sub"], 5),
            JwtProviderPlan("j", ["a"], "", "https://j.example/keys"),
        ],
        "permissive",
        LocationPlan("header", "x-token", "Token "),
    )


def test_keys_in_a_file_and_behind_a_url(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEYS)
    policies, _ = route(f"jwtAuth: {{mode: strict, issuer: i, audiences: [a], jwks: {{file: {tmp_path}/keys}}}}")
    assert policies.jwt is not None
    assert policies.jwt.providers[0].jwks == KEYS
    auth = "{mode: strict, issuer: i, audiences: [a], jwks: {url: 'https://i.example/k'}}"
    loaded = load(HEAD + f"routes: [{{policies: {{jwtAuth: {auth}}}, backends: [{{host: a:1}}]}}]")
    assert loaded.plan.documents == [DocumentPlan("https://i.example/k")]


def test_without_mode_it_is_strict_and_says_so() -> None:
    policies, warnings = route(f"""
        jwtAuth: {{issuer: i, audiences: [a], jwks: KEYS}}
        apiKey: {{keys: [{{key: 0123456789abcdef}}]}}
        basicAuth: {{htpasswd: "a:{SHA}"}}
        tokenIntrospection: {{url: "https://i.example/x", audiences: [a]}}
    """)
    assert policies.jwt is not None
    assert policies.api_key is not None
    assert policies.basic is not None
    assert policies.introspection is not None
    assert {policies.jwt.mode, policies.api_key.mode, policies.basic.mode, policies.introspection.mode} == {"strict"}
    said = [item.partition(":")[0] for item in warnings if "it is strict" in item]
    assert said == ["jwtAuth", "apiKey", "basicAuth", "tokenIntrospection"]


def test_api_keys() -> None:
    hashed = hashlib.sha256(b"other").hexdigest()
    policies, warnings = route(f"""
        apiKey:
          mode: optional
          location: {{queryParameter: {{name: key}}}}
          keys:
          - {{key: 0123456789abcdef, metadata: {{name: One, tags: [a, 1, null], nested: {{deep: true}}}}}}
          - {{keyHash: "sha256:{hashed.upper()}"}}
    """)
    one = ApiKeyEntry(hashlib.sha256(b"0123456789abcdef").hexdigest(), '{"name":"One","tags":["a",1,null],"nested":{"deep":true}}')
    assert policies.api_key == ApiKeyPlan([one, ApiKeyEntry(hashed)], "optional", LocationPlan("query", "key", ""))
    assert len(warnings) == 1
    assert "a query is written to logs" in warnings[0]


def test_basic(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"alice:{SHA}\n")
    for where in (f'"alice:{SHA}"', f"{{file: {tmp_path}/users}}"):
        policies, warnings = route(f"basicAuth: {{mode: strict, realm: Agents, htpasswd: {where}, authorizationLocation: {{cookie: {{name: login}}}}}}")
        assert policies.basic == BasicPlan([("alice", SHA)], "Agents", "strict", LocationPlan("cookie", "login", ""))
        assert ["1 of 1 hashes are apr1 or {SHA}" in item for item in warnings] == [True]


def test_introspection() -> None:
    loaded = load(HEAD + textwrap.dedent("""
        routes:
        - backends: [{host: a:1}]
          policies:
            tokenIntrospection:
              {mode: strict, url: "https://i.example/x?y=1", clientId: c, clientSecret: s, issuer: i, audiences: [a], cacheTtl: 5s, timeout: 2s, maxEntries: 7}
    """))
    plan = loaded.plan.routes[0].policies.introspection
    assert isinstance(plan, IntrospectionPlan)
    assert (plan.call.path, plan.call.timeout_ns, plan.ttl_ns, plan.max_entries) == ("/x?y=1", 2 * 10**9, 5 * 10**9, 7)
    assert (plan.client_id, plan.client_secret, plan.issuer, plan.audiences) == ("c", "s", "i", ["a"])
    cluster = loaded.plan.clusters[plan.call.cluster]
    assert cluster.tls is not None


def test_routes_inherit_from_gateways_and_listeners_as_a_whole() -> None:
    def keys(name: str) -> str:
        return f"{{mode: strict, keys: [{{key: {name}-0123456789abc}}]}}"

    loaded = load(f"""
        gateways:
          default:
            port: 3000
            apiKey: {keys("gateway")}
            listeners:
            - {{name: a, hostname: a.example}}
            - {{name: b, hostname: b.example, apiKey: {keys("listener")}, jwtAuth: {JWT}}}
        binds:
        - port: 3001
          listeners:
          - policies: {{basicAuth: {{mode: strict, htpasswd: "a:{SHA}"}}}}
            routes: [{{backends: [{{host: a:1}}]}}]
        routes:
        - {{name: plain, backends: [{{host: a:1}}]}}
        - {{name: own, matches: [{{path: {{exact: /own}}}}], policies: {{apiKey: {keys("route")}}}, backends: [{{host: a:1}}]}}
        policies:
        - name: {{name: more}}
          phase: gateway
          target: {{gateway: {{gatewayName: default, listenerName: a}}}}
          policy: {{tokenIntrospection: {{mode: strict, url: "https://i.example/", audiences: [a]}}}}
    """)
    found = {}
    for bind in loaded.plan.binds:
        for listener in bind.listeners:
            for index in listener.routes:
                item = loaded.plan.routes[index]
                key = item.policies.api_key.keys[0].sha256 if item.policies.api_key else ""
                name = next((word for word in ("gateway", "listener", "route") if hashlib.sha256(f"{word}-0123456789abc".encode()).hexdigest() == key), "")
                others = [field for field in ("jwt", "introspection", "basic") if getattr(item.policies, field) is not None]
                found[listener.hostname, item.name] = (name, others)
    assert found == {
        ("a.example", "plain"): ("gateway", ["introspection"]),
        ("a.example", "own"): ("route", ["introspection"]),
        ("b.example", "plain"): ("listener", ["jwt"]),
        ("b.example", "own"): ("route", ["jwt"]),
        ("", "route0"): ("", ["basic"]),
    }


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("jwtAuth: {mode: strict}", "jwtAuth: give `issuer` and `jwks`"),
        ("jwtAuth: {mode: strict, issuer: i}", "jwtAuth: give `jwks`"),
        ("jwtAuth: {mode: strict, providers: []}", "jwtAuth.providers: no provider"),
        ("jwtAuth: {mode: strict, issuer: i, providers: [{issuer: j, audiences: [a], jwks: KEYS}]}", "jwtAuth.issuer: `issuer` and `providers` exclude"),
        (f"jwtAuth: {{mode: strict, providers: [{PROVIDER}, {PROVIDER}]}}", "[1].issuer: the issuer is that of"),
        ("jwtAuth: {mode: strict, issuer: '', audiences: [a], jwks: KEYS}", "jwtAuth.issuer: the issuer is empty"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: '{}'}", "jwtAuth.jwks: none of the 1 keys can verify"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: 'x'}", "jwtAuth.jwks: the key set is not JSON"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: {file: /nowhere}}", "jwtAuth.jwks.file: cannot read"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: {url: 'ftp://x'}}", "jwtAuth.jwks.url: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: {}}", "jwtAuth.jwks: nothing chosen"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, leeway: 11m}", "jwtAuth.leeway: more than ten minutes"),
        ("jwtAuth: {mode: lax, issuer: i, audiences: [a], jwks: KEYS}", "jwtAuth.mode: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, algorithms: [none]}", "jwtAuth.algorithms[0]: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {expression: x}}", "location.expression: there is no `x`"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {header: {name: host}}}", "location.header.name: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {header: {name: cookie}}}", "write location.cookie"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {header: {name: a, prefix: ' x'}}}", "location.header.prefix: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {header: {name: a}, cookie: {name: a}}}", "exclude each other"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {cookie: {name: 'a b'}}}", "location.cookie.name: "),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, location: {queryParameter: {name: ''}}}", "location.queryParameter.name: "),
        ("apiKey: {mode: strict, keys: []}", "apiKey.keys: no key"),
        ("apiKey: {mode: strict, keys: [{}]}", "apiKey.keys[0]: nothing chosen"),
        ("apiKey: {mode: strict, keys: [{key: a, keyHash: b}]}", "exclude each other"),
        ("apiKey: {mode: strict, keys: [{key: 'a b'}]}", "apiKey.keys[0].key: a key has"),
        ("apiKey: {mode: strict, keys: [{keyHash: abc}]}", "apiKey.keys[0].keyHash: not `sha256:`"),
        ("apiKey: {mode: strict, keys: [{key: 0123456789abcdefg}, {key: 0123456789abcdefg}]}", "apiKey.keys[1]: the same key as routes[0]"),
        ("apiKey: {mode: strict, keys: [{key: abcdefghijklmnopq, metadata: [1]}]}", "apiKey.keys[0].metadata: "),
        ("apiKey: {mode: strict, keys: [{key: abcdefghijklmnopq, allowedModels: []}]}", "not implemented yet"),
        ("basicAuth: {mode: strict, htpasswd: 'alice:secret'}", "basicAuth.htpasswd: line 1 has no bcrypt hash"),
        ("basicAuth: {mode: strict, htpasswd: ''}", "basicAuth.htpasswd: no user"),
        ("basicAuth: {mode: strict, htpasswd: {file: /nowhere}}", "basicAuth.htpasswd.file: cannot read"),
        (f"basicAuth: {{mode: strict, htpasswd: 'a:{SHA}', realm: 'a\\nb\u00e9'}}", "basicAuth.realm: "),
        ("tokenIntrospection: {mode: strict, url: 'x', audiences: [a]}", "tokenIntrospection.url: "),
        ("tokenIntrospection: {mode: strict, url: 'https://x/', audiences: [a], clientSecret: s}", "a secret without `clientId`"),
        ("tokenIntrospection: {mode: strict, url: 'https://x/', audiences: [a], cacheTtl: '0'}", "tokenIntrospection.cacheTtl: "),
    ],
    ids=lambda text: text[:70],
)
def test_mistakes(policies: str, expected: str) -> None:
    found = problems(policies)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ("jwtAuth: {mode: strict, issuer: i, jwks: KEYS}", "jwtAuth: no `audiences`"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: KEYS, jwtValidationOptions: {requiredClaims: []}}", "tokens without `exp` never end"),
        ("jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: {url: 'http://i.example/k'}}", "jwtAuth.jwks.url: who can change what comes over http://"),
        ("apiKey: {mode: strict, keys: [{key: short}]}", "apiKey.keys[0].key: shorter than 16"),
        ("tokenIntrospection: {mode: strict, url: 'http://x.example/', audiences: [a]}", "tokenIntrospection.url: tokens and the client's secret"),
        ("tokenIntrospection: {mode: strict, url: 'https://x.example/'}", "tokenIntrospection: no `audiences`"),
    ],
    ids=lambda text: text[:70],
)
def test_weaknesses_are_warnings(policies: str, expected: str) -> None:
    _, warnings = route(policies)
    assert len(warnings) == 1, warnings
    assert expected in warnings[0]


def test_keys_that_are_left_out_are_a_warning() -> None:
    text = json.dumps({"keys": [*json.loads(KEYS)["keys"], {"kty": "RSA"}]})
    _, warnings = route(f"jwtAuth: {{mode: strict, issuer: i, audiences: [a], jwks: '{text}'}}")
    assert ["1 of 2 keys cannot verify tokens" in item for item in warnings] == [True]


def test_secrets_are_in_no_message_and_in_no_dump() -> None:
    with pytest.raises(ConfigErrors) as caught:
        route("""
            apiKey: {mode: strict, keys: [{key: "hunter2 hunter2"}, {keyHash: hunter2}]}
            basicAuth: {mode: strict, htpasswd: "hunter2"}
            jwtAuth: {mode: strict, issuer: i, audiences: [a], jwks: '{"kty":"oct","k":"hunter2"}'}
        """)
    assert len(caught.value.problems) == 4
    assert "hunter2" not in str(caught.value)
    loaded = load(HEAD + textwrap.dedent(f"""
        routes:
        - backends: [{{host: a:1}}]
          policies:
            apiKey: {{mode: strict, keys: [{{key: hunter2-hunter2-hunter2}}]}}
            basicAuth: {{mode: strict, htpasswd: "hunter2:{SHA}"}}
            tokenIntrospection: {{mode: strict, url: "https://x.example/", clientId: c, clientSecret: hunter2, audiences: [a]}}
            jwtAuth: {{mode: strict, issuer: i, audiences: [a], jwks: '{jwks(signer("oct", "hunter2"))}'}}
    """))
    assert "hunter2" not in json.dumps(redacted(loaded.document))
    assert "hunter2-hunter2" not in repr(loaded.plan)
