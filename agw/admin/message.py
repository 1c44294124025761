"""The request and the response a cold-path handler sees.

Plain values only: no socket, no parser, no clock. `agw.admin.framing` makes requests from bytes, `agw.admin.http`
writes responses; handlers (`agw.admin.server`, `agw.admin.stats`, `agw.demo`) know this file and nothing below it.

Rules:
- a request's body is complete and within the limit before a handler runs;
- a refusal is an `HttpError`; its text is public, so it never carries a secret or an exception's text;
- every error body has one shape: `{"error": {"status": 404, "message": "..."}}`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

import msgspec

Headers = tuple[tuple[str, str], ...]


class HttpError(Exception):
    """A refusal: answered with `status`, `message` in the JSON error body, and `headers` added."""

    def __init__(self, status: int, message: str, *, headers: Headers = ()) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """One complete request.

    `path` is the raw path, never decoded, so it is compared as it was sent; `query` is the raw text after `?`.
    `headers` are `(lower-case name, value)` in wire order. `authority` is the Host the client named, "" if none.
    `loopback` says the listening socket is bound to a loopback address, `peer` names the other end for logs.
    """

    method: str
    path: str
    query: str
    authority: str
    headers: Headers
    body: bytes = b""
    loopback: bool = False
    peer: str = ""

    def header(self, name: str) -> str | None:
        """The first value of a header (lower-case `name`), or None."""
        return next((value for key, value in self.headers if key == name), None)

    def header_values(self, name: str) -> list[str]:
        """All values of a header (lower-case `name`), one per field line."""
        return [value for key, value in self.headers if key == name]

    def query_values(self) -> dict[str, str]:
        """The decoded query; a name without `=` has the value "", of a repeated name the last value counts."""
        return dict(parse_qsl(self.query, keep_blank_values=True, max_num_fields=64))


@dataclass(frozen=True, slots=True)
class Response:
    """One answer; `body` is complete bytes, or an async generator whose chunks are sent as they come.

    The server owns the generator: it is closed when it ends, when the client leaves, and when nothing of it may be
    sent (HEAD). A generator that was never started runs no `finally`, so it acquires what it releases.
    """

    status: int = 200
    body: bytes | AsyncGenerator[bytes, None] = b""
    headers: Headers = ()


Handler = Callable[[Request], Awaitable[Response]]


def json_response(value: object, status: int = 200, *, headers: Headers = ()) -> Response:
    """`value` (JSON builtins or msgspec structs) as indented JSON, for people with curl."""
    body = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    return Response(status, body, (("content-type", "application/json"), *headers))


def text_response(text: str, status: int = 200) -> Response:
    """Plain UTF-8 text, exactly as given."""
    return Response(status, text.encode(), (("content-type", "text/plain; charset=utf-8"),))


def error_response(error: HttpError) -> Response:
    """The one error shape of all cold-path listeners."""
    body = {"error": {"status": error.status, "message": error.message}}
    return json_response(body, error.status, headers=error.headers)


def event_stream(events: AsyncGenerator[bytes, None], *, headers: Headers = ()) -> Response:
    """A server-sent event stream; `events` yields ready events (`sse_event`) or comments."""
    fixed = (
        ("content-type", "text/event-stream"),
        ("cache-control", "no-cache, no-transform"),
        # Asks buffering proxies (nginx and its relatives) to pass each event on at once.
        ("x-accel-buffering", "no"),
    )
    return Response(200, events, (*fixed, *headers))


def sse_event(payload: bytes) -> bytes:
    """One `message` event. `payload` is a single line: compact JSON has no raw newline."""
    return b"event: message\ndata: " + payload + b"\n\n"
