"""The certificate a client has proved to own, as the handshake leaves it. A real acceptor in this process, real clients."""

from __future__ import annotations

import gc
import socket
import ssl
import threading

import pytest

from agw._fast.acceptor import Acceptor
from agw._fast.tls import Tls
from agw.runtime.compile import compile_plan
from agw.runtime.plan import BindPlan, DirectResponsePlan, ListenerPlan, MatchPlan, Plan, PolicyPlan, RoutePlan
from agw.runtime.snapshot import LabelIndex, Labels
from tests.integration.tls.conftest import Pki
from tests.kits.plane import Plane, run
from tests.peers.authority import Authority
from tests.peers.tls import TlsSocket

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Client(threading.Thread):
    """Connects, asks once if it gets in, and stays until `leave` is set."""

    def __init__(self, port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> None:
        super().__init__()
        self.arrived = threading.Event()
        self.leave = threading.Event()
        self.session = session
        self.reused: bool | None = False
        self.answer = b""
        self._port = port
        self._context = context
        self.start()

    def run(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), 10) as raw:
            try:
                sock = TlsSocket(raw, self._context, name="localhost", session=self.session)
                sock.sendall(GET)
                self.answer = sock.recv(4096)
                self.session, self.reused = sock.session, sock.tls.session_reused
            except (ssl.SSLError, ConnectionError):
                pass
            self.arrived.set()
            self.leave.wait(10)


def alive() -> dict[int, Tls]:
    """The TLS connections of this process; an acceptor keeps its own to itself."""
    return {id(found): found for found in gc.get_objects() if isinstance(found, Tls)}


def certificates(pki: Pki, client_ca: str, context: ssl.SSLContext, times: int = 1) -> tuple[list[list[bytes | None]], list[Client]]:
    """What the gateway's end of a connection knows while it is open, for one client after another that resume the session."""
    plan = Plan(
        binds=[BindPlan("b", 1, listeners=[ListenerPlan("l", "g", routes=[0], tls=pki.listener(client_ca=client_ca))])],
        routes=[RoutePlan("r", matches=[MatchPlan()], policies=PolicyPlan(direct_response=DirectResponsePlan(200, "ok")))],
    )
    found: list[list[bytes | None]] = []
    clients: list[Client] = []

    async def body(plane: Plane) -> None:
        (bind,) = compile_plan(plan, 1, LabelIndex(Labels())).binds.values()
        plane.context.adopt(bind.http)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        port = listener.getsockname()[1]
        acceptor = Acceptor(plane.context, listener.detach(), bind)
        acceptor.start()
        session = None
        for _ in range(times):
            before = alive()
            client = Client(port, context, session)
            clients.append(client)
            try:
                await plane.until(client.arrived.is_set, "the client's answer")
                found.append([tls.certificate() for key, tls in alive().items() if key not in before])
            finally:
                client.leave.set()
                await plane.until(lambda client=client: not client.is_alive(), "the client's end")
            session = client.session
            before.clear()
        acceptor.stop_accepting()
        acceptor.cut()

    run(body)
    return found, clients


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_what_a_client_proved_is_known_octet_by_octet(pki: Pki, version: str) -> None:
    pair = pki.ca.issue("agent-7")
    found, (client,) = certificates(pki, pki.ca.pem, pki.client(pair=pair, version=version))
    assert client.answer.startswith(b"HTTP/1.1 200")
    assert found == [[ssl.PEM_cert_to_DER_cert(pair.cert)]]


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_resumed_session_is_whose_it_was(pki: Pki, version: str) -> None:
    pair = pki.ca.issue("agent-7")
    found, clients = certificates(pki, pki.ca.pem, pki.client(pair=pair, version=version), times=2)
    assert [client.reused for client in clients] == [False, True]
    assert found == [[ssl.PEM_cert_to_DER_cert(pair.cert)]] * 2


def test_nobody_asked_for_one(pki: Pki) -> None:
    found, (client,) = certificates(pki, "", pki.client(pair=pki.ca.issue("agent-7")))
    assert client.answer.startswith(b"HTTP/1.1 200")
    assert found == [[None]]


def test_one_that_nobody_trusts_is_none(pki: Pki) -> None:
    found, (client,) = certificates(pki, pki.ca.pem, pki.client(pair=Authority("somebody else").issue("agent-7")))
    assert client.answer == b""
    assert found in ([], [[]], [[None]])
