"""One path: what is routed, logged and sent upstream is the same string, and what two parsers could read differently is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.http.conftest import Dial, configuration, host_route
from tests.kits.gateway import Gateway
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

NORMAL = [
    (b"/", b"/"),
    (b"//", b"/"),
    (b"/a//b///c", b"/a/b/c"),
    (b"/a/./b", b"/a/b"),
    (b"/a/../b", b"/b"),
    (b"/a/b/../..", b"/"),
    (b"/a/b/..", b"/a/"),
    (b"/a/.", b"/a/"),
    (b"/a/%2e%2e/b", b"/b"),
    (b"/a/.%2E/b", b"/b"),
    (b"/%61%7e%2D%5f", b"/a~-_"),
    (b"/a%20b%c3%a9", b"/a%20b%C3%A9"),
    (b"/a;x=1/b,c", b"/a;x=1/b,c"),
    (b"/a/..;/b", b"/a/..;/b"),
    (b"/...", b"/..."),
    (b"/.well-known/x", b"/.well-known/x"),
    (b"/a%3fb%23c", b"/a%3Fb%23c"),
    (b"/a?x=/../%2f//", b"/a?x=/../%2f//"),
    (b"/a/?", b"/a/?"),
    (b"/A%41", b"/AA"),
]

REFUSED = [
    b"/a%2fb",
    b"/a%2Fb",
    b"/%5c",
    b"/a%5Cb",
    b"/a\\b",
    b"/%00",
    b"/a%00",
    b"/%0a",
    b"/%1f",
    b"/%7f",
    b"/..",
    b"/../a",
    b"/a/../..",
    b"/%2e%2e",
    b"/a/..//../..",
    b"/%",
    b"/%2",
    b"/%zz",
    b"/a%",
]


@pytest.mark.parametrize(("sent", "seen"), NORMAL)
def test_normalised_path_goes_upstream(client: Client, upstream: Upstream, sent: bytes, seen: bytes) -> None:
    upstream.play(Peer.serve)
    assert client.get(sent).status == 200
    assert upstream.requests[0].target == seen


@pytest.mark.parametrize("target", REFUSED)
def test_ambiguous_path_is_refused(client: Client, upstream: Upstream, target: bytes) -> None:
    upstream.play(Peer.serve)
    answer = client.get(target)
    assert answer.status == 400
    assert answer.get(b"content-type") == [b"application/json"]
    assert not upstream.peers
    # The message itself was in order, so the connection goes on.
    assert client.get("/").status == 200


@pytest.mark.parametrize(
    "target", [b"/a b", b"a", b"", b"*", b"/a#b", b"/\xe9", b"/\x7f", b"/\x00", b"ftp://h/", b"http://", b"http://u@h/", b"http://h:x/", b"//", b"?x"]
)
def test_invalid_targets_are_refused_and_the_connection_ends(client: Client, upstream: Upstream, target: bytes) -> None:
    upstream.play(Peer.serve)
    if target == b"//":
        target = b"http:///a"
    answer = client.get(target)
    assert answer.status == 400
    assert answer.closes
    assert client.closed()
    assert not upstream.peers


@pytest.fixture(scope="module")
def guarded(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    """/open goes to a, /open/secret to b; nothing else is routed."""
    a, b = session_upstreams["a"].host, session_upstreams["b"].host
    with Gateway(configuration([host_route(a, "/open"), host_route(b, "/open/secret")]), workers=1) as gateway:
        yield gateway


@pytest.mark.parametrize(
    "sent",
    [
        b"/open/secret",
        b"/open//secret",
        b"/open/./secret",
        b"/open/x/../secret",
        b"//open/secret/",
        b"/open/%73ecret",
        b"/x/..//open/%2e/secret",
        b"/open/secret?/../x",
    ],
)
def test_every_spelling_takes_the_same_route(guarded: Gateway, dial: Dial, upstream: Upstream, second: Upstream, sent: bytes) -> None:
    upstream.play(Peer.serve)
    second.play(Peer.serve)
    assert dial(guarded).get(sent).status == 200
    assert not upstream.requests
    assert second.requests[0].target.split(b"?")[0].rstrip(b"/") == b"/open/secret"


@pytest.mark.parametrize(
    ("sent", "status"), [(b"/open", 200), (b"/open/", 200), (b"/openly", 404), (b"/OPEN", 404), (b"/", 404), (b"/open/../closed", 404), (b"/open/secrets", 200)]
)
def test_prefixes_end_at_segments(guarded: Gateway, dial: Dial, upstream: Upstream, second: Upstream, sent: bytes, status: int) -> None:
    upstream.play(Peer.serve)
    second.play(Peer.serve)
    client = dial(guarded)
    answer = client.get(sent)
    assert answer.status == status
    assert not second.requests
    if status == 404:
        assert b'"status":404' in answer.body
        assert client.get("/open").status == 200
