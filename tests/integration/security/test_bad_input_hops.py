"""Who a request is from stays true when another worker answers it, and what passed that way opens no door to anybody else.

A legacy session has one owner, so with two workers about half of the requests of a session are passed on (`agw.worker.hop`).
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.mcp.conftest import http_target
from tests.integration.security.test_external_services import Peers
from tests.kits.external import Answer, Asked
from tests.kits.gateway import Gateway, ask, free_ports
from tests.peers.authority import Authority, Pair, trusting
from tests.peers.mcp_client import BOTH, PATIENCE, Endpoint, Session, initialize
from tests.peers.mcp_script import Offer
from tests.peers.mcp_server import McpServer
from tests.peers.upstream import Peer, Upstream

VERSION = {"Mcp-Protocol-Version": "2025-11-25"}


class Shown(Endpoint):
    """An endpoint over TLS, for the holder of a certificate."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        super().__init__(port, "/mcp")
        self.context = context

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> http.client.HTTPConnection:
        connection = http.client.HTTPSConnection("localhost", self.port, timeout=PATIENCE, context=self.context)
        fields = {"Accept": BOTH if method == "POST" else "text/event-stream", **({} if body is None else {"Content-Type": "application/json"})}
        connection.request(method, self.path, body, {**fields, **(headers or {})})
        return connection


class House:
    """A gateway with two workers: a TLS port whose clients show certificates, and a plain one whose requests a service is asked about."""

    def __init__(self, stack: ExitStack, files: Path) -> None:
        self.ca = Authority()
        own = self.ca.issue("localhost", "127.0.0.1")
        for name, text in (("cert.pem", own.cert), ("key.pem", own.key), ("ca.pem", self.ca.pem)):
            (files / name).write_text(text)
        peers = Peers()
        stack.callback(peers.close)
        self.service = peers.http(self.decide)
        self.upstream = stack.enter_context(Upstream(Peer.serve))
        self.tools = stack.enter_context(McpServer(Offer(name="a", tools=["echo", "whoami"])))
        self.tls_port, self.port = free_ports(2)
        rules = {"rules": ['mcp.tool.name == "echo"', 'mcp.tool.name == "whoami" && source.subjectCn == "alice"']}
        mcp = {"matches": [{"path": {"pathPrefix": "/mcp"}}], "policies": {"mcpAuthorization": rules},
               "backends": [{"mcp": {"targets": [http_target("a", self.tools.port)]}}]}  # fmt: skip
        asked = {"policies": {"extAuthz": {"host": f"127.0.0.1:{self.service.port}", "protocol": {"http": {}}}}, "backends": [{"host": self.upstream.host}]}
        tls = {name: str(files / f"{file}.pem") for name, file in (("cert", "cert"), ("key", "key"), ("root", "ca"))}
        config = {
            "binds": [
                {"port": self.tls_port, "address": "127.0.0.1", "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": [mcp]}]},
                {"port": self.port, "address": "127.0.0.1", "listeners": [{"routes": [asked]}]},
            ],
            "config": {"connectionTerminationDeadline": "1s"},
        }
        self.gateway = stack.enter_context(Gateway(config, workers=2))

    @staticmethod
    def decide(asked: Asked) -> Answer:
        return (200, [], b"") if asked.target.startswith("/open") else (403, [], b"")

    def client(self, *names: str, pair: Pair | None = None) -> Shown:
        return Shown(self.tls_port, trusting(self.ca.pem, pair=pair or self.ca.issue(*names)))

    def hop(self, port: int) -> str:
        """A socket that workers pass requests on to."""
        table = Path("/proc/net/unix").read_text().splitlines()
        return "unix:" + next(words[-1] for line in table if (words := line.split())[-1].endswith(f".0.127.0.0.1:{port}") and words[3] == "00010000")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack, tmp_path_factory.mktemp("tls"))


def statuses(session: Session, tool: str, count: int = 12) -> list[int]:
    """Over connections of their own, so that both workers are asked."""
    return [session.call(tool, {"n": number}).status for number in range(count)]


def test_a_session_of_a_certificate_holds_in_both_workers(house: House) -> None:
    with Session(house.client("alice")) as session:
        assert statuses(session, "echo") == [200] * 12
        seen = [session.call("whoami") for _ in range(12)]
        assert ["result" in answer.message for answer in seen] == [True] * 12, "rules about the certificate hold where the session lives, too"
    with Session(house.client("bob")) as session:
        assert ["result" in session.call("whoami").message for _ in range(12)] == [False] * 12


def test_another_certificate_does_not_get_the_session(house: House) -> None:
    bob = house.client("bob")
    with Session(house.client("alice")) as session:
        stolen = {"Mcp-Session-Id": session.id, **VERSION}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}}
        assert {bob.post(body, stolen).status for _ in range(8)} == {404}
        forged = base64.b64encode(ssl.PEM_cert_to_DER_cert(house.ca.issue("alice").cert)).decode()
        for fields in ({"agw-certificate": forged}, {"agw-certificate": forged, "agw-hop": "2", "agw-peer": "127.0.0.1"}):
            assert {bob.post(body, {**stolen, **fields}).status for _ in range(8)} == {404}
        assert statuses(session, "echo", 4) == [200] * 4


def test_a_large_certificate_gets_over(house: House) -> None:
    """Larger than the bound for a client's field: hops have room of their own."""
    pair = house.ca.issue("alice", *(f"name-{number}.of-a-very-large-certificate.example" for number in range(280)))
    assert len(base64.b64encode(ssl.PEM_cert_to_DER_cert(pair.cert))) > 16_384
    with Session(house.client(pair=pair)) as session:
        assert statuses(session, "echo") == [200] * 12


def test_what_is_no_certificate_is_nobodys(house: House) -> None:
    for value in ("", "?", "AA", "AAAA", "A" * 20_000):
        fields = {"agw-hop": "2", "agw-peer": "127.0.0.1", "agw-certificate": value, "Accept": BOTH, "Content-Type": "application/json"}
        assert ask(house.hop(house.tls_port), "POST", "/mcp", json.dumps(initialize()).encode(), fields).status == 200
        assert house.gateway.pids(), "and nothing broke"


def test_what_passed_a_hop_unasked_is_no_pass_for_a_client(house: House) -> None:
    """The worker that passes a request on has asked the service, so the owner does not. What it remembers of that is for hops alone."""
    where, asked = house.hop(house.port), len(house.service.asked)
    for _ in range(2):
        assert ask(where, "GET", "/closed", headers={"agw-hop": "1", "agw-peer": "127.0.0.1", "Authorization": "Bearer x"}).status == 200
    assert len(house.service.asked) == asked
    direct: list[Any] = [house.gateway.get("/closed", house.port, headers={"Authorization": "Bearer x"}).status for _ in range(12)]
    assert direct == [403] * 12
    assert ask(where, "GET", "/closed", headers={"Authorization": "Bearer x"}).status == 403, "who does not say that it is a hop is none"
    assert house.gateway.get("/open", house.port).status == 200
