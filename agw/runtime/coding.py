"""Content codings of answers, undone in bounded pieces.

No `Accept-Encoding` is ever sent, but some targets compress all the same. Rules: one coding only; what comes out is taken
piece by piece, so a bomb costs one piece of memory at a time and its reader's own bound stops it; a broken or cut coding is an error.

Source: RFC 9110 section 8.4.1; RFC 1950, 1951, 1952.
"""

from __future__ import annotations

import zlib

PIECE = 65536
"""Octets that come out at once."""


class CodingError(ValueError):
    """An unknown coding, or octets that are not in it."""


class Inflater:
    """Undoes `gzip` or `deflate`: `put` a piece, then `take` until it is empty; `finish` behind the last piece."""

    def __init__(self, coding: bytes) -> None:
        """`coding` is the Content-Encoding field. Errors: CodingError for any other or more than one coding."""
        name = coding.strip().lower()
        if name in (b"gzip", b"x-gzip"):
            self._gzip = True
            self._machine = zlib.decompressobj(wbits=31)
        elif name == b"deflate":
            self._gzip = False
            # zlib's wrapping is what the name means; some send it bare. The first octets tell.
            self._machine = zlib.decompressobj()
        else:
            raise CodingError("a content coding nobody asked for")
        self._head = b""
        self._sniffed = self._gzip
        self._rest = b""
        self._empty = True

    def put(self, data: bytes) -> None:
        """More of the coded body; what was put before has been taken."""
        self._empty = False
        if not self._sniffed:
            self._head += data
            if len(self._head) < 2:
                return
            data, self._head = self._head, b""
            self._sniffed = True
            if data[0] & 15 != 8 or (data[0] << 8 | data[1]) % 31:
                self._machine = zlib.decompressobj(wbits=-15)
        self._rest += data

    def take(self) -> bytes:
        """At most PIECE octets of content; empty when more must be put. Errors: CodingError."""
        while True:
            if self._machine.eof:
                self._rest = self._machine.unused_data + self._rest if self._machine.unused_data else self._rest
                if not self._rest:
                    return b""
                if not self._gzip:
                    raise CodingError("octets behind the end of the coded body")
                # RFC 1952: members may follow one another.
                self._machine = zlib.decompressobj(wbits=31)
            try:
                content = self._machine.decompress(self._rest, PIECE)
            except zlib.error:
                raise CodingError("not in its content coding") from None
            self._rest = self._machine.unconsumed_tail
            if content or (not self._machine.eof and not self._rest):
                return content

    def finish(self) -> None:
        """The coded body is over. Errors: CodingError when the coding is not. No body at all needs no coding."""
        if not self._machine.eof and not self._empty:
            raise CodingError("cut inside its content coding")
