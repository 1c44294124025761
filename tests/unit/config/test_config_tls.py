"""TLS of listeners and towards upstreams: files to PEM text, what inherits from where, ports that are of one kind."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

import pytest

from agw.config import ConfigErrors, Loaded, load_bytes, load_file
from agw.runtime.plan import ClusterPlan, Plan, TlsClientPlan, TlsServerPlan

PEM = Path(__file__).parents[2] / "vectors" / "config" / "tls"
CERT = (PEM / "cert.pem").read_text()
KEY = (PEM / "key.pem").read_text()
PAIR = "{cert: cert.pem, key: key.pem}"
GATEWAY = "gateways: {default: {port: 3000}}\n"


@pytest.fixture(autouse=True)
def _beside_the_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PEM)


def load(text: str) -> Loaded:
    return load_bytes(textwrap.dedent(text).encode(), "f.yaml", {})


def plan(text: str) -> Plan:
    loaded = load(text)
    assert [item.text for item in loaded.warnings if "nothing is served" not in item.text] == []
    return loaded.plan


def warnings(text: str) -> list[tuple[str, str]]:
    return [(problem.path, problem.text) for problem in load(text).warnings]


def upstreams(text: str) -> list[ClusterPlan]:
    return plan(GATEWAY + textwrap.dedent(text)).clusters


# -------------------------------------------------------------------------------------------------------- listeners


def test_a_gateway_with_a_certificate_is_https() -> None:
    (listener,) = plan(f"gateways: {{default: {{port: 1, tls: {PAIR}}}}}").binds[0].listeners
    assert listener.tls == TlsServerPlan(CERT, KEY)
    (listener,) = plan("gateways: {default: {port: 1}}").binds[0].listeners
    assert listener.tls is None


def test_every_option_reaches_the_plan() -> None:
    text = "gateways: {default: {port: 1, protocol: HTTPS, tls: {cert: cert.pem, key: key.pem, root: cert.pem, %s: TLS_V1_3}}}"
    for key in ("minTLSVersion", "minTlsVersion"):
        assert plan(text % key).binds[0].listeners[0].tls == TlsServerPlan(CERT, KEY, "1.3", CERT)
    for key in ("maxTLSVersion", "maxTlsVersion"):
        assert plan((text % key).replace("V1_3", "V1_2")).binds[0].listeners[0].tls == TlsServerPlan(CERT, KEY, "1.2", CERT, "1.2")
    with pytest.raises(ConfigErrors, match="older than"):
        plan((text % "minTLSVersion: TLS_V1_3, maxTLSVersion").replace("maxTLSVersion: TLS_V1_3", "maxTLSVersion: TLS_V1_2"))


def test_listeners_have_their_own_certificate_or_that_of_the_gateway() -> None:
    built = plan(
        f"""
        gateways:
          default:
            port: 1
            tls: {PAIR}
            listeners:
            - {{hostname: a.example}}
            - {{hostname: b.example, tls: {{cert: cert.pem, key: key.pem, minTLSVersion: TLS_V1_3}}}}
        """
    )
    assert [item.tls.min_version for item in built.binds[0].listeners if item.tls] == ["1.2", "1.3"]


def test_the_older_form_says_https() -> None:
    (listener,) = plan(f"binds: [{{port: 1, listeners: [{{protocol: HTTPS, tls: {PAIR}}}]}}]").binds[0].listeners
    assert listener.tls == TlsServerPlan(CERT, KEY)


@pytest.mark.parametrize(
    "listeners",
    [
        f"{{hostname: a.example, protocol: HTTPS, tls: {PAIR}}}, {{hostname: b.example}}",
        f"{{hostname: a.example}}, {{hostname: b.example, protocol: HTTPS, tls: {PAIR}}}",
    ],
)
def test_one_port_is_http_or_https(listeners: str) -> None:
    for text in (f"binds: [{{port: 1, listeners: [{listeners}]}}]", f"gateways: {{default: {{port: 1, listeners: [{listeners}]}}}}"):
        with pytest.raises(ConfigErrors) as caught:
            load(text)
        (problem,) = caught.value.problems
        assert "share port 1; make both HTTPS, or use two ports" in problem.text


def test_what_was_dropped_is_not_taken_for_http() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(f"gateways: {{default: {{port: 1, listeners: [{{hostname: a.example, tls: 1}}, {{hostname: b.example, tls: {PAIR}}}]}}}}")
    assert [problem.path for problem in caught.value.problems] == ["gateways.default.listeners[0].tls"]


def test_a_certificate_is_found_beside_the_configuration(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        shutil.copy(PEM / name, tmp_path / f"own-{name}")
    (tmp_path / "agw.yaml").write_text("gateways: {default: {port: 1, tls: {cert: own-cert.pem, key: own-key.pem}}}")
    assert load_file(tmp_path / "agw.yaml", {}).plan.binds[0].listeners[0].tls == TlsServerPlan(CERT, KEY)


def test_a_missing_certificate_is_named_with_the_way_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "agw.yaml").write_text("gateways: {default: {port: 1, tls: {cert: certs/none.pem, key: key.pem}}}")
    with pytest.raises(ConfigErrors) as caught:
        load_file(tmp_path / "agw.yaml", {})
    (problem,) = caught.value.problems
    assert problem.text.startswith(f'cannot read "certs/none.pem" (nor "{tmp_path}/certs/none.pem"): No such file or directory; mend the path, or make')
    assert "openssl req -x509" in problem.text


def test_what_openssl_cannot_read_is_refused() -> None:
    with pytest.raises(ConfigErrors, match=r'OpenSSL refuses "garbled-cert.pem"'):
        load("gateways: {default: {port: 1, tls: {cert: garbled-cert.pem, key: key.pem}}}")


def test_no_message_holds_a_key() -> None:
    with pytest.raises(ConfigErrors) as caught:
        load("gateways: {default: {port: 1, tls: {cert: key.pem, key: locked-key.pem, root: other-key.pem}}}")
    body = {line for name in ("key.pem", "locked-key.pem", "other-key.pem") for line in (PEM / name).read_text().splitlines()}
    assert not any(line in str(caught.value) for line in body)


# -------------------------------------------------------------------------------------------------------- upstreams


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("'https://a'", ("a", 443, "a", True)),
        ("'HTTPS://a:8443/'", ("a", 8443, "a:8443", True)),
        ("'https://a:80'", ("a", 80, "a:80", True)),
        ("'https://[::1]'", ("::1", 443, "[::1]", True)),
        ("'a:443'", ("a", 443, "a:443", False)),
        ("'http://a'", ("a", 80, "a", False)),
    ],
)
def test_hosts(host: str, expected: tuple[str, int, str, bool]) -> None:
    (cluster,) = upstreams(f"routes: [{{backends: [{{host: {host}}}]}}]")
    assert (cluster.host, cluster.port, cluster.authority, cluster.tls == TlsClientPlan()) == expected
    assert cluster.tls is None or expected[3]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("{}", TlsClientPlan()),
        ("{hostname: B.example}", TlsClientPlan(server_name="b.example")),
        ("{insecureHost: true}", TlsClientPlan(verify_host=False)),
        ("{subjectAltNames: [A.example, 'spiffe://td/Sa', '[::1]']}", TlsClientPlan(names=["a.example", "spiffe://td/Sa", "::1"])),
        ("{root: cert.pem}", TlsClientPlan(ca=CERT)),
        ("{cert: cert.pem, key: key.pem}", TlsClientPlan(cert=CERT, key=KEY)),
        ("{alpn: [http/1.1]}", TlsClientPlan()),
    ],
)
def test_backend_tls(tls: str, expected: TlsClientPlan) -> None:
    (cluster,) = upstreams(f"routes: [{{backends: [{{host: 'a:443', policies: {{backendTLS: {tls}}}}}]}}]")
    assert (cluster.tls, cluster.authority) == (expected, "a")
    (cluster,) = upstreams(f"mcp: {{targets: [{{name: t, mcp: {{host: 'https://a/x'}}, policies: {{backendTLS: {tls}}}}}]}}")
    assert (cluster.tls, cluster.authority, cluster.path) == (expected, "a", "/x")


def test_what_looks_wrong_is_warned_about() -> None:
    def on(host: str, tls: str) -> list[str]:
        return [path for path, _ in warnings(f"{GATEWAY}routes: [{{backends: [{{host: '{host}', policies: {{backendTLS: {tls}}}}}]}}]")]

    place = "routes[0].backends[0]"
    assert on("a:443", "{insecure: true}") == [f"{place}.policies.backendTLS.insecure"]
    assert on("a:443", "{alpn: [h2, http/1.1]}") == [f"{place}.policies.backendTLS.alpn"]
    assert on("http://a", "{}") == [f"{place}.host"]
    assert warnings(GATEWAY + "mcp: {targets: [{name: t, mcp: {host: 'a:443'}}]}")[0][0] == "mcp.targets[0].mcp.host"
    assert load(GATEWAY + "routes: [{backends: [{host: 'a:1', policies: {backendTLS: {insecure: true}}}]}]").plan.clusters[0].tls == TlsClientPlan(
        verify=False, verify_host=False
    )


def test_a_socket_with_tls_needs_a_name() -> None:
    (cluster,) = upstreams("routes: [{backends: [{host: 'unix:/run/a', policies: {backendTLS: {hostname: a.example}}}]}]")
    assert (cluster.unix_path, cluster.authority, cluster.tls) == ("/run/a", "localhost", TlsClientPlan(server_name="a.example"))
    with pytest.raises(ConfigErrors, match="no name to verify"):
        load("backends: [{name: a, host: 'unix:/run/a', policies: {backendTLS: {}}}]")


def test_the_same_address_with_other_tls_is_another_cluster() -> None:
    clusters = upstreams(
        """
        routes:
        - backends:
          - {host: 'a:443'}
          - {host: 'https://a'}
          - {host: 'a:443', policies: {backendTLS: {}}}
          - {host: 'a:443', policies: {backendTLS: {hostname: b}}}
        """
    )
    assert [item.tls and item.tls.server_name for item in clusters] == [None, "", "b"]


def test_the_most_specific_tls_wins() -> None:
    built = plan(
        GATEWAY
        + textwrap.dedent("""
        backends:
        - {name: plain, host: 'p:1'}
        - {name: own, host: 'o:1', policies: {backendTLS: {hostname: own}}}
        - {name: attached, host: 'a:1'}
        policies:
        - {name: {name: p}, target: {backend: {backend: {name: attached}}}, policy: {backendTLS: {hostname: attached}}}
        - {name: {name: q}, target: {route: {name: r}}, policy: {backendTLS: {hostname: route}}}
        routes:
        - name: r
          backends:
          - {backend: plain}
          - {backend: own}
          - {backend: attached}
          - {backend: own, policies: {backendTLS: {hostname: reference}}}
          - {host: 'h:1'}
        - matches: [{path: {exact: /m}}]
          policies: {backendTLS: {hostname: outer}}
          backends:
          - mcp:
              targets:
              - {name: a, mcp: {backend: own}}
              - {name: b, mcp: {backend: plain}}
              - {name: c, sse: {host: 'c:1'}, policies: {backendTLS: {hostname: target}}}
        """)
    )

    def names(clusters: list[int]) -> list[str]:
        return [tls.server_name if (tls := built.clusters[index].tls) is not None else "none" for index in clusters]

    first, second = built.routes
    assert names([item.cluster for item in first.backends]) == ["route", "own", "attached", "reference", "route"]
    assert names([item.cluster for item in built.mcp[second.backends[0].mcp].targets]) == ["own", "outer", "target"]
    assert all(item.policies is None for item in first.backends), "TLS is part of the cluster, not of the policies"
