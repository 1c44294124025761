"""What both eras of the demo server say about themselves, and how a message becomes an HTTP response."""

from __future__ import annotations

from agw import __version__
from agw.admin.message import Headers, HttpError, Request, Response, event_stream, sse_event
from agw.demo.jsonrpc import INTERNAL_ERROR, Object, RpcError, encode, failure
from agw.demo.streams import one_event

CAPABILITIES: Object = {"tools": {}}
INSTRUCTIONS = "A demonstration server: echo returns a text, add adds two numbers, slow reports progress."


def server_info(*, titled: bool = True) -> Object:
    """The `Implementation` of this server; `titled` if the version knows titles (2025-06-18 on)."""
    info: Object = {"name": "agw-demo", "version": __version__}
    if titled:
        info["title"] = "agw demo server"
    return info


def internal_error() -> RpcError:
    """The error for what should not happen; its text says nothing."""
    return RpcError(INTERNAL_ERROR, "internal error", status=200)


def error_reply(error: RpcError) -> Response:
    """An RpcError as HTTP response."""
    return Response(error.status, encode(failure(error)), (("content-type", "application/json"),))


class Answer:
    """How a request wants its answer. Parameters and q-values of Accept are read leniently; no Accept allows both.

    Errors: HttpError 406 when made, if neither JSON nor an event stream is acceptable.
    """

    def __init__(self, request: Request) -> None:
        fields = request.header_values("accept")
        kinds = {item.partition(";")[0].strip().lower() for field in fields for item in field.split(",")}
        self.accepts_json = not fields or bool(kinds & {"application/json", "application/*", "*/*"})
        self.accepts_events = not fields or bool(kinds & {"text/event-stream", "text/*", "*/*"})
        if not (self.accepts_json or self.accepts_events):
            raise HttpError(406, "accept must allow application/json or text/event-stream")

    def json(self, message: Object, *, headers: Headers = ()) -> Response:
        """One response message: as JSON, or as a stream of one event for clients that take nothing else."""
        if self.accepts_json:
            return Response(200, encode(message), (("content-type", "application/json"), *headers))
        return event_stream(one_event(sse_event(encode(message))), headers=headers)
