"""Every policy of a route, and the choice of the route, through a real gateway."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.http.conftest import Dial, configuration, host_route, mcp_route, unharmed
from tests.kits.gateway import Gateway
from tests.peers.client import Answer, Client, Truncated
from tests.peers.upstream import Peer, Upstream


def policies_routes(a: str, b: str, unix: str) -> list[dict[str, Any]]:
    def route(prefix: str, backends: Any = None, **policies: Any) -> dict[str, Any]:
        made = host_route(a, prefix, policies=policies)
        if backends is not None:
            made["backends"] = backends
        return made

    def match(name: str, where: str, *matches: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"name": name, "matches": list(matches), "backends": [{"host": where}], **more}

    def rewritten(name: str, where: str = a, **rewrite: Any) -> dict[str, Any]:
        return host_route(where, f"/rw-{name}", policies={"urlRewrite": rewrite})

    def moved(name: str, **redirect: Any) -> dict[str, Any]:
        return host_route(a, f"/mv-{name}", policies={"requestRedirect": redirect})

    cors = {
        "allowOrigins": ["https://app.example.com", "https://*.wild.example"],
        "allowMethods": ["GET", "PUT"],
        "allowHeaders": ["x-token"],
        "exposeHeaders": ["x-seen"],
        "allowCredentials": True,
        "maxAge": "10m",
    }
    return [
        route("/req", requestHeaderModifier={"set": {"x-set": "new", "user-agent": "agw"}, "add": {"x-add": "more"}, "remove": ["x-gone", "Cookie"]}),
        route("/req-xff", requestHeaderModifier={"set": {"x-forwarded-proto": "https"}, "remove": ["x-forwarded-host"]}),
        route("/res", responseHeaderModifier={"set": {"server": "agw", "x-set": "new"}, "add": {"set-cookie": "b=2"}, "remove": ["X-Powered-By"]}),
        route(
            "/both",
            [{"host": a, "policies": {"requestHeaderModifier": {"set": {"x-level": "backend"}}, "responseHeaderModifier": {"set": {"x-level": "backend"}}}}],
            requestHeaderModifier={"set": {"x-level": "route", "x-route": "1"}},
            responseHeaderModifier={"set": {"x-level": "route", "x-route": "1"}},
        ),
        rewritten("full", authority={"full": "other.example:81"}, path={"full": "/fixed"}),
        rewritten("prefix", path={"prefix": "/new/base"}),
        rewritten("root", path={"prefix": "/"}),
        rewritten("slash", path={"prefix": "/new/"}),
        rewritten("host", authority={"host": "other.example"}),
        rewritten("port", authority={"port": 81}),
        rewritten("none", authority="none"),
        rewritten("auto", authority="auto"),
        host_route(a, "/", hostnames=["rewrite.test"], policies={"urlRewrite": {"path": {"prefix": "/base"}}}) | {"name": "root-rewrite"},
        moved("plain", path={"full": "/there"}),
        moved("https", scheme="https", authority={"host": "www.example.com"}, path={"prefix": "/new"}, status=301),
        moved("full", authority={"full": "x.example:8443"}, status=308),
        moved("port", authority={"port": 81}, status=307),
        moved("none", scheme="https", authority="none"),
        route("/mv-backend", [{"host": a, "policies": {"requestRedirect": {"path": {"full": "/b"}, "status": 303}}}]),
        route("/direct", [], directResponse={"status": 418, "body": "short\n", "headers": {"x-kind": "'teapot'"}}),
        route("/direct-204", [], directResponse={"status": 204}),
        route("/direct-edited", [], directResponse={"status": 200, "body": "x"}, responseHeaderModifier={"set": {"x-edited": "1"}}),
        route("/cors", cors=cors),
        route("/cors-any", cors={"allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"]}),
        route("/cors-any-credentials", cors={"allowOrigins": ["*"], "allowMethods": ["GET"], "allowCredentials": True}),
        route("/cors-down", [{"host": "127.0.0.1:9"}], cors=cors),
        route("/cors-direct", [], cors=cors, directResponse={"status": 200, "body": "x"}),
        route("/cors-none", [{"host": a, "weight": 0}], cors=cors),
        mcp_route(a, "/cors-mcp") | {"policies": {"cors": cors}, "name": "cors-mcp"},
        route("/slow-request", timeout={"requestTimeout": "400ms"}),
        route("/slow-backend", timeout={"backendRequestTimeout": "400ms"}),
        route("/weights", [{"host": a, "weight": 1}, {"host": b, "weight": 3}]),
        route("/zero", [{"host": a, "weight": 0}, {"host": b, "weight": 2}]),
        route("/nothing", [{"host": a, "weight": 0}]),
        match("m-header", b, {"path": {"pathPrefix": "/match"}, "headers": [{"name": "X-Canary", "value": {"exact": "1"}}]}),
        match("m-regex", b, {"path": {"pathPrefix": "/match"}, "headers": [{"name": "x-version", "value": {"regex": "v[0-9]+"}}]}),
        match("m-query", b, {"path": {"pathPrefix": "/match"}, "query": [{"name": "canary", "value": {"regex": "1|true"}}]}),
        match("m-method", b, {"path": {"pathPrefix": "/match"}, "method": "PURGE"}),
        match(
            "m-and",
            b,
            {
                "path": {"pathPrefix": "/match-and"},
                "method": "POST",
                "headers": [{"name": "a", "value": {"exact": "1"}}, {"name": "b", "value": {"exact": "2"}}],
            },
        ),
        match("m-rest", a, {"path": {"pathPrefix": "/match"}}),
        match("m-exact", b, {"path": {"exact": "/path/exact"}}),
        match("m-path-regex", b, {"path": {"regex": "/path/[0-9]+"}}),
        match("m-path", a, {"path": {"pathPrefix": "/path"}}),
        match("h-exact", b, {"path": {"pathPrefix": "/host"}}, hostnames=["exact.test"]),
        match("h-wild", b, {"path": {"pathPrefix": "/host"}}, hostnames=["*.wild.test"]),
        match("h-any", a, {"path": {"pathPrefix": "/host"}}),
        {"name": "named", "matches": [{"path": {"pathPrefix": "/named"}}], "backends": [{"backend": "orders"}]},
        host_route(unix, "/unix"),
    ]


@pytest.fixture(scope="module")
def module_policy_gateway(session_upstreams: dict[str, Upstream]) -> Iterator[Gateway]:
    a, b, u = (session_upstreams[name].host for name in "abu")
    named = {"backends": [{"name": "orders", "host": f"http://{b}", "policies": {"requestHeaderModifier": {"set": {"x-source": "gateway"}}}}]}
    with Gateway(configuration(policies_routes(a, b, u), **named), workers=1) as gateway:
        yield gateway


@pytest.fixture
def gateway(module_policy_gateway: Gateway) -> Iterator[Gateway]:
    with unharmed(module_policy_gateway):
        yield module_policy_gateway


# ------------------------------------------------------------------------------------------------------ header changes


def test_request_header_modifier(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.get("/req", b"X-Set: old", b"x-set: older", b"X-Gone: 1", b"COOKIE: a", b"X-Add: less", b"User-Agent: curl")
    request = upstream.requests[0]
    assert request.get(b"x-set") == [b"new"]
    assert request.get(b"user-agent") == [b"agw"]
    assert request.get(b"x-add") == [b"less", b"more"]
    assert request.get(b"x-gone") == request.get(b"cookie") == []


def test_request_header_modifier_wins_over_x_forwarded(client: Client, upstream: Upstream) -> None:
    """What the operator sets or removes is what the backend sees: one field, or none."""
    upstream.play(Peer.serve)
    client.get("/req-xff")
    request = upstream.requests[0]
    assert request.get(b"x-forwarded-proto") == [b"https"]
    assert request.get(b"x-forwarded-host") == []
    assert request.get(b"x-forwarded-for") == [b"127.0.0.1"]


def test_response_header_modifier(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.serve(head=b"Server: up\r\nX-POWERED-by: x\r\nX-Set: old\r\nx-set: older\r\nSet-Cookie: a=1\r\n"))
    answer = client.get("/res")
    assert answer.get(b"server") == [b"agw"]
    assert answer.get(b"x-set") == [b"new"]
    assert answer.get(b"set-cookie") == [b"a=1", b"b=2"]
    assert answer.get(b"x-powered-by") == []


def test_policies_of_route_and_backend_meet(client: Client, upstream: Upstream) -> None:
    """Both run; the backend's request changes come last, the route's response changes come last."""
    upstream.play(Peer.serve)
    answer = client.get("/both", b"X-Level: client")
    assert upstream.requests[0].get(b"x-level") == [b"backend"]
    assert upstream.requests[0].get(b"x-route") == [b"1"]
    assert answer.get(b"x-level") == [b"route"]
    assert answer.get(b"x-route") == [b"1"]


# ------------------------------------------------------------------------------------------------------------ rewrites


@pytest.mark.parametrize(
    ("sent", "target", "host"),
    [
        ("/rw-full/a?q=1", b"/fixed?q=1", b"other.example:81"),
        ("/rw-prefix", b"/new/base", None),
        ("/rw-prefix/", b"/new/base/", None),
        ("/rw-prefix/a/b?q", b"/new/base/a/b?q", None),
        ("/rw-prefix/a//../b", b"/new/base/b", None),
        ("/rw-root/a", b"/a", None),
        ("/rw-root", b"/", None),
        ("/rw-root/", b"/", None),
        ("/rw-slash/a", b"/new/a", None),
        ("/rw-slash", b"/new", None),
        ("/rw-host", b"/rw-host", b"other.example:8080"),
        ("/rw-port", b"/rw-port", b"gw.test:81"),
        ("/rw-none", b"/rw-none", b"gw.test:8080"),
        ("/rw-auto", b"/rw-auto", None),
    ],
)
def test_url_rewrite(client: Client, upstream: Upstream, sent: str, target: bytes, host: bytes | None) -> None:
    upstream.play(Peer.serve)
    client.get(sent, host=b"gw.test:8080")
    request = upstream.requests[0]
    assert request.target == target or (sent == "/rw-slash" and request.target == b"/new/")
    assert request.get(b"host") == [upstream.authority if host is None else host]
    assert request.get(b"x-forwarded-host") == [b"gw.test:8080"]


@pytest.mark.parametrize(("sent", "target"), [("/a/b", b"/base/a/b"), ("/", b"/base/"), ("/a?q", b"/base/a?q")])
def test_prefix_rewrite_of_the_root_route(client: Client, upstream: Upstream, sent: str, target: bytes) -> None:
    upstream.play(Peer.serve)
    client.get(sent, host=b"rewrite.test")
    assert upstream.requests[0].target == target


# ----------------------------------------------------------------------------------------------------------- redirects


@pytest.mark.parametrize(
    ("sent", "status", "location"),
    [
        ("/mv-plain/x?q=1", 302, b"http://gw.test:8080/there?q=1"),
        ("/mv-https/x?q=1", 301, b"https://www.example.com/new/x?q=1"),
        ("/mv-https", 301, b"https://www.example.com/new"),
        ("/mv-full/x", 308, b"http://x.example:8443/mv-full/x"),
        ("/mv-port/x", 307, b"http://gw.test:81/mv-port/x"),
        ("/mv-none/x", 302, b"https://gw.test/mv-none/x"),
        ("/mv-backend/x", 303, b"http://gw.test:8080/b"),
    ],
)
def test_redirects(client: Client, upstream: Upstream, sent: str, status: int, location: bytes) -> None:
    upstream.play(Peer.serve)
    answer = client.get(sent, host=b"gw.test:8080")
    assert answer.status == status
    assert answer.get(b"location") == [location]
    assert answer.get(b"content-length") == [b"0"]
    assert not upstream.peers
    assert client.get(sent, host=b"gw.test:8080", method=b"HEAD").status == status


def test_redirect_of_a_post_leaves_the_connection_in_order(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for _ in range(3):
        assert client.post("/mv-plain", b"x" * 1000).status == 302
    chunked = b"POST /mv-plain HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = client.ask(chunked)
    assert answer.status == 302
    assert client.closed() if answer.closes else client.get("/req").status == 200


# ---------------------------------------------------------------------------------------------------- direct responses


def test_direct_response(client: Client) -> None:
    answer = client.get("/direct/x")
    assert answer.status == 418
    assert answer.body == b"short\n"
    assert answer.get(b"x-kind") == [b"teapot"]
    assert answer.get(b"content-length") == [b"6"]
    head = client.get("/direct", method=b"HEAD")
    assert (head.status, head.get(b"content-length")) == (418, [b"6"])
    empty = client.get("/direct-204")
    assert (empty.status, empty.get(b"content-length")) == (204, [])
    assert client.get("/direct-edited").get(b"x-edited") == [b"1"]
    assert client.post("/direct", b"y" * 100_000).status == 418
    assert client.get("/direct").status == 418


def test_direct_response_to_a_large_upload_ends_the_connection(gateway: Gateway, dial: Dial) -> None:
    client = dial(gateway)
    client.send(b"POST /direct HTTP/1.1\r\nHost: h\r\nContent-Length: 10000000000\r\n\r\n" + b"x" * 1000)
    assert client.answer().status == 418
    assert client.closed()


# ---------------------------------------------------------------------------------------------------------------- cors


def allowed(answer: Answer) -> dict[bytes, bytes]:
    return {k.lower().removeprefix(b"access-control-"): v for k, v in answer.fields if k.lower().startswith(b"access-control-")}


def preflight(client: Client, path: str, origin: bytes) -> Answer:
    return client.get(path, b"Origin: " + origin, b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: x-token", method=b"OPTIONS")


@pytest.mark.parametrize("origin", [b"https://app.example.com", b"https://a.wild.example", b"https://a.b.wild.example"])
def test_cors_preflight(client: Client, upstream: Upstream, origin: bytes) -> None:
    upstream.play(Peer.serve)
    answer = preflight(client, "/cors", origin)
    assert answer.status == 200
    got = allowed(answer)
    assert got.pop(b"allow-methods").replace(b" ", b"") == b"GET,PUT"
    assert got == {b"allow-origin": origin, b"allow-credentials": b"true", b"allow-headers": b"x-token", b"max-age": b"600"}
    assert b"origin" in answer.get(b"vary")[0].lower()
    assert not upstream.peers
    assert client.get("/cors").status == 200


@pytest.mark.parametrize(
    "origin",
    [
        b"https://evil.example",
        b"http://app.example.com",
        b"https://app.example.com:8443",
        b"https://app.example.com.evil",
        b"null",
        b"https://wild.example",
        b"https://evilwild.example",
        b"https://a.wild.example:81",
        b"https://x/.wild.example",
        b"",
    ],
)
def test_cors_refused_origin_gets_no_headers(client: Client, upstream: Upstream, origin: bytes) -> None:
    upstream.play(Peer.serve)
    answer = preflight(client, "/cors", origin)
    assert answer.status == 200
    assert allowed(answer) == {}
    answer = client.get("/cors", b"Origin: " + origin)
    assert answer.status == 200
    assert allowed(answer) == {}
    assert any(b"origin" in v.lower() for v in answer.get(b"vary"))


def test_cors_actual_request(client: Client, upstream: Upstream) -> None:
    """The backend's own CORS fields are replaced, not joined."""
    upstream.play(lambda peer: peer.serve(head=b"Access-Control-Allow-Origin: *\r\naccess-control-expose-headers: x-other\r\nVary: Accept\r\n"))
    answer = client.get("/cors", b"Origin: https://app.example.com")
    assert allowed(answer) == {b"allow-origin": b"https://app.example.com", b"allow-credentials": b"true", b"expose-headers": b"x-seen"}
    assert {v.lower() for v in answer.get(b"vary")} >= {b"accept", b"origin"}
    answer = client.get("/cors", b"Origin: https://evil.example")
    assert allowed(answer) == {}
    assert upstream.requests[0].get(b"origin") == [b"https://app.example.com"]


def test_cors_without_origin_still_varies_or_is_left_alone(client: Client, upstream: Upstream) -> None:
    """A shared cache must not serve the copy of a request without Origin to a browser of an allowed origin."""
    upstream.play(Peer.serve)
    answer = client.get("/cors")
    assert allowed(answer) == {}
    assert any(b"origin" in v.lower() for v in answer.get(b"vary"))


def test_cors_plain_options_goes_upstream(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    answer = client.get("/cors", b"Origin: https://app.example.com", method=b"OPTIONS")
    assert answer.body == b"ok"
    assert allowed(answer)[b"allow-origin"] == b"https://app.example.com"
    assert upstream.requests[0].method == b"OPTIONS"


def test_cors_wildcard(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    assert allowed(client.get("/cors-any", b"Origin: https://any.example"))[b"allow-origin"] == b"*"
    got = allowed(preflight(client, "/cors-any", b"null"))
    assert got == {b"allow-origin": b"*", b"allow-methods": b"*", b"allow-headers": b"*"}
    got = allowed(client.get("/cors-any-credentials", b"Origin: https://any.example"))
    assert got[b"allow-origin"] == b"https://any.example"
    assert got[b"allow-credentials"] == b"true"


@pytest.mark.parametrize(("path", "status"), [("/cors-down", 503), ("/cors-direct", 200), ("/cors-none", 500), ("/cors/%2f", 400)])
def test_cors_headers_on_the_gateways_own_answers(client: Client, path: str, status: int) -> None:
    answer = client.get(path, b"Origin: https://app.example.com")
    assert answer.status == status
    if status != 400:  # no route, so no policy
        assert allowed(answer)[b"allow-origin"] == b"https://app.example.com"
        assert allowed(answer)[b"allow-credentials"] == b"true"


def test_cors_headers_on_json_rpc_errors(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for body, lines in ((b"{", ()), (b'{"jsonrpc":"1.0","id":1,"method":"x"}', ())):
        answer = client.ask(client.message(b"POST", "/cors-mcp", body, b"Origin: https://app.example.com", *lines))
        assert answer.status == 400
        assert allowed(answer)[b"allow-origin"] == b"https://app.example.com"
        assert b'"jsonrpc":"2.0"' in answer.body


# ------------------------------------------------------------------------------------------------------------ timeouts


@pytest.mark.parametrize("path", ["/slow-request", "/slow-backend"])
def test_timeout_before_the_head_is_504(client: Client, upstream: Upstream, path: str) -> None:
    upstream.play(lambda peer: (peer.request(), peer.until_eof(3)))
    began = time.monotonic()
    answer = client.get(path)
    assert answer.status == 504
    assert 0.35 < time.monotonic() - began < 1.5
    assert upstream.peers[0].closed.wait(2)
    upstream.play(Peer.serve)
    assert client.get(path).status == 200
    assert client.get("/req").status == 200


def test_request_timeout_cuts_a_body(client: Client, upstream: Upstream) -> None:
    stop = threading.Event()

    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            peer.send(b"1\r\nx\r\n")
            if stop.wait(0.05):
                return

    upstream.play(script)
    with pytest.raises(Truncated) as ended:
        client.get("/slow-request")
    stop.set()
    assert b"0\r\n" not in ended.value.got
    assert upstream.peers[0].closed.wait(2)


def test_request_timeout_counts_the_upload(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    client.send(b"POST /slow-request HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345")
    assert client.answer().status == 504


def test_backend_timeout_leaves_bodies_alone(client: Client, upstream: Upstream) -> None:
    def script(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na")
        for octet in (b"b", b"c"):
            threading.Event().wait(0.3)
            peer.send(octet)
        peer.until_eof()

    upstream.play(script)
    assert client.get("/slow-backend").body == b"abc"


def test_deadline_of_one_request_does_not_hit_the_next(client: Client, upstream: Upstream) -> None:
    upstream.play(lambda peer: peer.serve())
    assert client.get("/slow-request").status == 200
    stop = threading.Event()

    def late(peer: Peer) -> None:
        peer.request()
        stop.wait(0.7)
        peer.answer()
        peer.until_eof()

    upstream.play(late)
    assert client.get("/req").status == 200


# ---------------------------------------------------------------------------------------------------- weights, matches


def test_weights(client: Client, upstream: Upstream, second: Upstream) -> None:
    upstream.play(lambda peer: peer.serve(b"a"))
    second.play(lambda peer: peer.serve(b"b"))
    seen = Counter(client.get("/weights").body for _ in range(400))
    assert set(seen) == {b"a", b"b"}
    # 3 of 4 with a standard deviation of 8.7: six of them.
    assert 248 <= seen[b"b"] <= 352
    assert Counter(client.get("/zero").body for _ in range(50)) == {b"b": 50}
    assert client.get("/nothing").status == 500


@pytest.mark.parametrize(
    ("path", "lines", "method", "host", "to"),
    [
        ("/match", [], b"GET", b"h", b"a"),
        ("/match", [b"x-CANARY: 1"], b"GET", b"h", b"b"),
        ("/match", [b"x-canary: 11"], b"GET", b"h", b"a"),
        ("/match", [b"x-canary: 1", b"x-canary: 2"], b"GET", b"h", b"a"),
        ("/match", [b"x-version: v12"], b"GET", b"h", b"b"),
        ("/match", [b"x-version: v12x"], b"GET", b"h", b"a"),
        ("/match?canary=1", [], b"GET", b"h", b"b"),
        ("/match?x=1&canary=%74rue&y", [], b"GET", b"h", b"b"),
        ("/match?canary=", [], b"GET", b"h", b"a"),
        ("/match?canary=2&canary=1", [], b"GET", b"h", b"a"),
        ("/match", [], b"PURGE", b"h", b"b"),
        ("/match", [], b"purge", b"h", b"a"),
        ("/match-and", [b"a: 1", b"b: 2"], b"POST", b"h", b"b"),
        ("/path/exact", [], b"GET", b"h", b"b"),
        ("/path/exact/", [], b"GET", b"h", b"a"),
        ("/path/12", [], b"GET", b"h", b"b"),
        ("/path/12/", [], b"GET", b"h", b"a"),
        ("/host", [], b"GET", b"exact.test", b"b"),
        ("/host", [], b"GET", b"EXACT.test:8080", b"b"),
        ("/host", [], b"GET", b"a.wild.test", b"b"),
        ("/host", [], b"GET", b"a.b.WILD.test", b"b"),
        ("/host", [], b"GET", b"wild.test", b"a"),
        ("/host", [], b"GET", b"exact.test.evil", b"a"),
        ("http://exact.test/host", [], b"GET", b"h", b"b"),
        ("/host", [], b"GET", b"[::1]:80", b"a"),
    ],
)
def test_matching(client: Client, upstream: Upstream, second: Upstream, path: str, lines: list[bytes], method: bytes, host: bytes, to: bytes) -> None:
    upstream.play(lambda peer: peer.serve(b"a"))
    second.play(lambda peer: peer.serve(b"b"))
    assert client.get(path, *lines, method=method, host=host).body == to


@pytest.mark.parametrize("lines", [[b"a: 1"], [b"b: 2"], [b"a: 1", b"b: 3"]])
def test_all_conditions_must_hold(client: Client, upstream: Upstream, second: Upstream, lines: list[bytes]) -> None:
    upstream.play(lambda peer: peer.serve(b"a"))
    second.play(lambda peer: peer.serve(b"b"))
    assert client.get("/match-and", *lines, method=b"POST").status == 404
    assert client.get("/match-and", b"a: 1", b"b: 2").status == 404


def test_named_backend_brings_its_policies(client: Client, second: Upstream) -> None:
    second.play(Peer.serve)
    assert client.get("/named/x").body == b"ok"
    assert second.requests[0].get(b"x-source") == [b"gateway"]
    assert second.requests[0].get(b"host") == [second.authority]


def test_unix_backend(client: Client, on_unix: Upstream) -> None:
    on_unix.play(lambda peer: peer.serve(b"from the socket"))
    for _ in range(3):
        assert client.get("/unix").body == b"from the socket"
    assert len(on_unix.peers) == 1
