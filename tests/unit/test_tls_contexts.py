"""Plans to contexts: what is demanded, what is shared, and how what cannot be used is refused."""

from __future__ import annotations

import gc
import os
import ssl
from pathlib import Path
from typing import Any

import pytest

from agw.runtime.compile import CompileError, Redirect, compile_plan
from agw.runtime.plan import BindPlan, ClusterPlan, ListenerPlan, Plan, RedirectPlan, TlsClientPlan, TlsServerPlan
from agw.runtime.snapshot import LabelIndex, Labels, Snapshot
from agw.runtime.tls import TlsError, client_context, server_context
from tests.peers.authority import Authority, encrypted

CA = Authority()
PAIR = CA.issue("a.test")
GARBAGE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def server(**changes: Any) -> TlsServerPlan:
    return TlsServerPlan(**{"cert": PAIR.cert, "key": PAIR.key, **changes})


def compiled(plan: Plan, previous: Snapshot | None = None) -> Snapshot:
    return compile_plan(plan, 1, LabelIndex(Labels()), previous)


def bind(*listeners: tuple[str, TlsServerPlan | None]) -> Plan:
    return Plan(binds=[BindPlan("b", 443, listeners=[ListenerPlan(f"l{i}", "g", host, tls=tls) for i, (host, tls) in enumerate(listeners)])])


def test_server_contexts() -> None:
    context = server_context(server())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE
    assert context.options & ssl.OP_NO_RENEGOTIATION
    demanding = server_context(server(min_version="1.3", client_ca=CA.pem))
    assert demanding.minimum_version == ssl.TLSVersion.TLSv1_3
    assert demanding.verify_mode == ssl.CERT_REQUIRED
    assert len(demanding.get_ca_certs()) == 1


def test_client_contexts() -> None:
    context = client_context(TlsClientPlan(ca=CA.pem))
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    loose = client_context(TlsClientPlan(ca=CA.pem, verify_host=False))
    assert (loose.verify_mode, loose.check_hostname) == (ssl.CERT_REQUIRED, False)
    blind = client_context(TlsClientPlan(verify=False))
    assert (blind.verify_mode, blind.check_hostname) == (ssl.CERT_NONE, False)


def test_the_system_is_trusted_unless_the_plan_says_whom(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "system.pem"
    file.write_text(CA.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    context = client_context(TlsClientPlan(alpn=["only-for-this-test"]))
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode == ssl.CERT_REQUIRED


def test_equal_plans_share_a_context_while_it_is_used() -> None:
    context = server_context(server())
    assert server_context(server()) is context
    assert server_context(server(min_version="1.3")) is not context
    client = client_context(TlsClientPlan(ca=CA.pem))
    assert client_context(TlsClientPlan(server_name="other", ca=CA.pem)) is client
    was = id(client)
    del client
    gc.collect()
    assert client_context(TlsClientPlan(ca=CA.pem)) is not None
    assert was


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cert": GARBAGE}, "certificate and its key"),
        ({"cert": ""}, "certificate and its key"),
        ({"key": "no PEM"}, "certificate and its key"),
        ({"key": CA.issue("other").key}, "the key belongs to another certificate"),
        ({"key": encrypted(PAIR)}, "pass phrase"),
        ({"client_ca": GARBAGE}, "CA of client certificates"),
        ({"client_ca": "no PEM"}, "CA of client certificates"),
    ],
)
def test_servers_that_do_not_load(changes: dict[str, str], words: str) -> None:
    with pytest.raises(TlsError, match=words):
        server_context(server(**changes))
    with pytest.raises(CompileError, match=f"listener g/l0: .*{words}"):
        compiled(bind(("", server(**changes))))


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (TlsClientPlan(ca=GARBAGE), "the CA is not usable"),
        (TlsClientPlan(cert=PAIR.cert), "certificate and its key"),
        (TlsClientPlan(key=PAIR.key), "a key without its certificate"),
        (TlsClientPlan(alpn=[""]), "ALPN"),
    ],
)
def test_clients_that_do_not_load(plan: TlsClientPlan, words: str) -> None:
    with pytest.raises(CompileError, match=f"backend c: .*{words}"):
        compiled(Plan(clusters=[ClusterPlan("c", host="a.test", port=443, tls=plan)]))


def test_no_descriptor_and_no_key_is_left_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(TlsError) as error:
        server_context(server(key=CA.issue("other").key))
    assert "PRIVATE" not in str(error.value)
    context = server_context(server(min_version="1.3"))
    assert set(os.listdir("/proc/self/fd")) == before
    assert context is not None


def test_clusters_know_the_name_they_expect() -> None:
    def name(**cluster: Any) -> str:
        snapshot = compiled(Plan(clusters=[ClusterPlan("c", **cluster)]))
        tls = next(iter(snapshot.clusters.values())).tls
        assert tls is not None
        return tls.server_name

    assert name(host="a.test", port=443, tls=TlsClientPlan(ca=CA.pem)) == "a.test"
    assert name(host="10.0.0.1", port=443, tls=TlsClientPlan(ca=CA.pem, server_name="b.test")) == "b.test"
    assert name(unix_path="/run/x", tls=TlsClientPlan(verify=False)) == ""
    with pytest.raises(CompileError, match="needs the server's name"):
        name(unix_path="/run/x", tls=TlsClientPlan(ca=CA.pem))
    for bad in (".a.test", "a..test", "x" * 64 + ".test", "a\0b"):
        with pytest.raises(CompileError, match="cannot be a server's name"):
            name(host="a.test", port=443, tls=TlsClientPlan(ca=CA.pem, server_name=bad))


def test_listeners_with_and_without_tls_need_ports_of_their_own() -> None:
    with pytest.raises(CompileError, match="cannot share a port"):
        compiled(bind(("a.test", server()), ("b.test", None)))
    plain = compiled(bind(("", None)))
    assert next(iter(plain.binds.values())).tls is None


def test_listeners_with_the_same_certificate_share_a_context() -> None:
    other = CA.issue("b.test")
    snapshot = compiled(bind(("a.test", server()), ("x.test", server()), ("b.test", server(cert=other.cert, key=other.key))))
    tls = next(iter(snapshot.binds.values())).tls
    assert tls is not None
    assert tls.context_of == [0, 0, 1]
    assert tls.context_for("x.test") is tls.context_for("a.test")


def test_redirects_keep_the_scheme_of_the_listener() -> None:
    plain, secure = Redirect(RedirectPlan()), Redirect(RedirectPlan(), "https")
    assert plain.location(b"h", b"/x", None, 0) == b"http://h/x"
    assert secure.location(b"h", b"/x", None, 0) == b"https://h/x"
    assert secure.location(b"h:443", b"/x", None, 0) == b"https://h/x"
    assert secure.location(b"h:80", b"/x", None, 0) == b"https://h:80/x"
    assert Redirect(RedirectPlan(scheme="http"), "https").location(b"h:443", b"/x", None, 0) == b"http://h/x"
