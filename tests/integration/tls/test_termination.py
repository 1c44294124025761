"""TLS from clients: handshake, records, names, ends. The routing and framing behind it are tested without TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest

from tests.integration.tls.conftest import Dial, Pki, TlsGateway, problem_of
from tests.kits.gateway import wait_until
from tests.peers.client import Client, Truncated, once
from tests.peers.tls import TlsClient, TlsSocket, TlsUpstream
from tests.peers.upstream import Peer, Upstream

GET = b"GET /plain HTTP/1.1\r\nHost: gw.test\r\n\r\n"


def hello(context: ssl.SSLContext, name: str | None = "localhost") -> bytes:
    """The ClientHello of a context, as it goes on the wire."""
    out = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError


# -------------------------------------------------------------------------------------------------------- handshake


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_request_over_each_version(gateway: TlsGateway, dial: Dial, pki: Pki, plain: Upstream, version: str) -> None:
    plain.play(Peer.serve)
    client = dial(gateway, context=pki.client(version=version))
    assert client.sock.tls.version() == f"TLSv{version}"
    assert client.get("/plain").body == b"ok"
    assert plain.requests[0].get(b"x-forwarded-proto") == [b"https"]


def test_older_versions_are_refused(gateway: TlsGateway, dial: Dial, pki: Pki) -> None:
    context = pki.client()
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError, match=r"PROTOCOL_VERSION|protocol version"):
        dial(gateway, context=context)


def test_alpn_is_http11(gateway: TlsGateway, dial: Dial, pki: Pki) -> None:
    context = pki.client()
    context.set_alpn_protocols(["h2", "http/1.1"])
    assert dial(gateway, context=context).sock.tls.selected_alpn_protocol() == "http/1.1"
    context.set_alpn_protocols(["h2"])
    assert dial(gateway, context=context).sock.tls.selected_alpn_protocol() is None


def test_redirects_stay_on_https(client: TlsClient) -> None:
    assert client.get("/moved").get(b"location") == [b"https://gw.test/there"]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_sessions_are_resumed(gateway: TlsGateway, dial: Dial, pki: Pki, plain: Upstream, version: str) -> None:
    plain.play(Peer.serve)
    context = pki.client(version=version)
    first = dial(gateway, context=context)
    assert first.get("/plain").status == 200
    assert not first.sock.tls.session_reused
    second = dial(gateway, context=context, session=first.sock.session)
    assert second.sock.tls.session_reused
    assert second.get("/plain").status == 200


def test_handshakes_are_counted(gateway: TlsGateway, dial: Dial) -> None:
    before = gateway.metrics()
    dial(gateway)
    once(gateway.port, b"\x16\x03\x01\x00\x05hello")
    after = wait_until(lambda: now if (now := gateway.metrics()).total("tls_handshake_failures_total") > before.total("tls_handshake_failures_total") else None)
    assert after.total("tls_handshakes_total") == before.total("tls_handshakes_total") + 1
    assert after.total("tls_handshake_failures_total") == before.total("tls_handshake_failures_total") + 1


@pytest.mark.parametrize("request_", [GET, b"POST / HTTP/1.1\r\n", b"get"])
def test_plain_http_is_told_so(gateway: TlsGateway, request_: bytes) -> None:
    answer = once(gateway.port, request_)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert problem_of(answer.partition(b"\r\n\r\n")[2].decode()) == "this port speaks TLS: use https"


@pytest.mark.parametrize(
    "octets",
    [b"\x16\x03\x01\x00\x10" + b"x" * 16, b"\x80\x2e\x01\x03\x01", b"\x00" * 64, b"\xff" * 20000, b"\x15\x03\x03\x00\x02\x02\x28"],
    ids=["no hello", "ssl2", "zeros", "ones", "alert"],
)
def test_what_is_neither_tls_nor_http_ends(gateway: TlsGateway, octets: bytes) -> None:
    with Client(gateway.port) as client:
        client.send(octets)
        client.half_close()
        assert client.until_eof(3)[:1] in (b"", b"\x15"), "an alert at most"


def test_refused_handshake_hears_the_alert(gateway: TlsGateway, dial: Dial, pki: Pki) -> None:
    context = pki.client(version="1.2")
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # the certificate's key is EC
    with pytest.raises(ssl.SSLError, match=r"HANDSHAKE_FAILURE|handshake failure"):
        dial(gateway, context=context)


def test_handshake_octet_by_octet(gateway: TlsGateway, dial: Dial, plain: Upstream) -> None:
    plain.play(Peer.serve)
    client = dial(gateway, bytewise=True)
    assert client.get("/plain").status == 200
    assert client.post("/plain", b"z" * 3000).status == 200
    assert plain.requests[1].body == b"z" * 3000


def test_silent_client_is_closed_after_first_byte_timeout(tight: TlsGateway) -> None:
    began = time.monotonic()
    with Client(tight.port) as client:
        assert client.closed(3)
    assert 0.8 < time.monotonic() - began < 1.5


@pytest.mark.parametrize("part", [1, 60, -1], ids=["one octet", "half", "all but one"])
def test_stalled_handshake_is_closed_after_header_timeout(tight: TlsGateway, pki: Pki, part: int) -> None:
    began = time.monotonic()
    with Client(tight.port) as client:
        client.send(hello(pki.client())[:part])
        assert client.closed(3)
    assert 0.5 < time.monotonic() - began < 1.2


def test_handshake_that_stalls_after_the_first_flight(tight: TlsGateway, pki: Pki) -> None:
    began = time.monotonic()
    with Client(tight.port) as client:
        client.send(hello(pki.client()))
        assert client.until_eof(3)[:1] == b"\x16"
    assert 0.5 < time.monotonic() - began < 1.2


def test_first_request_has_its_own_time(tight: TlsGateway, dial: Dial, upstream: TlsUpstream) -> None:
    """The handshake does not use up what the request has, and a head that stalls over TLS is a 408 over TLS."""
    upstream.play(Peer.serve)
    client = dial(tight)
    assert client.silent_for(0.75)
    assert client.get("/").status == 200
    client.send(b"GET / HT")
    assert client.answer().status == 408
    assert client.closed()
    assert client.sock.notified


# ------------------------------------------------------------------------------------------------------- connection


def test_keep_alive_and_pipelining(client: TlsClient, plain: Upstream) -> None:
    plain.play(Peer.serve)
    assert client.get("/plain").status == 200
    client.send(b"".join(b"GET /plain/%d HTTP/1.1\r\nHost: gw.test\r\n\r\n" % i for i in range(50)))
    for _ in range(50):
        assert client.answer().body == b"ok"
    assert [request.target for request in plain.requests[1:]] == [b"/plain/%d" % i for i in range(50)]
    assert len(plain.peers) == 1


def test_records_and_requests_need_not_agree(client: TlsClient, plain: Upstream) -> None:
    plain.play(Peer.serve)
    octets = client.message(b"POST", "/plain", b"a" * 1000) * 3
    for cut in range(0, len(octets), 7):
        with client.sock._lock:
            client.sock.tls.write(octets[cut : cut + 7])
    client.sock._flush()
    for _ in range(3):
        assert client.answer().status == 200
    assert [len(request.body) for request in plain.requests] == [1000] * 3


def test_connection_close_ends_with_close_notify(client: TlsClient, plain: Upstream) -> None:
    plain.play(Peer.serve)
    assert client.get("/plain", b"Connection: close").status == 200
    assert client.closed()
    assert client.sock.notified


def test_idle_connection_ends_with_close_notify(tight: TlsGateway, dial: Dial, upstream: TlsUpstream) -> None:
    upstream.play(Peer.serve)
    client = dial(tight)
    assert client.get("/").status == 200
    assert client.closed(3)
    assert client.sock.notified


def test_broken_answer_ends_without_close_notify(client: TlsClient, plain: Upstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    plain.play(script)
    client.send(GET)
    client.head()
    assert client.until_eof() == b"half"
    assert not client.sock.notified


def test_truncated_request_body_is_not_passed_off_as_whole(client: TlsClient, plain: Upstream) -> None:
    got: list[bytes] = []
    done = threading.Event()

    def script(peer: Peer) -> None:
        peer.owner.keep(peer.head())
        got.append(peer.until_eof())
        done.set()

    plain.play(script)
    client.send(b"POST /plain HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
    plain.wait_requests(1)
    client.sock.raw.shutdown(socket.SHUT_WR)
    assert done.wait(3)
    assert not got[0].endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("how", ["fin", "reset", "notify"])
def test_client_that_leaves_ends_its_event_stream(client: TlsClient, plain: Upstream, how: str) -> None:
    """Many clients send close_notify and wait for ours before they close: it must be read while we stream."""
    left = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        peer.until_eof()
        left.set()

    plain.play(script)
    client.send(GET)
    client.head()
    assert client.until(b"\n\n") == b"data: 1\n\n"
    if how == "fin":
        client.sock.raw.shutdown(socket.SHUT_WR)
    elif how == "reset":
        client.reset()
    else:
        client.sock.notify()
    assert left.wait(2)


def test_half_closed_client_gets_its_answer(client: TlsClient, plain: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.pause(go)
        peer.answer(body=b"late")

    plain.play(script)
    client.send(GET)
    client.half_close()
    plain.wait_requests(1)
    go.set()
    assert client.answer().body == b"late"
    assert client.closed()
    assert client.sock.notified


def test_pipelined_request_seen_while_answering_is_kept(client: TlsClient, plain: Upstream) -> None:
    go = threading.Event()

    def script(peer: Peer) -> None:
        request = peer.request()
        peer.pause(go)
        peer.answer(request)
        peer.serve()

    plain.play(script)
    client.send(GET)
    plain.wait_requests(1)
    client.send(GET)
    client.send(GET)
    go.set()
    for _ in range(3):
        assert client.answer().body == b"ok"


def test_corrupt_record_ends_the_connection_with_an_alert(client: TlsClient, plain: Upstream) -> None:
    plain.play(Peer.serve)
    client.sock.raw.sendall(b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|bad record mac"):
        client.sock.recv(1)
    assert not plain.requests


def test_corrupt_record_behind_a_good_request(client: TlsClient, plain: Upstream) -> None:
    """What came before the damage counts, what comes after does not."""
    plain.play(Peer.serve)
    with client.sock._lock:
        client.sock.tls.write(GET)
        good = client.sock._out.read()
    client.sock.raw.sendall(good + b"\x17\x03\x03\x00\x20" + b"\x00" * 32)
    with pytest.raises((ssl.SSLError, Truncated)):
        client.answer()
        client.until_eof()
    assert len(plain.requests) <= 1


def test_renegotiation_is_refused(gateway: TlsGateway, plain: Upstream) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    plain.play(Peer.serve)
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-tls1_2", "-servername", "localhost"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        out, _ = process.communicate(b"R\n", timeout=10)
    assert b"no renegotiation" in out.lower() or b"NO_RENEGOTIATION" in out


def test_curl(gateway: TlsGateway, pki: Pki, plain: Upstream, tmp_path: object) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("needs curl")
    plain.play(lambda peer: peer.serve(b"from behind"))
    ca = gateway.directory / "ca.pem"
    ca.write_text(pki.ca.pem)
    run = subprocess.run(
        [curl, "-sS", "--http1.1", "--cacert", str(ca), "--resolve", f"gw.test:{gateway.port}:127.0.0.1", f"https://gw.test:{gateway.port}/plain",
         f"https://gw.test:{gateway.port}/plain/2"],
        capture_output=True, timeout=10, check=True,
    )  # fmt: skip
    assert run.stdout == b"from behindfrom behind"
    assert len(plain.requests) == 2


def test_storm_of_aborted_handshakes(gateway: TlsGateway, dial: Dial, pki: Pki, plain: Upstream) -> None:
    """Cut a handshake at every length and in every way; nothing leaks and the gateway serves on."""
    plain.play(Peer.serve)
    first = hello(pki.client())
    before = gateway.metrics().total("downstream_connections_active")
    for i in range(0, len(first), 9):
        client = Client(gateway.port)
        client.send(first[:i] or b"\x16")
        if i % 2:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    wait_until(lambda: gateway.metrics().total("downstream_connections_active") == before, 5, "all connections gone")
    assert dial(gateway).get("/plain").status == 200


def test_two_threads_of_traffic_do_not_mix(gateway: TlsGateway, dial: Dial, plain: Upstream) -> None:
    """Many connections share the scratch buffers of one worker."""

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            peer.answer(request, request.body + request.target)

    plain.play(script)
    wrong: list[bytes] = []

    def talk(number: int) -> None:
        client = dial(gateway)
        for i in range(60):
            body = bytes([number]) * (i * 977 % 40_000)
            got = client.post(f"/plain/{number}/{i}", body).body
            if got != body + b"/plain/%d/%d" % (number, i):
                wrong.append(got[-40:])

    threads = [threading.Thread(target=talk, args=(n,), daemon=True) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong


def test_socket_of_the_kit_notices_truncation(gateway: TlsGateway, pki: Pki) -> None:
    """The tests above stand on this: FIN without close_notify is not the same to the kit."""
    left, right = socket.socketpair()
    server = threading.Thread(target=lambda: TlsSocket(right, pki.server(), server=True).raw.shutdown(socket.SHUT_WR), daemon=True)
    server.start()
    sock = TlsSocket(left, pki.client(), name="localhost")
    assert sock.recv(1) == b""
    assert sock.truncated and not sock.notified
    server.join(2)
    left.close()
    right.close()
