"""HTTP/1.1 framing of the cold path: bytes to requests, responses to bytes, on h11. No socket, no clock, no waiting.

h11 parses; this file adds what a strict server needs and h11 leaves open: a bounded head even if it arrives in one
piece, CRLF only, no folded lines, no Content-Length beside Transfer-Encoding, no repeated Content-Length, a bounded
body counted while it is read (reliability rules 1, 3, 4, 10). Each request gets a fresh h11 connection that is fed one
checked head, so bytes of a following request never reach a parser before their own head was checked.

Must not know: transports, timeouts, handlers.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import h11

from agw.admin.message import HttpError, Request, Response, error_response

_NO_BODY_STATUS = frozenset((204, 304))
_REASONS = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener. Times in seconds, on the loop's monotonic clock.

    `header_timeout_s` is the total for a head from its first byte, and how long a new connection may stay silent;
    `idle_timeout_s` is the wait for the next request on a kept connection; `body_timeout_s` is the total for a body;
    `write_timeout_s` is the total for a reader to take one chunk, or a body given in one piece; `linger_s` is how long
    input is discarded after a refusal, so that the client can read the answer before the connection is reset.
    """

    head_bytes: int = 8 * 1024
    headers: int = 100
    body_bytes: int = 4 * 1024 * 1024
    connections: int = 256
    header_timeout_s: float = 2.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    write_timeout_s: float = 30.0
    linger_s: float = 1.0


class RequestFramer:
    """Requests out of the bytes of one connection, one after the other.

    Call order: `feed` any time; `next_head` until it is not None; `next_body` until it is not None; then the response
    through `head_bytes`/`chunk_bytes`/`end_bytes`; then `next_head` again if `reusable`.
    After an `HttpError` the connection is over: no further byte of it is parsed.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox = bytearray()  # bytes not yet given to h11
        self._h11: h11.Connection | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet framed; the connection stops reading when this grows too large."""
        return len(self._inbox)

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        self._inbox += data

    def next_head(self) -> h11.Request | None:
        """The next request's head, or None if more bytes are needed.

        Errors: HttpError 400 (malformed), 414 (request line too long), 431 (head too large, too many headers), 413
        (declared body too large), 417, 501, 505.
        """
        end = self._inbox.find(b"\r\n\r\n", 0, self._limits.head_bytes)
        head = bytes(self._inbox[: self._limits.head_bytes if end < 0 else end + 4])
        _check_lines(head)
        if end < 0:
            if len(self._inbox) < self._limits.head_bytes:
                return None
            # RFC 9112 section 3: a request line that does not fit is 414, a header section that does not is 431.
            raise HttpError(431, "header section too large") if b"\r\n" in head else HttpError(414, "URI too long")
        self._check_length(head)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)
        self._h11.receive_data(head)
        event = self._next_event()
        if not isinstance(event, h11.Request):
            raise HttpError(400, "malformed request")
        del self._inbox[: end + 4]
        self._check_head(event)
        self._body.clear()
        self._body_bytes = 0
        return event

    def continue_bytes(self) -> bytes:
        """`100 Continue` if the client holds its body back until it is told to go on, else b""; once per request."""
        connection = self._current()
        if not connection.they_are_waiting_for_100_continue:
            return b""
        return connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def next_body(self) -> bytes | None:
        """The request's complete body, or None if more bytes are needed. Errors: HttpError 400, 413."""
        connection = self._current()
        if self._inbox:
            connection.receive_data(bytes(self._inbox))
            self._inbox.clear()
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Data):
                self._body_bytes += len(event.data)
                if self._body_bytes > self._limits.body_bytes:
                    raise HttpError(413, "request body too large")
                self._body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                # What h11 did not consume belongs to the next request; it goes through next_head like any other.
                self._inbox += connection.trailing_data[0]
                return b"".join(self._body)
            else:
                raise HttpError(400, "malformed request body")

    def head_bytes(self, response: Response, *, close: bool) -> bytes:
        """The response head on the wire, with Date, framing and, if `close`, `Connection: close` added.

        Errors: h11.LocalProtocolError if the handler made a header that must not go on the wire.
        """
        headers = [("date", formatdate(usegmt=True)), *response.headers]
        if isinstance(response.body, bytes) and response.status not in _NO_BODY_STATUS:
            headers.append(("content-length", str(len(response.body))))
        if close:
            headers.append(("connection", "close"))
        reason = _REASONS.get(response.status, "")
        event = h11.Response(status_code=response.status, headers=headers, reason=reason)
        return self._current().send(event) or b""

    def chunk_bytes(self, data: bytes) -> bytes:
        """A piece of the response body on the wire."""
        return self._current().send(h11.Data(data=data)) or b""

    def end_bytes(self) -> bytes:
        """The end of the response on the wire."""
        return self._current().send(h11.EndOfMessage()) or b""

    def refusal_bytes(self, error: HttpError) -> bytes:
        """A complete answer to input that made no acceptable request; the connection is to be closed after it."""
        self._h11 = h11.Connection(h11.SERVER)
        response = error_response(error)
        assert isinstance(response.body, bytes)
        return self.head_bytes(response, close=True) + self.chunk_bytes(response.body) + self.end_bytes()

    @property
    def reusable(self) -> bool:
        """True if both sides finished this exchange and neither asked to close."""
        return self._h11 is not None and self._h11.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}

    def _current(self) -> h11.Connection:
        assert self._h11 is not None, "no request in progress"
        return self._h11

    def _next_event(self) -> object:
        try:
            return self._current().next_event()
        except h11.RemoteProtocolError as error:
            # h11's text quotes the input; the public text must not.
            raise HttpError(error.error_status_hint or 400, "malformed request") from error

    def _check_length(self, head: bytes) -> None:
        """Refuse a doubtful or too large message length before h11, which would merge equal Content-Length lines."""
        fields = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
        if len(fields) - 2 > self._limits.headers:  # the head ends in two empty lines
            raise HttpError(431, "too many headers")
        lengths = [value.strip() for name, _, value in fields if name.lower() == b"content-length"]
        if not lengths:
            return
        if len(lengths) > 1 or not lengths[0].isdigit():
            raise HttpError(400, "malformed content-length")
        if any(name.lower() == b"transfer-encoding" for name, _, _ in fields):
            raise HttpError(400, "ambiguous message length")
        # The digits are counted before they are converted: int() refuses what is longer than 4,300 of them.
        if len(lengths[0]) > 18 or int(lengths[0]) > self._limits.body_bytes:
            raise HttpError(413, "request body too large")

    @staticmethod
    def _check_head(head: h11.Request) -> None:
        fields = dict(head.headers)
        if head.http_version not in (b"1.0", b"1.1"):
            raise HttpError(505, "unsupported HTTP version")
        if b"transfer-encoding" in fields and head.http_version != b"1.1":
            raise HttpError(400, "transfer-encoding needs HTTP/1.1")
        if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise HttpError(417, "unknown expectation")
        if head.method == b"CONNECT":
            raise HttpError(501, "CONNECT is not supported")


def _check_lines(head: bytes) -> None:
    """Refuse bare CR, bare LF and folded lines in a (possibly incomplete) head: RFC 9112 sections 2.2 and 5.2."""
    crlf = head.count(b"\r\n")
    bare_cr = head.count(b"\r") - crlf - (1 if head.endswith(b"\r") else 0)  # a last CR may be half of a CRLF
    if bare_cr or head.count(b"\n") != crlf or b"\r\n " in head or b"\r\n\t" in head:
        raise HttpError(400, "malformed line ending")


def make_request(head: h11.Request, body: bytes, *, loopback: bool, peer: str) -> Request:
    """A `Request` from a parsed head and its body. Errors: HttpError 400 for a target that is not a path."""
    headers = tuple((name.decode("ascii"), value.decode("latin-1")) for name, value in head.headers)
    target = head.target.decode("ascii", "replace")
    authority = next((value for name, value in headers if name == "host"), "")
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        # RFC 9112 section 3.2.2: the authority of an absolute target replaces Host.
        authority, slash, path = rest.partition("/")
        target = slash + path or "/"
    if not target.startswith("/") or "#" in target:
        raise HttpError(400, "malformed request target")
    path, _, query = target.partition("?")
    return Request(head.method.decode("ascii"), path, query, authority, headers, body, loopback, peer)
