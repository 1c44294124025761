"""Seeded mutation of octet strings for fuzzing and for differential tests; the same seed gives the same inputs.

A mutation is one to four edits of an input of the corpus: bits and octets changed, runs deleted, repeated or moved,
numbers nudged, tokens of a dictionary put in or over, line ends bent, two inputs spliced, the end cut off.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Sequence

# Tokens of HTTP/1 on which parsers are known to differ (reliability.md, 2.1).
HTTP1_TOKENS: tuple[bytes, ...] = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r\n",
    b"\n\r",
    b" ",
    b"\t",
    b"\0",
    b"\x0b",
    b"\x0c",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xa0",
    b":",
    b": ",
    b" :",
    b";",
    b",",
    b"=",
    b'"',
    b"\\",
    b"/",
    b"//",
    b"?",
    b"#",
    b"@",
    b"*",
    b"%",
    b"[",
    b"]",
    b"..",
    b"+",
    b"-",
    b"_",
    b"0",
    b"5",
    b"00",
    b"0x",
    b"f",
    b"ffffffffffffffff",
    b"7fffffffffffffff",
    b"99999999999999999999",
    b"18446744073709551616",
    b"\r\n ",
    b"\r\n\t",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"1;a=b\r\nx\r\n",
    b'5;a="\n"\r\n',
    b"X: v\r\n",
    b"X:v\r\n",
    b": v\r\n",
    b"X : v\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:5\r\n",
    b"Content-Length: +5\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:Chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Host: a\r\n",
    b"Host: b:80\r\n",
    b"Host: a@b\r\n",
    b"Host: [::1]\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: Host\r\n",
    b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/1.2",
    b"http/1.1",
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS * ",
    b"CONNECT a:80 ",
    b"http://b/",
    b"https://u@b:80/p?q",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 \r\n\r\n",
    b"HTTP/1.1 304\r\n",
    b"chunked",
    b"close",
)

JSON_TOKENS: tuple[bytes, ...] = (
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b'"',
    b"\\",
    b"\\u",
    b"\\ud800",
    b"\\u0000",
    b"\\udc00",
    b"\0",
    b"\x1f",
    b"\x7f",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xf0\x9f\x98\x80",
    b"\xef\xbb\xbf",
    b"true",
    b"false",
    b"null",
    b"NaN",
    b"Infinity",
    b"-",
    b"0",
    b"-0",
    b"1e5",
    b"1E+400",
    b"9007199254740993",
    b"0.1",
    b"01",
    b"1.",
    b".5",
    b"[" * 70,
    b"]" * 70,
    b'{"a":' * 70,
    b"}" * 70,
    b" ",
    b"\t",
    b"\n",
    b"\r",
    b"/**/",
    b'"jsonrpc":"2.0"',
    b'"jsonrpc":"1.0"',
    b'"id":1',
    b'"id":null',
    b'"id":"x"',
    b'"id":1.5',
    b'"id":{}',
    b'"method":"tools/call"',
    b'"m\\u0065thod":"x"',
    b'"method":1',
    b'"params":{}',
    b'"params":[]',
    b'"name":"x"',
    b'"name":"a","name":"b"',
    b'"uri":"file:///x"',
    b'"result":{}',
    b'"error":{"code":-32600,"message":"x"}',
    b'"_meta":{}',
    b",,",
    b"{}",
    b"[]",
    b'""',
)

_NUMBER = re.compile(rb"[0-9a-fA-F]+")
_LINE_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n ", b" \r\n", b"")


class Mutator:
    """Endless inputs near a corpus."""

    def __init__(self, seed: int | str, corpus: Sequence[bytes], tokens: Sequence[bytes], longest: int = 4096) -> None:
        self.source = random.Random(seed)
        self.corpus = [item for item in corpus if len(item) <= longest] or [b""]
        self.tokens = tokens
        self.longest = longest
        self.edits = (
            self._bit,
            self._octet,
            self._octet,
            self._delete,
            self._repeat,
            self._insert,
            self._insert,
            self._overwrite,
            self._token_for_token,
            self._number,
            self._line_end,
            self._truncate,
            self._splice,
            self._move,
        )

    def keep(self, item: bytes) -> None:
        """Make `item` part of the corpus, as it showed something new; long ones would only make every run slower."""
        if len(item) <= min(self.longest, 1024):
            self.corpus.append(item)

    def below(self, limit: int) -> int:
        return int(self.source.random() * limit)

    def pick(self) -> bytes:
        return self.corpus[self.below(len(self.corpus))]

    def mutate(self) -> bytes:
        data = self.pick()
        for _ in range((1, 1, 1, 2, 2, 3, 4)[self.below(7)]):
            data = self.edits[self.below(len(self.edits))](data)
        return data[: self.longest]

    def cuts(self, data: bytes) -> list[bytes]:
        """`data` in pieces: mostly a few, sometimes octets."""
        size = len(data)
        if self.below(8) == 0:
            return [data[i : i + 1] for i in range(size)]
        edges = sorted([0, size, *(self.below(size + 1) for _ in range(1 + self.below(4)))])
        return [data[a:b] for a, b in itertools.pairwise(edges)]

    def _span(self, data: bytes) -> tuple[int, int]:
        start = self.below(len(data) + 1)
        return start, min(len(data), start + 1 + self.below((1, 4, 16, 64)[self.below(4)]))

    def _bit(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self.below(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self.below(8))]) + data[at + 1 :]

    def _octet(self, data: bytes) -> bytes:
        at = self.below(len(data) + 1)
        return data[:at] + bytes([self.below(256)]) + data[at + self.below(2) :]

    def _delete(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:start] + data[end:]

    def _repeat(self, data: bytes) -> bytes:
        start, end = self._span(data)
        return data[:end] + data[start:end] * (1, 1, 2, 20)[self.below(4)] + data[end:]

    def _move(self, data: bytes) -> bytes:
        start, end = self._span(data)
        rest = data[:start] + data[end:]
        at = self.below(len(rest) + 1)
        return rest[:at] + data[start:end] + rest[at:]

    def _insert(self, data: bytes) -> bytes:
        at = self.below(len(data) + 1)
        return data[:at] + self.tokens[self.below(len(self.tokens))] + data[at:]

    def _overwrite(self, data: bytes) -> bytes:
        token = self.tokens[self.below(len(self.tokens))]
        at = self.below(len(data) + 1)
        return data[:at] + token + data[at + len(token) :]

    def _token_for_token(self, data: bytes) -> bytes:
        old, new = self.tokens[self.below(len(self.tokens))], self.tokens[self.below(len(self.tokens))]
        return data.replace(old, new, 1)

    def _number(self, data: bytes) -> bytes:
        start = self.below(len(data) + 1)
        found = _NUMBER.search(data, start) or _NUMBER.search(data)
        if found is None:
            return data
        value = int(found.group()[:24], 16) + (-1, 1, 16, 256, -16, 1 << 31, 1 << 32, 1 << 63)[self.below(8)]
        return data[: found.start()] + (b"%x" % value if value >= 0 else b"-%x" % -value) + data[found.end() :]

    def _line_end(self, data: bytes) -> bytes:
        at = data.find(b"\r\n", self.below(len(data) + 1))
        if at < 0:
            return data
        return data[:at] + _LINE_ENDS[self.below(len(_LINE_ENDS))] + data[at + 2 :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self.below(len(data) + 1)]

    def _splice(self, data: bytes) -> bytes:
        other = self.pick()
        return data[: self.below(len(data) + 1)] + other[self.below(len(other) + 1) :]
