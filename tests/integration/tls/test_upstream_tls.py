"""TLS towards backends: whom we trust, what a failed handshake becomes, and pooled connections that talk to themselves."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.tls.conftest import Dial, Pki, Start, TlsGateway, configuration, host_route, problem_of
from tests.kits.gateway import free_port, wait_until
from tests.peers.client import Client, Truncated
from tests.peers.tls import TlsClient, TlsSocket, TlsUpstream
from tests.peers.upstream import Peer, Upstream

UNTRUSTED = "no trusted TLS connection to the backend"


@contextmanager
def towards(start: Start, pki: Pki, upstream: Upstream, host: str | None = None, **client: Any) -> Iterator[TlsGateway]:
    """A gateway without TLS of its own in front of `upstream`."""
    where = f"{host}:{upstream.port}" if host else upstream.host
    yield start(configuration([host_route(where)], backend={"connectTimeout": "700ms"}), clusters={"*": pki.cluster(**client)})


# ------------------------------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_requests_share_a_connection(start: Start, pki: Pki, version: str) -> None:
    seen: list[str | None] = []
    context = pki.server(version=version)
    context.sni_callback = lambda _sock, name, _context: seen.append(name)  # type: ignore[assignment, func-returns-value]
    with TlsUpstream(context) as up, towards(start, pki, up, "localhost") as gateway, Client(gateway.port) as client:
        for _ in range(20):
            assert client.get("/").status == 200
        assert len(up.peers) == 1
        assert up.peers[0].sock.tls.version() == f"TLSv{version}"
        assert up.peers[0].sock.tls.selected_alpn_protocol() == "http/1.1"
        assert seen == ["localhost"]
        assert up.requests[0].get(b"host") == [f"localhost:{up.port}".encode()]
        assert up.requests[0].get(b"x-forwarded-proto") == [b"http"]
        assert gateway.metrics().total("upstream_reuses_total") == 19


def test_addresses_are_verified_and_not_sent_as_sni(start: Start, pki: Pki) -> None:
    seen: list[str | None] = []
    context = pki.server()
    context.sni_callback = lambda _sock, name, _context: seen.append(name)  # type: ignore[assignment, func-returns-value]
    with TlsUpstream(context) as up, towards(start, pki, up) as gateway:
        assert gateway.get("/").status == 200
    assert seen == [None]


BAD = {
    "unknown authority": ("unable to get local issuer certificate", {}, "foreign"),
    "another name": ("hostname mismatch", {}, "other name"),
    "another address": ("IP address mismatch", {"server_name": "127.0.0.9"}, "good"),
    "expired": ("certificate has expired", {}, "expired"),
}


@pytest.mark.parametrize("case", BAD)
def test_untrusted_certificates(start: Start, pki: Pki, case: str) -> None:
    words, client, which = BAD[case]
    pair = {
        "good": lambda: pki.pair,
        "foreign": lambda: pki.foreign.issue("localhost"),
        "other name": lambda: pki.ca.issue("other.test"),
        "expired": lambda: pki.ca.issue("localhost", days=-1),
    }[which]()
    with TlsUpstream(pki.server(pair)) as up, towards(start, pki, up, "localhost", **client) as gateway:
        answer = gateway.get("/")
        assert (answer.status, problem_of(answer.text)) == (503, UNTRUSTED)
        assert words.lower() in gateway.wait_log("no TLS connection to a backend", backend=f"localhost:{up.port}")["problem"].lower()
        assert not up.requests
        wait_until(lambda: up.refused, 2, "the backend heard our alert")
        assert gateway.metrics().total("upstream_connect_failures_total") >= 1


def test_verification_can_be_off(start: Start, pki: Pki) -> None:
    with TlsUpstream(pki.server(pki.foreign.issue("other.test"))) as up, towards(start, pki, up, "localhost", verify=False) as gateway:
        assert gateway.get("/").status == 200


def test_verification_of_the_name_can_be_off(start: Start, pki: Pki) -> None:
    """The authority still counts."""
    with TlsUpstream(pki.server(pki.ca.issue("other.test"))) as up, towards(start, pki, up, "localhost", verify_host=False) as gateway:
        assert gateway.get("/").status == 200
    with TlsUpstream(pki.server(pki.foreign.issue("localhost"))) as up, towards(start, pki, up, "localhost", verify_host=False) as gateway:
        assert gateway.get("/").status == 503


def test_name_of_its_own(start: Start, pki: Pki) -> None:
    with TlsUpstream(pki.server(pki.ca.issue("inside.test"))) as up, towards(start, pki, up, server_name="inside.test") as gateway:
        assert gateway.get("/").status == 200


def test_client_certificate(start: Start, pki: Pki) -> None:
    context = pki.server(client_ca=pki.ca.pem)
    pair = pki.ca.issue("agw")
    with TlsUpstream(context) as up, towards(start, pki, up, cert=pair.cert, key=pair.key) as gateway:
        assert gateway.get("/").status == 200
        subject = dict(item for part in up.peers[0].sock.tls.getpeercert()["subject"] for item in part)
        assert subject["commonName"] == "agw"
    with TlsUpstream(pki.server(client_ca=pki.ca.pem, version="1.2")) as up, towards(start, pki, up) as gateway:
        assert gateway.get("/").status == 503
    with TlsUpstream(pki.server(client_ca=pki.ca.pem, version="1.3")) as up, towards(start, pki, up) as gateway:
        # TLS 1.3: our handshake is over before the backend has looked at what we did not send.
        assert gateway.get("/").status == 502


# --------------------------------------------------------------------------------------------------------- handshake


def test_stalled_handshake_is_a_timeout(start: Start, pki: Pki) -> None:
    with Upstream(lambda peer: (peer.some(), peer.until_eof())) as up, towards(start, pki, up) as gateway:  # type: ignore[arg-type, return-value]
        began = time.monotonic()
        assert gateway.get("/").status == 504
        assert 0.6 < time.monotonic() - began < 1.5


def test_body_that_fills_the_queue_with_its_last_octet(start: Start, pki: Pki) -> None:
    """The request waits for the handshake; its body is over the limit and over. Nothing more will come, so nothing may be waited for."""
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.pause(go)
        peer.sock = TlsSocket(peer.sock, pki.server(), server=True)  # type: ignore[assignment]
        request = peer.request()
        threading.Event().wait(0.8)  # longer than a body may stall
        peer.answer(request, b"%d" % len(request.body))
        peer.serve()

    http, backend = {"progressTimeout": "400ms"}, {"connectTimeout": "3s", "pendingTimeout": "3s", "responseTimeout": "3s"}
    with Upstream(script) as up:
        gateway = start(configuration([host_route(up.host)], http, backend), clusters={"*": pki.cluster()})
        with Client(gateway.port) as client:
            octets = client.message(b"POST", "/", b"b" * 131_000)
            client.send(octets)
            # Where the pieces end decides whether the queue is full with the last octet or shortly before: both must come through.
            wait_until(lambda: gateway.metrics().total("downstream_received_bytes_total") >= len(octets) - 4096, 3, "nearly all received")
            go.set()
            answer = client.answer()
            assert answer.body == b"131000"
            assert not answer.closes
            assert client.get("/").status == 200


def reset(peer: Peer) -> None:
    peer.some()
    peer.reset()


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lambda peer: peer.some() and None,
        lambda peer: (peer.some(), peer.send(b"\x15\x03\x03\x00\x02\x02\x28")),
        reset,
        lambda peer: None,
    ],
    ids=["plain HTTP", "FIN", "alert", "RST", "FIN at once"],
)
def test_handshakes_that_fail(start: Start, pki: Pki, script: Any) -> None:
    with Upstream(script) as up, towards(start, pki, up) as gateway:
        answer = gateway.get("/")
        assert (answer.status, problem_of(answer.text)) == (503, UNTRUSTED)
        assert gateway.wait_log("no TLS connection to a backend")["problem"].startswith(up.host)


def test_the_same_problem_is_logged_once(start: Start, pki: Pki) -> None:
    with TlsUpstream(pki.server(pki.foreign.issue("localhost"))) as up, towards(start, pki, up, "localhost") as gateway:
        for _ in range(15):
            assert gateway.get("/").status == 503
        gateway.wait_log("no TLS connection to a backend")
        assert gateway.count_log("no TLS connection to a backend") == 1


# -------------------------------------------------------------------------------------------------------------- ends


def closing(ends: str) -> Any:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n" + b"w" * 100_000)
        sock: Any = peer.sock
        if ends == "FIN alone":
            sock.raw.shutdown(socket.SHUT_WR)
        elif ends == "reset":
            peer.reset()
        peer.until_eof() if ends == "FIN alone" else None

    return script


def test_close_delimited_body_ends_with_close_notify(client: TlsClient, upstream: TlsUpstream) -> None:
    upstream.play(closing("close_notify"))
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert client.answer().body == b"w" * 100_000
    assert client.sock.notified


@pytest.mark.parametrize("ends", ["FIN alone", "reset"])
def test_close_delimited_body_that_is_cut_off(client: TlsClient, upstream: TlsUpstream, ends: str) -> None:
    """Anybody on the way can send a FIN: without close_notify the body is not known to be whole, and we do not say it is."""
    upstream.play(closing(ends))
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    client.until_eof()
    assert not client.sock.notified


def test_whole_answer_without_close_notify_is_whole(client: TlsClient, upstream: TlsUpstream) -> None:
    """Where HTTP says how long the body is, many servers just close."""

    def script(peer: Peer) -> None:
        peer.answer(peer.request(), b"x" * 50_000)
        sock: Any = peer.sock
        sock.raw.close()
        peer.ending = True

    upstream.play(script)
    for _ in range(3):
        assert client.get("/").body == b"x" * 50_000


def test_answer_cut_by_a_corrupt_record(client: TlsClient, upstream: TlsUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        sock: Any = peer.sock
        sock.raw.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
        with pytest.raises(ssl.SSLError):
            peer.until_eof()

    upstream.play(script)
    client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    with pytest.raises(Truncated):
        client.read(100)


# -------------------------------------------------------------------------------------------------------------- pool


def test_idle_connection_that_says_goodbye_is_not_used(client: TlsClient, upstream: TlsUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        sock: Any = peer.sock
        sock.notify()
        peer.until_eof()

    upstream.play(script)
    for i in range(5):
        assert client.post("/", b"x").status == 200
        wait_until(upstream.peers[i].closed.is_set, 2, "the gateway closed it too")
    assert len(upstream.peers) == 5


def test_idle_connection_with_data_on_it_is_poisoned(client: TlsClient, upstream: TlsUpstream) -> None:
    def script(peer: Peer) -> None:
        peer.answer(peer.request())
        if len(peer.owner.peers) == 1:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned")
            peer.until_eof()
        else:
            peer.serve()

    upstream.play(script)
    assert client.get("/").body == b"ok"
    wait_until(upstream.peers[0].closed.is_set, 2, "the poisoned connection is closed")
    assert client.get("/").body == b"ok"


def test_surplus_at_checkout_is_seen(client: TlsClient, upstream: TlsUpstream) -> None:
    """Surplus octets and the next request race; whoever wins, no answer is mixed up."""

    def script(peer: Peer) -> None:
        while True:
            peer.answer(peer.request(), b"right")
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")

    upstream.play(script)
    for _ in range(30):
        assert client.get("/").body == b"right"


@pytest.mark.parametrize("command", ["k", "K"], ids=["key update", "key update that asks for ours"])
def test_idle_connection_may_talk_to_itself(start: Start, pki: Pki, tmp_path: Any, command: str) -> None:
    """Messages of TLS 1.3 after the handshake (tickets, key updates) come when they come; they are no data."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    (tmp_path / "pair.pem").write_text(pki.pair.cert + pki.pair.key)
    port = free_port()
    server = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(tmp_path / "pair.pem"), "-tls1_3"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
    )  # fmt: skip
    assert server.stdin is not None and server.stdout is not None
    try:
        wait_until(lambda: _listens(port), 5, "openssl listens")
        gateway = start(configuration([host_route(f"127.0.0.1:{port}")]), clusters={"*": pki.cluster()})
        with Client(gateway.port) as client:
            for i in range(3):
                client.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i)
                got = b""
                while b"\r\n\r\n" not in got:
                    got += server.stdout.read(4096)
                assert b"GET /%d HTTP/1.1\r\n" % i in got
                server.stdin.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
                assert client.answer().body == b"ok\n"
                server.stdin.write(command.encode() + b"\n")
                threading.Event().wait(0.1)  # an idle connection that dies of it dies now
                assert gateway.metrics().total("upstream_connections_active") == 1
        assert gateway.metrics().total("upstream_connects_total") == 1
        assert gateway.metrics().total("upstream_reuses_total") == 2
    finally:
        server.kill()
        server.wait()
        server.stdin.close()
        server.stdout.close()


def _listens(port: int) -> bool:
    """Whether somebody does, asked without connecting: s_server serves one connection at a time."""
    with open("/proc/net/tcp") as table:
        return any(f":{port:04X} 00000000:0000 0A" in line for line in table)


def test_tickets_that_come_with_the_answer(gateway: TlsGateway, dial: Dial, upstream: TlsUpstream) -> None:
    """The first answer on every connection, with the tickets before it; afterwards the connection is in the pool."""
    upstream.play(Peer.serve)
    clients = [dial(gateway) for _ in range(5)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    for client in clients:
        assert client.answer().status == 200
    opened = len(upstream.peers)
    for _ in range(20):
        assert clients[0].get("/").status == 200
    assert len(upstream.peers) == opened


@pytest.mark.parametrize(("names", "trusted"), [
    (["other.test", "spiffe://td/sa"], True), (["SPIFFE://td/sa"], False), (["b.wild.test"], True), (["a.b.wild.test"], False), (["wild.test"], False),
    (["10.0.0.7"], True), (["nobody.test"], False),
])  # fmt: skip
def test_an_alternative_name_will_do(start: Start, pki: Pki, names: list[str], trusted: bool) -> None:
    pair = pki.ca.issue("elsewhere.test", "spiffe://td/sa", "*.wild.test", "10.0.0.7")
    with TlsUpstream(pki.server(pair)) as up, towards(start, pki, up, "localhost", names=names) as gateway:
        answer = gateway.get("/")
        assert answer.status == (200 if trusted else 503)
        assert trusted or UNTRUSTED in answer.text


def test_the_servers_own_name_still_does(start: Start, pki: Pki) -> None:
    with TlsUpstream(pki.server()) as up, towards(start, pki, up, "localhost", names=["other.test"]) as gateway:
        assert gateway.get("/").status == 200
    with TlsUpstream(pki.server(pki.foreign.issue("localhost", "other.test"))) as up, towards(start, pki, up, "localhost", names=["other.test"]) as gateway:
        assert gateway.get("/").status == 503, "a name is nothing without trust"
