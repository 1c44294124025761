"""`backendAuth`: from the file to the plan, where it is inherited, and what is refused."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agw.config import ConfigErrors, load_bytes
from agw.config.redact import redacted
from agw.runtime.plan import Plan
from agw.runtime.plan_security import (
    BackendAuthPlan,
    CallPlan,
    ClientAuthPlan,
    ClientCredentials,
    CrossAppAccess,
    JwtSign,
    KeyCredential,
    LocationPlan,
    PassthroughCredential,
    TokenExchange,
)


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


EC_KEY = pem(ec.generate_private_key(ec.SECP256R1()))
RSA_KEY = pem(rsa.generate_private_key(65537, 2048))


@pytest.fixture(autouse=True)
def _beside_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ec.pem").write_text(EC_KEY)
    (tmp_path / "rsa.pem").write_text(RSA_KEY)
    (tmp_path / "secret").write_text("from-file\n")
    (tmp_path / "lines").write_text("s3cr-one\ns3cr-two\n")


def on_route(auth: str) -> str:
    head = "gateways: {default: {port: 3000}}\nroutes:\n- backends: [{host: 'a:1'}]\n  policies:\n    backendAuth:\n"
    return head + textwrap.indent(textwrap.dedent(auth), "      ") + "\n"


def load(text: str) -> Plan:
    return load_bytes(text.encode(), "f.yaml", {}).plan


def plan(auth: str) -> BackendAuthPlan | None:
    made = load(on_route(auth))
    return made.routes[0].policies.backend_auth


def problems(auth: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigErrors) as caught:
        load(on_route(auth))
    return [(item.path.removeprefix("routes[0].policies."), item.text) for item in caught.value.problems]


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("key: s3cret", KeyCredential("s3cret")),
        ("key: {file: secret}", KeyCredential("from-file")),
        ("key: {value: s3cret, location: {header: {name: X-Api-Key}}}", KeyCredential("s3cret", LocationPlan("header", "x-api-key", ""))),
        ("key: {value: {file: secret}, location: {cookie: {name: sid}}}", KeyCredential("from-file", LocationPlan("cookie", "sid", ""))),
        ("passthrough: {}", PassthroughCredential()),
        ("passthrough: {location: {queryParameter: {name: t}}}", PassthroughCredential(LocationPlan("query", "t", ""))),
        ("credentials: [{key: a, location: {header: {name: x-a, prefix: 'Key '}}}]", KeyCredential("a", LocationPlan("header", "x-a", "Key "))),
    ],
)
def test_static_credentials(auth: str, expected: KeyCredential | PassthroughCredential) -> None:
    assert plan(auth) == BackendAuthPlan([expected])


def test_further_credentials_stand_beside_the_first() -> None:
    made = plan("passthrough: {}\ncredentials:\n- {key: {file: secret}, location: {header: {name: x-key}}}")
    assert made == BackendAuthPlan([PassthroughCredential(), KeyCredential("from-file", LocationPlan("header", "x-key", ""))])


def test_jwt_sign() -> None:
    made = plan("""
        jwtSign:
          signingKey: {file: ec.pem}
          alg: ES256
          kid: demo-key-1
          claims: {iss: "A.B \\"q\\" é", aud: [x, y], n: 1, deep: {a: null}}
          claimExpressions: {sub: " jwt.sub "}
          ttl: 60s
    """)
    claims = {"iss": '"A.B \\"q\\" é"', "aud": '["x", "y"]', "n": "1", "deep": '{"a": null}', "sub": "jwt.sub"}
    assert made == BackendAuthPlan([JwtSign(EC_KEY.removesuffix("\n"), "ES256", "demo-key-1", claims, 60)])


def test_token_exchange_with_everything() -> None:
    text = on_route("""
        oauthTokenExchange:
          host: https://idp.example
          path: /token
          clientAuth: {clientId: me, clientSecret: {file: secret}}
          subjectToken: {source: {header: {name: X-Id-Token}}, tokenType: "urn:ietf:params:oauth:token-type:id_token"}
          actorToken: {source: {cookie: {name: actor}}}
          audiences: [target]
          scopes: [read, write]
          resources: ["https://api.example/"]
          requestedTokenType: "urn:ietf:params:oauth:token-type:access_token"
          additionalParams: {tenant: '"t1"'}
          cache: {maxEntries: 5, defaultTtl: 10s}
          authorizationLocation: {header: {name: x-token}}
          timeout: 2s
    """)
    made = load(text)
    (cluster,) = [item for item in made.clusters if item.name == "oauthTokenExchange"]
    assert (cluster.host, cluster.port, cluster.tls is not None) == ("idp.example", 443, True)
    assert made.routes[0].policies.backend_auth == BackendAuthPlan([
        TokenExchange(
            CallPlan(made.clusters.index(cluster), "/token", 2_000_000_000), "https://idp.example/token", ClientAuthPlan("basic", "me", "from-file"),
            subject=LocationPlan("header", "x-id-token", ""), subject_type="urn:ietf:params:oauth:token-type:id_token",
            actor=LocationPlan("cookie", "actor", ""), audiences=["target"], scopes=["read", "write"], resources=["https://api.example/"],
            requested_type="urn:ietf:params:oauth:token-type:access_token", additional_params_cel={"tenant": '"t1"'}, ttl_ns=10**10,
            max_entries=5, location=LocationPlan("header", "x-token", ""),
        )
    ])  # fmt: skip


@pytest.mark.parametrize("source", ["{}", "{source: {expression: jwt.rawToken.unredacted()}}", "{source: {header: {name: Authorization, prefix: 'Bearer '}}}"])
def test_the_callers_own_token_is_the_subject(source: str) -> None:
    made = plan(f"oauthTokenExchange: {{host: 'localhost:1', grantType: jwtBearer, subjectToken: {source}}}")
    assert made is not None
    (credential,) = made.credentials
    assert isinstance(credential, TokenExchange)
    assert (credential.subject, credential.grant, credential.client, credential.token_url) == (
        None, "jwtBearer", ClientAuthPlan("none"), "http://localhost:1/",
    )  # fmt: skip


def test_client_credentials() -> None:
    made = plan("""
        oauthClientCredentials:
          tokenUrl: https://idp.example/oauth/token
          clientAuth: {clientId: me, method: privateKeyJwt, signingKey: {file: rsa.pem}, kid: k, assertionAudience: "https://idp.example/"}
          scopes: [a]
          audience: api
          resource: https://api.example/mcp
    """)
    assert made is not None
    (credential,) = made.credentials
    assert isinstance(credential, ClientCredentials)
    assert credential.client == ClientAuthPlan("privateKeyJwt", "me", "", RSA_KEY.removesuffix("\n"), "RS256", "k", "https://idp.example/")
    assert (credential.scopes, credential.audience, credential.resource, credential.call.path) == (["a"], "api", "https://api.example/mcp", "/oauth/token")


def test_cross_app_access() -> None:
    made = plan("""
        crossAppAccess:
          subjectToken: {source: {expression: jwt.rawToken.unredacted()}}
          identityProvider: {host: "https://idp.example", path: /token, clientAuth: {clientId: agent, clientSecret: a}}
          resourceAuthorizationServer: {host: "https://as.example", path: /token, clientAuth: {clientId: me, clientSecret: b}}
          audience: https://as.example
          resources: ["https://api.example/"]
          scopes: [todos.read]
          cache: {maxEntries: 7}
    """)
    assert made is not None
    (credential,) = made.credentials
    assert isinstance(credential, CrossAppAccess)
    assert (credential.max_entries, credential.exchange.audiences, credential.exchange.subject) == (7, ["https://as.example"], None)
    assert credential.exchange.subject_type == "urn:ietf:params:oauth:token-type:id_token"
    assert (credential.exchange.scopes, credential.grant.scopes, credential.exchange.resources) == (["todos.read"], ["todos.read"], ["https://api.example/"])
    assert (credential.exchange.token_url, credential.grant.token_url) == ("https://idp.example/token", "https://as.example/token")
    assert (credential.exchange.client, credential.grant.client) == (ClientAuthPlan("basic", "agent", "a"), ClientAuthPlan("basic", "me", "b"))


def test_targets_take_the_most_specific_and_hosts_leave_it_to_the_route() -> None:
    made = load(textwrap.dedent("""
        gateways: {default: {port: 3000}}
        routes:
        - policies: {backendAuth: {passthrough: {}}}
          backends:
          - host: a:1
          - host: b:1
            policies: {backendAuth: {key: b}}
          - mcp:
              targets:
              - {name: one, mcp: {host: "http://one/mcp"}}
              - {name: two, mcp: {host: "http://two/mcp"}, policies: {backendAuth: {key: two}}}
              - {name: three, mcp: {backend: named}}
              - {name: four, stdio: {cmd: cat}}
        backends:
        - {name: named, host: "c:1", policies: {backendAuth: {key: c}}}
    """))
    route = made.routes[0]
    assert route.policies.backend_auth == BackendAuthPlan([PassthroughCredential()])
    assert route.backends[0].policies is None
    assert route.backends[1].policies is not None
    assert route.backends[1].policies.backend_auth == BackendAuthPlan([KeyCredential("b")])
    auth = [item.auth and item.auth.credentials for item in made.mcp[0].targets]
    assert auth == [[PassthroughCredential()], [KeyCredential("two")], [KeyCredential("c")], None]


@pytest.mark.parametrize(
    ("auth", "where", "what"),
    [
        ("{}", "backendAuth", "nothing chosen"),
        ("{key: a, passthrough: {}}", "backendAuth", "`key` and `passthrough` exclude each other"),
        ("{credentials: []}", "backendAuth.credentials", "no credential"),
        ("{key: {file: lines}}", "backendAuth.key", "no header value can"),
        ("{key: ''}", "backendAuth.key", "empty"),
        ("{key: {file: none}}", "backendAuth.key.file", "cannot read"),
        ("{key: a, credentials: [{key: b, location: {header: {name: Authorization}}}]}", "backendAuth.credentials[0].location", "has a credential already"),
        ("{gcp: {}}", "backendAuth.gcp", "not implemented yet"),
        ("{jwtSign: {signingKey: {file: ec.pem}}}", "backendAuth.jwtSign.signingKey", "RS256 needs an RSA key"),
        ("{jwtSign: {signingKey: s3cr}}", "backendAuth.jwtSign.signingKey", "no private key"),
        ("{jwtSign: {signingKey: {file: rsa.pem}, claims: {exp: 1}}}", "backendAuth.jwtSign.claims.exp", "agw itself"),
        ("{jwtSign: {signingKey: {file: rsa.pem}, claims: {a: 1}, claimExpressions: {a: '1'}}}", "backendAuth.jwtSign.claimExpressions.a", "keep one"),
        ("{jwtSign: {signingKey: {file: rsa.pem}, claimExpressions: {a: jwtt.sub}}}", "backendAuth.jwtSign.claimExpressions.a", "jwtt"),
        ("{oauthTokenExchange: {host: 'a:1', additionalParams: {a: bare word}}}", "backendAuth.oauthTokenExchange.additionalParams.a", "column"),
        ("{jwtSign: {signingKey: {file: rsa.pem}, ttl: 48h}}", "backendAuth.jwtSign.ttl", "24h"),
        ("{oauthTokenExchange: {backend: x}}", "backendAuth.oauthTokenExchange.backend", "not implemented yet"),
        ("{oauthTokenExchange: {host: 'a:1', additionalParams: {client_id: '\"x\"'}}}",
         "backendAuth.oauthTokenExchange.additionalParams.client_id", "cannot be added"),
        ("{oauthTokenExchange: {host: 'a:1', scopes: ['a b']}}", "backendAuth.oauthTokenExchange.scopes[0]", "no scope"),
        ("{oauthTokenExchange: {host: 'a:1', resources: [api]}}", "backendAuth.oauthTokenExchange.resources[0]", "absolute URI"),
        ("{oauthTokenExchange: {host: 'a:1', subjectToken: {source: {expression: request.path}}}}",
         "backendAuth.oauthTokenExchange.subjectToken.source.expression", "not implemented yet"),
        ("{oauthTokenExchange: {host: 'a:1', grantType: jwtBearer, actorToken: {source: {cookie: {name: a}}}}}",
         "backendAuth.oauthTokenExchange.actorToken", "tokenExchange"),
        ("{oauthTokenExchange: {host: 'a:1', clientAuth: {clientId: a}}}", "backendAuth.oauthTokenExchange.clientAuth", "`clientSecret` is missing"),
        ("{oauthTokenExchange: {host: 'a:1', clientAuth: {clientId: a, method: privateKeyJwt}}}",
         "backendAuth.oauthTokenExchange.clientAuth", "`signingKey` is missing"),
        ("{oauthClientCredentials: {tokenUrl: 'ftp://x', clientAuth: {clientId: a, clientSecret: b}}}",
         "backendAuth.oauthClientCredentials.tokenUrl", "no http(s) URL"),
    ],
)  # fmt: skip
def test_what_is_refused(auth: str, where: str, what: str) -> None:
    found = problems(auth)
    assert [item for item in found if item[0] == where and what in item[1]], found
    assert not any("s3cr" in text for _, text in found)


def test_plain_http_to_an_issuer_elsewhere_is_a_warning() -> None:
    loaded = load_bytes(on_route("oauthTokenExchange: {host: 'idp.example:80'}").encode(), "f.yaml", {})
    assert [item.path for item in loaded.warnings if "plain http" in item.text] == ["routes[0].policies.backendAuth.oauthTokenExchange.host"]


@pytest.mark.parametrize("auth", ["key: s3cret", "key: {value: s3cret, location: {cookie: {name: a}}}",
                                  "credentials: [{key: s3cret, location: {cookie: {name: a}}}]"])  # fmt: skip
def test_secrets_are_not_shown(auth: str) -> None:
    loaded = load_bytes(on_route(auth).encode(), "f.yaml", {})
    assert "s3cret" not in str(redacted(loaded.document))


def test_a_gateway_has_no_credentials_for_backends() -> None:
    # Its MCP targets would go without: they are made before it is known which gateways their routes hang on.
    entry = "- name: {name: p}\n  target: {gateway: {gatewayName: default}}\n  policy: {backendAuth: {key: s}}\n"
    with pytest.raises(ConfigErrors) as caught:
        load(f"gateways: {{default: {{port: 3000}}}}\nroutes:\n- backends: [{{host: 'a:1'}}]\npolicies:\n{entry}")
    assert "attach it to a route or backend" in str(caught.value)
