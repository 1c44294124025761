"""Any valid request through the gateway is the request the upstream sees, but for the rules written down in `expected`."""

from __future__ import annotations

import random

from agw._fast.http1 import normalised_path
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
HOPS = [b"Keep-Alive", b"Proxy-Connection", b"Proxy-Authorization", b"TE", b"Trailer", b"Upgrade", b"HTTP2-Settings"]
OURS = [b"X-Forwarded-For", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"Forwarded"]
KNOWN = [b"Accept", b"Cookie", b"Date", b"Vary", b"Origin", b"Content-Type", b"Mcp-Session-Id", b"Authorization", b"User-Agent", b"Range", b"If-None-Match"]
METHODS = [b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"HEAD", b"REPORT", b"x"]
NEVER = {b"upgrade", b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"authorization"}


class Message:
    """A random valid request: its octets, and what must arrive of it."""

    def __init__(self, seed: int, authority: bytes) -> None:
        r = self.random = random.Random(seed)
        self.method = r.choice(METHODS)
        self.path = b"/" + b"/".join(self.segment() for _ in range(r.randrange(5)))
        self.query = r.choice([None, b"", self.text(b"abcXYZ019&=%/?;:@!$'()*+,-._~", 30)])
        self.host = r.choice([b"h", b"Some.Host.test:8080", b"127.0.0.1", b"[::1]:99"])
        self.body = r.randbytes(r.choice([0, 1, 10, 3000, 70_000]))
        self.framing = r.choice(["none", "length", "chunked"])
        if self.framing == "none":
            self.body = b""
        self.fields = [self.field() for _ in range(r.randrange(12))]
        named = [n for n, _ in self.fields if n.lower() not in NEVER and r.random() < 0.2]
        options = [*named, *([b"keep-alive"] if r.random() < 0.3 else [])]
        if options:
            self.fields.insert(r.randrange(len(self.fields) + 1), (self.case(b"Connection"), r.choice([b", ", b",", b" , ,"]).join(options)))
        gone = {n.lower() for n in [*HOPS, b"Connection", *OURS, *named]}
        self.expected = [(n, v.strip(b" \t")) for n, v in self.fields if n.lower() not in gone]
        self.expected_host = authority
        host_at = r.randrange(len(self.fields) + 1)
        self.fields.insert(host_at, (self.case(b"Host"), self.host))
        extra = {
            "none": [],
            "length": [(self.case(b"Content-Length"), b"%d" % len(self.body))],
            "chunked": [(self.case(b"Transfer-Encoding"), self.case(b"chunked"))],
        }
        for item in extra[self.framing]:
            self.fields.insert(r.randrange(len(self.fields) + 1), item)

    def text(self, alphabet: bytes, most: int) -> bytes:
        text = bytes(self.random.choices(alphabet, k=self.random.randrange(most)))
        return text.replace(b"%", b"%25")

    def segment(self) -> bytes:
        r = self.random
        return r.choice([self.text(b"abcXYZ019-._~!$&'()*+,;=:@", 12), b"", b".", b"%7e%41", b"%20", b"%C3%a9", b"..a"])

    def case(self, name: bytes) -> bytes:
        return bytes(c ^ 32 if chr(c).isalpha() and self.random.random() < 0.3 else c for c in name)

    def field(self) -> tuple[bytes, bytes]:
        r = self.random
        name = r.choice([*HOPS, *OURS, *KNOWN, bytes(r.choices(TOKEN, k=r.randrange(1, 20)))])
        if name.lower() in NEVER - {b"authorization", b"upgrade"}:
            name = b"X-" + name
        inside = bytes(r.choices([*range(32, 127), *range(128, 256), 9], k=r.randrange(40)))
        return self.case(name), r.choice([b"", b" ", b"\t"]) + inside + r.choice([b"", b" \t"])

    @property
    def octets(self) -> bytes:
        r = self.random
        target = self.path + (b"" if self.query is None else b"?" + self.query)
        head = b"%b %b HTTP/1.1\r\n" % (self.method, target) + b"".join(n + b":" + v + b"\r\n" for n, v in self.fields) + b"\r\n"
        if self.framing != "chunked":
            return head + self.body
        body = b""
        at = 0
        while at < len(self.body):
            size = r.randrange(1, 9000)
            part = self.body[at : at + size]
            body += r.choice([b"%x", b"%X", b"000%x"]) % len(part) + r.choice([b"", b";a=b", b'; q="x;y"']) + b"\r\n" + part + b"\r\n"
            at += size
        return head + body + b"0\r\n" + r.choice([b"", b"X-T: 1\r\n"]) + b"\r\n"


def test_random_requests_arrive_as_the_rules_say(client: Client, upstream: Upstream) -> None:
    upstream.play(Peer.serve)
    for seed in range(600):
        message = Message(seed, upstream.authority)
        octets = message.octets
        cuts = sorted(message.random.sample(range(1, len(octets)), min(message.random.choice([0, 0, 1, 3]), len(octets) - 1)))
        client.send_pieces(*[octets[i:j] for i, j in zip([0, *cuts], [*cuts, len(octets)], strict=True)], pause=0.0003)
        answer = client.answer(message.method)
        assert answer.status == 200, (seed, octets[:500], answer.head, answer.body)
        request = upstream.requests[-1]
        path = normalised_path(message.path)
        assert request.method == message.method, seed
        assert request.target == path + (b"" if message.query is None else b"?" + message.query), seed
        assert request.get(b"host") == [upstream.authority], seed
        assert request.get(b"x-forwarded-host") == [message.host], seed
        assert request.get(b"x-forwarded-for") == [b"127.0.0.1"], seed
        framing = {b"host", b"content-length", b"transfer-encoding", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
        assert [f for f in request.fields if f[0].lower() not in framing] == message.expected, (seed, octets[:1500])
        assert request.body == message.body, seed
        assert request.trailer == b""
        if message.framing == "length":
            assert request.get(b"content-length") == [b"%d" % len(message.body)], seed
        elif message.framing == "chunked":
            assert request.get(b"transfer-encoding") == [b"chunked"], seed


def test_random_requests_pipelined(client: Client, upstream: Upstream) -> None:
    """The same requests without a pause between them: framing of one never leaks into the next."""

    def script(peer: Peer) -> None:
        while True:
            request = peer.request()
            peer.answer(request, request.method + b" " + request.target + b" %d" % len(request.body))

    upstream.play(script)
    for group in range(20):
        messages = [Message(1000 + group * 8 + i, upstream.authority) for i in range(8)]
        messages = [m for m in messages if len(m.body) < 5000]
        client.send(b"".join(m.octets for m in messages))
        for m in messages:
            answer = client.answer(m.method)
            target = normalised_path(m.path) + (b"" if m.query is None else b"?" + m.query)
            if m.method != b"HEAD":
                assert answer.body == m.method + b" " + target + b" %d" % len(m.body)
