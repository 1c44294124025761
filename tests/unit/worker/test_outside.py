"""Calls to URLs from outside: where they may go, and that they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from agw.security.contract import CallError, Trust
from agw.security.ssrf import Refused
from agw.worker import outside
from agw.worker.caller import MAX_ANSWER
from agw.worker.outside import OutsideCaller
from tests.kits.plane import Plane, refused_host, run
from tests.peers.authority import Authority, serving
from tests.peers.tls import TlsUpstream
from tests.peers.upstream import Blackhole, Peer, Upstream

TRUST = Trust()


@pytest.mark.parametrize("status", [b"200 OK", b"302 Found", b"401 Unauthorized"])
def test_where_the_operator_wrote_the_origin(status: bytes) -> None:
    with Upstream(lambda peer: peer.serve(b"{}", status=status, head=b"Location: http://127.0.0.1:1/\r\n")) as upstream:

        async def body(plane: Plane) -> None:
            call = OutsideCaller(plane.context)
            answer = await call("POST", f"http://{upstream.host}/token?x=1", [(b"content-type", b"text/plain")], b"a=b", TRUST)
            assert (answer.status, answer.body) == (int(status[:3]), b"{}")
            await call("GET", f"http://{upstream.host}", [], b"", TRUST)

        run(body)
        one, two = upstream.requests
        assert (one.line, one.body, one.get(b"host")) == (b"POST /token?x=1 HTTP/1.1", b"a=b", [upstream.host.encode()])
        assert (two.line, two.get(b"content-length")) == (b"GET / HTTP/1.1", [])
        assert len(upstream.peers) == 2, "nothing of a call is kept for the next"


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/", "https://{host}/", "https://localhost/", "https://10.0.0.1/", "https://[::1]/", "https://169.254.169.254/latest", "file:///etc/passwd",
        "https://user@api.example/", "https://metadata.google.internal/", "https://0x7f.1/", "https://[::ffff:127.0.0.1]/", "not a url",
    ],
)  # fmt: skip
def test_nowhere_else_but_public_https(url: str) -> None:
    with Upstream(lambda peer: peer.serve(b"{}")) as upstream:

        async def body(plane: Plane) -> None:
            with pytest.raises(CallError) as caught:
                await OutsideCaller(plane.context)("GET", url.format(host=upstream.host), [], b"")
            assert caught.value.kind == "forbidden"

        run(body)
        assert upstream.peers == []


def test_what_a_name_leads_to_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leads_inside(host: str, *, internal: bool) -> list[str]:
        assert (host, internal) == ("rebound.example", False)
        raise Refused("the name leads to an address that is not public")

    async def body(plane: Plane) -> None:
        monkeypatch.setattr(outside, "resolve_public", leads_inside)
        with pytest.raises(CallError, match="not public"):
            await OutsideCaller(plane.context)("GET", "https://rebound.example/", [], b"")

    run(body)


def test_the_certificate_is_that_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ca = Authority()

    async def leads_here(host: str, *, internal: bool) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(outside, "resolve_public", leads_here)
    with TlsUpstream(serving(ca.issue("api.example")), lambda peer: peer.serve(b"{}")) as upstream:

        async def body(plane: Plane) -> None:
            call = OutsideCaller(plane.context)
            answer = await call("GET", f"https://api.example:{upstream.port}/", [], b"", Trust(ca.pem))
            assert (answer.status, answer.body) == (200, b"{}")
            for name, trust in (("other.example", Trust(ca.pem)), ("api.example", Trust()), ("api.example", None)):
                with pytest.raises(CallError) as caught:
                    await call("GET", f"https://{name}:{upstream.port}/", [], b"", trust)
                assert caught.value.kind == "connect"

        run(body)
        (request,) = upstream.requests
        assert request.get(b"host") == [f"api.example:{upstream.port}".encode()]


def huge(peer: Peer) -> None:
    peer.serve(b"x" * (MAX_ANSWER + 1))


def cut(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


@pytest.mark.parametrize(("script", "kind"), [(huge, "limit"), (cut, "closed")])
def test_answers_that_are_none(script: Callable[[Peer], None], kind: str) -> None:
    with Upstream(script) as upstream:

        async def body(plane: Plane) -> None:
            with pytest.raises(CallError) as caught:
                await OutsideCaller(plane.context)("GET", f"http://{upstream.host}/", [], b"", TRUST)
            assert caught.value.kind == kind

        run(body)


@pytest.mark.parametrize("bound", ["MAX_CALLS", "MAX_PER_HOST"])
def test_nobody_there_and_nobody_answering(monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
    with contextlib.closing(Blackhole()) as hole:

        async def body(plane: Plane) -> None:
            call = OutsideCaller(plane.context, timeout_s=0.3)
            with pytest.raises(CallError) as caught:
                await call("GET", f"http://{refused_host()}/", [], b"", TRUST)
            assert caught.value.kind == "connect"
            monkeypatch.setattr(outside, bound, 2)
            waiting = [asyncio.ensure_future(call("GET", f"http://{hole.host}/", [], b"", TRUST)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(CallError) as caught:
                await call("GET", f"http://{hole.host}/", [], b"", TRUST)
            assert caught.value.kind == "limit"
            for each in waiting:
                with pytest.raises(CallError) as caught:
                    await each
                assert caught.value.kind in ("timeout", "connect")
            with pytest.raises(CallError, match=r"no answer in time|no connection"):
                await call("GET", f"http://{hole.host}/", [], b"", TRUST)

        run(body)
