"""Several TLS listeners on one port: who gets which certificate, what they demand of clients, and what a reload changes."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from tests.integration.tls.conftest import Dial, Pki, Start, TlsGateway
from tests.kits.gateway import direct_route
from tests.peers.client import Client
from tests.peers.tls import TlsClient

HOSTS = {"a": "a.test", "wild": "*.b.test", "mtls": "secret.test"}


def many(**blocks: Any) -> dict[str, Any]:
    """Three listeners; the one of secret.test is for clients with a certificate."""
    listeners = [{"name": name, "hostname": host} for name, host in HOSTS.items()]
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1", "listeners": listeners}},
        "routes": [{"name": name, **direct_route(name), "hostnames": [host]} for name, host in HOSTS.items()],
        "config": {"connectionTerminationDeadline": "1s"},
        **blocks,
    }


def plans(pki: Pki, **mtls: Any) -> dict[str, Any]:
    return {
        "a": pki.listener(pki.ca.issue("a.test")),
        "wild": pki.listener(pki.ca.issue("*.b.test")),
        "mtls": pki.listener(pki.ca.issue("secret.test"), **{"client_ca": pki.ca.pem, **mtls}),
    }


@pytest.fixture(scope="module")
def shared(pki: Pki) -> Any:
    with TlsGateway(many(), listeners=plans(pki), workers=1) as gateway:
        yield gateway


def unchecked() -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def names_of(client: TlsClient) -> list[bytes]:
    """Which certificate the server showed, by the names inside it."""
    der = client.sock.tls.getpeercert(True)
    return [name for name in (b"a.test", b"*.b.test", b"secret.test") if name in der]


@pytest.mark.parametrize(("name", "body"), [("a.test", b"a"), ("A.Test", b"a"), ("x.b.test", b"wild"), ("x.y.b.test", b"wild")])
def test_each_name_has_its_certificate(shared: TlsGateway, dial: Dial, name: str, body: bytes) -> None:
    client = dial(shared, context=unchecked(), name=name)
    assert client.get("/", host=name.encode()).body == body
    assert names_of(client) == [b"a.test" if body == b"a" else b"*.b.test"]


@pytest.mark.parametrize("name", [None, "unknown.test", "b.test", "127.0.0.1"])
def test_unknown_and_absent_names_get_the_first(shared: TlsGateway, dial: Dial, name: str | None) -> None:
    client = dial(shared, context=unchecked(), name=name)
    assert names_of(client) == [b"a.test"]
    assert client.get("/", host=b"a.test").status == 200
    assert client.get("/", host=b"unknown.test").status == 404


def test_host_of_another_listener_is_misdirected(shared: TlsGateway, dial: Dial, pki: Pki) -> None:
    client = dial(shared, context=unchecked(), name="a.test")
    answer = client.get("/", host=b"x.b.test")
    assert answer.status == 421
    assert client.get("/", host=b"a.test").status == 200


def test_client_certificate_is_demanded_where_it_is(shared: TlsGateway, dial: Dial, pki: Pki) -> None:
    pair = pki.ca.issue("somebody")
    client = dial(shared, context=pki.client(pair=pair), name="secret.test")
    assert client.get("/", host=b"secret.test").body == b"mtls"
    with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|certificate required"):
        # TLS 1.3: the client's handshake is over before the server has looked.
        dial(shared, context=pki.client(version="1.3"), name="secret.test").sock.recv(1)
    with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|handshake failure"):
        dial(shared, context=pki.client(version="1.2"), name="secret.test")
    with pytest.raises(ssl.SSLError, match=r"UNKNOWN_CA|unknown ca"):
        dial(shared, context=pki.client(pair=pki.foreign.issue("somebody")), name="secret.test").sock.recv(1)


@pytest.mark.parametrize("name", ["a.test", None, "x.b.test"])
def test_another_name_in_the_handshake_is_no_way_around(shared: TlsGateway, dial: Dial, name: str | None) -> None:
    client = dial(shared, context=unchecked(), name=name)
    assert client.get("/", host=b"secret.test").status == 421


def test_sessions_of_one_listener_are_none_of_another(shared: TlsGateway, dial: Dial) -> None:
    """A ticket won without a certificate does not open the listener that demands one."""
    context = unchecked()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    first = dial(shared, context=context, name="a.test")
    assert first.get("/", host=b"a.test").status == 200
    with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|handshake failure"):
        dial(shared, context=context, name="secret.test", session=first.sock.session)


def test_lowest_version_is_that_of_the_name(start: Start, pki: Pki, dial: Dial) -> None:
    listeners = {**plans(pki), "mtls": pki.listener(pki.ca.issue("secret.test"), min_version="1.3")}
    gateway = start(many(), listeners=listeners)
    assert dial(gateway, context=pki.client(version="1.2"), name="a.test").get("/", host=b"a.test").status == 200
    assert dial(gateway, context=pki.client(version="1.3"), name="secret.test").get("/", host=b"secret.test").status == 200
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"):
        dial(gateway, context=pki.client(version="1.2"), name="secret.test")


# ------------------------------------------------------------------------------------------------------------ reload


def test_a_new_certificate_is_for_new_connections(start: Start, pki: Pki, dial: Dial) -> None:
    gateway = start(many(), listeners=plans(pki))
    old = dial(gateway, context=unchecked(), name="a.test")
    shown = old.sock.tls.getpeercert(True)
    gateway.add(plans(pki))
    gateway.reload()
    assert old.get("/", host=b"a.test").status == 200
    new = dial(gateway, context=unchecked(), name="a.test")
    assert new.sock.tls.getpeercert(True) != shown
    assert new.get("/", host=b"a.test").status == 200


def test_a_new_demand_is_for_all_connections(start: Start, pki: Pki, dial: Dial) -> None:
    before = {**plans(pki), "mtls": pki.listener(pki.ca.issue("secret.test"))}
    gateway = start(many(), listeners=before)
    bare = dial(gateway, name="secret.test")
    assert bare.get("/", host=b"secret.test").status == 200
    gateway.add(plans(pki))
    gateway.reload()
    assert bare.get("/", host=b"secret.test").status == 421
    shown = dial(gateway, context=pki.client(pair=pki.ca.issue("x")), name="secret.test")
    assert shown.get("/", host=b"secret.test").status == 200
    gateway.add({**plans(pki), "mtls": pki.listener(pki.ca.issue("secret.test"), client_ca=pki.foreign.pem)})
    gateway.reload()
    assert shown.get("/", host=b"secret.test").status == 421


def test_a_port_that_begins_to_speak_tls(start: Start, pki: Pki, dial: Dial) -> None:
    gateway = start(many())
    with Client(gateway.port) as plain:
        assert plain.get("/", host=b"a.test").status == 200
        gateway.add(plans(pki))
        gateway.reload()
        assert plain.get("/", host=b"a.test").status == 421
    client = dial(gateway, name="a.test")
    assert client.get("/", host=b"a.test").status == 200
    gateway.add()
    gateway.reload()
    assert client.get("/", host=b"a.test").status == 200
    with Client(gateway.port) as plain:
        assert plain.get("/", host=b"a.test").status == 200


@pytest.mark.parametrize("broken", ["cert", "mismatch", "mixed"])
def test_what_does_not_load_is_refused(start: Start, pki: Pki, dial: Dial, broken: str) -> None:
    gateway = start(many(), listeners=plans(pki))
    bad = plans(pki)
    if broken == "cert":
        bad["a"] = pki.listener(pki.pair._replace(cert="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
    elif broken == "mismatch":
        bad["a"] = pki.listener(pki.pair._replace(key=pki.ca.issue("x").key))
    else:
        del bad["a"]
    gateway.add(bad)
    with pytest.raises(AssertionError, match="reload refused"):
        gateway.reload()
    assert dial(gateway, name="a.test").get("/", host=b"a.test").status == 200


def test_draining_closes_idle_connections_in_good_order(start: Start, pki: Pki, dial: Dial) -> None:
    gateway = start(many(), listeners=plans(pki))
    idle = dial(gateway, name="a.test")
    assert idle.get("/", host=b"a.test").status == 200
    with Client(gateway.port) as stalled:
        stalled.send(b"\x16\x03\x01")
        gateway.stop()
        assert stalled.closed()
    assert idle.closed()
    assert idle.sock.notified
