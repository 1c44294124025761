"""`extAuthz`, `oidc` and `config.adminAuth` in the file."""

from __future__ import annotations

import hashlib
import json
import os
import textwrap
from pathlib import Path

import pytest

from agw.config import ConfigErrors, Loaded, load_bytes, redacted
from agw.runtime.plan import ClusterPlan, Plan
from agw.runtime.plan_security import AdminAuthPlan, AdminTokenPlan, ExtAuthzPlan, OidcPlan
from agw.supervisor.keys import with_cookie_keys

GATEWAY = "gateways: {default: {port: 3000}}\n"
REFERENCE = os.environ.get("AGW_REFERENCE", "")
TOKEN = hashlib.sha256(b"token").hexdigest()


def load(text: str, environ: dict[str, str] | None = None) -> Loaded:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", environ or {})


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigErrors) as caught:
        load(text, environ)
    return [f"{item.path}: {item.text}" for item in caught.value.problems]


def route(policy: str, **options: str) -> str:
    return f"{GATEWAY}routes: [{{name: r, backends: [{{host: 'localhost:1'}}], policies: {{{policy}}}}}]\n"


def authz(policy: str) -> tuple[ExtAuthzPlan, list[ClusterPlan]]:
    plan = load(route(f"extAuthz: {policy}")).plan
    (made,) = plan.routes[0].policies.ext_authz
    return made, plan.clusters


# --------------------------------------------------------------------------------------------------------- extAuthz


def test_grpc_is_the_default() -> None:
    made, _ = authz("{host: 'authz.example:9000'}")
    assert made == ExtAuthzPlan(host="authz.example", port=9000)
    made, _ = authz("{host: 'unix:/run/a.sock', protocol: {grpc: {context: {a: b}, metadata: {m: jwt.sub}}}}")
    assert (made.host, made.context, made.metadata_cel) == ("unix:/run/a.sock", {"a": "b"}, {"m": "jwt.sub"})
    assert authz("{host: 'https://authz.example'}")[0].tls
    assert authz("{host: 'authz.example:443', policies: {backendTLS: {}}}")[0].tls


def test_http_with_everything() -> None:
    made, clusters = authz(
        """{host: 'http://localhost:4180', timeout: 3s, failureMode: {denyWithStatus: 503}, includeRequestHeaders: [Cookie],
            cache: {key: ['request.path'], ttl: '"5m"', maxEntries: 7},
            protocol: {http: {path: '"/auth"', redirect: '"/login?rd=" + request.path', body: '"b"', includeResponseHeaders: [X-User],
              addRequestHeaders: {X-Host: request.host, ':authority': '"other.local"', ':method': '"POST"'}, metadata: {u: 'response.headers["x"]'}}}}"""
    )
    assert made.call is not None and made.call.timeout_ns == made.timeout_ns == 3_000_000_000
    cluster = clusters[made.call.cluster]
    assert (cluster.host, cluster.port, cluster.authority, cluster.tls) == ("localhost", 4180, "other.local", None)
    assert made == ExtAuthzPlan(
        protocol="http", call=made.call, timeout_ns=3_000_000_000, on_failure=503, include_headers=["cookie"],
        cache_key_cel=["request.path"], cache_ttl_cel='"5m"', cache_entries=7, path_cel='"/auth"', redirect_cel='"/login?rd=" + request.path', body_cel='"b"',
        response_headers=["x-user"], add_headers_cel={"x-host": "request.host", ":method": '"POST"'}, metadata_cel={"u": 'response.headers["x"]'},
    )  # fmt: skip


def test_allowing_on_failure_is_told() -> None:
    loaded = load(route("extAuthz: {host: 'a:1', failureMode: allow}"))
    assert loaded.plan.routes[0].policies.ext_authz[0].on_failure == 0
    assert any("can make the service fail" in item.text for item in loaded.warnings)


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        ("{}", "extAuthz: nothing chosen; give one of `host`, `service`, `backend`"), ("{backend: b}", "extAuthz.backend: no backend is named"),
        ("{service: {name: a, port: 1}}", "extAuthz.service: `service` is known"), ("{host: 'a:1', backend: b}", "exclude each other"),
        ("{conditional: []}", "extAuthz.conditional: 0 entries; there must be 1 to 64"), ("{host: a}", "has no port"),
        ("{host: 'a:1', failureMode: {denyWithStatus: 200}}", "200 is no refusal"), ("{host: 'a:1', failureMode: maybe}", "failureMode"),
        ("{host: 'a:1', protocol: {grpc: {}, http: {}}}", "exclude each other"),
        ("{host: 'a:1', protocol: {http: {path: ''}}}", "http.path: an empty expression"),
        ("{host: 'a:1', protocol: {http: {path: request.pth}}}", "(line 1, column"), ("{host: 'a:1', cache: {key: [x.y], ttl: '\"5m\"'}}", "cache.key[0]: "),
        ("{host: 'a:1', protocol: {http: {path: response.body}}}", "it is not known before the answer"),
        ("{host: 'a:1', protocol: {http: {addRequestHeaders: {':authority': request.host}}}}", "other than a text constant"),
        ("{host: 'a:1', protocol: {http: {addRequestHeaders: {':path': '\"/\"'}}}}", "`:path` here is known"),
        ("{host: 'a:1', protocol: {http: {includeResponseHeaders: [content-length]}}}", "written by agw itself"),
        ("{host: 'a:1', includeRequestHeaders: [':path'], protocol: {http: {}}}", "pseudo header"),
        ("{host: 'a:1', includeRequestHeaders: ['a b']}", "no header name"),
        ("{host: 'a:1', policies: {backendTLS: {insecure: true}}}", "for gRPC is known"), ("{host: 'a:1', timeout: 0s}", "cannot be switched off"),
        ("{host: 'a:1', policies: {http: {}}}", "`http` is known"),
    ],
)  # fmt: skip
def test_problems_of_ext_authz(policy: str, text: str) -> None:
    assert any(text in item for item in problems(route(f"extAuthz: {policy}"))), problems(route(f"extAuthz: {policy}"))


def test_the_most_specific_place_wins() -> None:
    plan = load(
        """
        gateways: {default: {port: 3000, extAuthz: {host: 'a:1'}, listeners: [{extAuthz: {host: 'b:1'}}]}}
        routes:
        - {name: one, matches: [{path: {exact: /1}}], backends: [{host: 'x:1'}]}
        - {name: two, matches: [{path: {exact: /2}}], backends: [{host: 'x:1'}], policies: {extAuthz: {host: 'c:1'}}}
        """
    ).plan
    assert [[item.host for item in item.policies.ext_authz] for item in plan.routes] == [["b"], ["c"]]


# ------------------------------------------------------------------------------------------------------------- oidc

OIDC = "issuer: 'https://id.example/realm', clientId: c, clientSecret: s3cret, redirectURI: 'https://app.example/oauth/callback'"


def login(more: str = "", environ: dict[str, str] | None = None) -> tuple[OidcPlan, Plan]:
    plan = load(route(f"oidc: {{{OIDC}{more}}}"), environ).plan
    made = plan.routes[0].policies.oidc
    assert made is not None
    return made, plan


def test_discovery_below_the_issuer() -> None:
    made, plan = login(", scopes: [email]")
    url = "https://id.example/realm/.well-known/openid-configuration"
    assert made.discovery_call is not None
    assert (plan.clusters[made.discovery_call.cluster].host, plan.clusters[made.discovery_call.cluster].port) == ("id.example", 443)
    assert made == OidcPlan(
        "https://id.example/realm", "c", "s3cret", "https://app.example/oauth/callback", ["email"], url, discovery_call=made.discovery_call,
    )  # fmt: skip
    assert [document.url for document in plan.documents] == [url]
    assert login(", discovery: {url: 'https://id.example/d'}")[0].discovery_url == "https://id.example/d"


KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "kid": "1"}


def test_everything_given_needs_no_discovery() -> None:
    jwks = json.dumps({"keys": [KEY]})
    endpoints = "authorizationEndpoint: 'https://id.example/a', tokenEndpoint: 'https://token.example:8443/t?x=1'"
    made, plan = login(f", {endpoints}, tokenEndpointAuth: clientSecretPost, jwks: '{jwks}'")
    assert (made.discovery_url, made.discovery_call, plan.documents, made.jwks, made.token_auth) == ("", None, [], jwks, "post")
    assert made.token_call is not None and made.token_call.path == "/t?x=1" and plan.clusters[made.token_call.cluster].port == 8443
    made, plan = login(", jwks: {url: 'https://keys.example/k'}")
    assert made.jwks_url == "https://keys.example/k" and len(plan.documents) == 2


def test_a_document_beside_the_file(tmp_path: Path) -> None:
    says = {"issuer": "https://id.example/realm", "authorization_endpoint": "https://a/", "token_endpoint": "https://t/", "jwks_uri": "https://k/"}
    file = tmp_path / "d.json"
    file.write_text(json.dumps(says))
    for more in (f", discovery: {{file: '{file}'}}", f", discovery: '{json.dumps(says)}'"):
        made, plan = login(more)
        assert (made.discovery_url, made.authorization_endpoint, made.token_endpoint, made.jwks_url) == ("", "https://a/", "https://t/", "https://k/")
        assert made.token_call is not None and plan.clusters[made.token_call.cluster].host == "t"
    file.write_text(json.dumps({**says, "issuer": "https://evil.example", "jwks_uri": 1}))
    found = problems(route(f"oidc: {{{OIDC}, discovery: {{file: '{file}'}}}}"))
    assert any("another issuer" in item for item in found) and any("no jwks_uri" in item for item in found)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (", redirectURI: /callback", "no URL"), (", redirectURI: 'https://app.example/cb?x=1'", "with a query"),
        (", redirectURI: 'https://app.example'", "no path of a callback"),
        (", redirectURI: 'https://app.example/a/../b'", "normal form"), (", issuer: 'ftp://id.example'", "no URL"),
        (", issuer: 'https://u@id.example'", "no URL"),
        (", scopes: ['a b']", "one per entry"), (", jwks: '{}'", "jwks"), (", discovery: 'x'", "no JSON object"),
        (", logoutPath: /oauth/callback", "another one"),
        (", tokenEndpoint: 'x'", "no URL"), (", sessionTtl: 1000h", "30 days"), (", clientId: ''", "is empty"), (", discovery: {}", "nothing chosen"),
    ],
)  # fmt: skip
def test_problems_of_oidc(more: str, text: str) -> None:
    fields = dict(part.strip().split(": ", 1) for part in OIDC.split(", "))
    key, _, value = more.removeprefix(", ").partition(": ")
    fields[key] = value
    policy = ", ".join(f"{name}: {item}" for name, item in fields.items())
    found = problems(route(f"oidc: {{{policy}}}"))
    assert any(text in item for item in found), found
    assert not any("s3cret" in item for item in found)


def test_plain_http_outside_is_told() -> None:
    text = route(f"oidc: {{{OIDC}}}").replace("https://app.example", "http://app.example")
    assert any("take over sessions" in item.text for item in load(text).warnings)
    text = route(f"oidc: {{{OIDC}}}").replace("https://app.example", "http://localhost:3000")
    assert not any("take over sessions" in item.text for item in load(text).warnings)


def test_cookie_keys() -> None:
    one, two = "ab" * 32, "cd" * 32
    assert login(environ={"OIDC_COOKIE_SECRET": one.upper()})[0].cookie_keys == [one]
    made, plan = login(environ={"OIDC_COOKIE_SECRET": f"{one}, {two}"})
    assert made.cookie_keys == [one, two] and with_cookie_keys(plan, ["ef" * 32]) is plan
    (problem,) = problems(route(f"oidc: {{{OIDC}}}"), {"OIDC_COOKIE_SECRET": "s3cret"})
    assert problem.startswith("$OIDC_COOKIE_SECRET: ") and "s3cret" not in problem
    _, plan = login()
    completed = [with_cookie_keys(plan, keys).routes[0].policies.oidc for keys in ([one, two], [two], [two])]
    keys = [item.cookie_keys for item in completed if item is not None]
    assert len(keys[0]) == 2 and keys[0][1:] == keys[1] == keys[2], "the same ring gives the same keys in every life"
    assert not {one, two} & {*keys[0]}, "a session key is no cookie key"


def test_secrets_are_not_shown() -> None:
    shown = json.dumps(redacted(load(route(f"oidc: {{{OIDC}}}") + f"config: {{adminAuth: {{tokens: [{{sha256: {TOKEN}}}]}}}}").document))
    assert "s3cret" not in shown and TOKEN not in shown


# ------------------------------------------------------------------------------------------------------------ admin


def test_an_admin_listener_others_can_reach_asks_who_they_are() -> None:
    for address in ("0.0.0.0:15000", "192.0.2.1:15000", "'[::]:15000'"):
        assert any("adminAddr" in item and "config.adminAuth" in item for item in problems(f"config: {{adminAddr: {address}}}"))
        tokens = f"[{{sha256: {TOKEN}, role: operate, name: ops}}, {{sha256: 'sha256:{'AB' * 32}'}}]"
        loaded = load(f"config: {{adminAddr: {address}, adminAuth: {{tokens: {tokens}}}}}")
        assert loaded.plan.process.admin_auth == AdminAuthPlan([AdminTokenPlan(TOKEN, "operate", "ops"), AdminTokenPlan("ab" * 32, "read")])
        assert any("plain HTTP" in item.text for item in loaded.warnings)
        assert load(f"config: {{adminAddr: {address}, adminInsecure: true}}").plan.process.admin_auth is None
    assert problems("config: {}", {"ADMIN_ADDR": "0.0.0.0:1"})[0].startswith("$ADMIN_ADDR: the admin listener")


@pytest.mark.parametrize("address", ["localhost:1", "127.0.0.1:1", "127.1.2.3:1", "'[::1]:1'", "unix:/run/a.sock", "off"])
def test_where_nobody_else_gets_nobody_is_asked(address: str) -> None:
    assert load(f"config: {{adminAddr: {address}}}").plan.process.admin_auth is None
    assert load("config: {}").plan.process.admin_auth is None


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("[]", "nobody gets in"), ("[{sha256: hunter2}]", "64 hex digits"), (f"[{{sha256: {TOKEN}}}, {{sha256: {TOKEN}}}]", "the same token"),
        (f"[{{sha256: {TOKEN}, role: admin}}]", "role"),
    ],
)  # fmt: skip
def test_problems_of_admin_auth(tokens: str, text: str) -> None:
    found = problems(f"config: {{adminAuth: {{tokens: {tokens}}}}}")
    assert any(text in item for item in found), found
    assert not any("hunter2" in item for item in found)


# ----------------------------------------------------------------------------------------------- agentgateway's files


@pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE does not name a directory with agentgateway's examples")
@pytest.mark.parametrize("name", ["traffic-oidc", "traffic-oauth2-proxy", "traffic-tailscale-auth"])
def test_example_files_load_apart_from_their_access_log(name: str) -> None:
    text = (Path(REFERENCE) / "agentgateway-examples" / name / "config.yaml").read_text()
    try:
        load(text)
    except ConfigErrors as error:
        assert {item.path for item in error.problems} <= {"frontendPolicies.accessLog.add"}
