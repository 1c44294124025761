"""A request handed to Python code, and the way back: answer at once, or in pieces.

The exchange makes a Call when its route leads to a service (`policy.Choice.service`) and gives it to `service.handle`.
Everything in it is a copy, so the handler may wait; the answer goes out through the exchange, with its CORS lines, reply
edits, counters, access log and time limits.

Rules:
- a Call outlives its exchange: when the client has left, methods do nothing and `open` is False;
- exactly one of `reply`, `start` … `end`, `abort`, `pass_on` ends it;
- what is queued for a client that does not read is bounded (8 MiB); over the bound the client is cut.
"""

from collections.abc import Callable
from typing import Any, Literal

from typing_extensions import disjoint_base

from agw._fast.gate import Charge, Gate, Identity
from agw._fast.policy import Choice

MAX_QUEUED: int
"""Octets queued for a client that does not read, over which it is cut."""
MAX_NOTED: int
"""Octets of log fields that are kept."""

@disjoint_base
class Call:
    """One request. Made by the exchange only."""

    on_close: Callable[[], object] | None
    """Called once when the exchange ends by itself: the client left, a deadline struck, the worker cut it."""
    on_drain: Callable[[], object] | None
    """Called when the client has taken most of what was queued."""
    @property
    def method(self) -> str: ...
    @property
    def path(self) -> bytes:
        """Normalised."""
    @property
    def query(self) -> bytes | None: ...
    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, wire order."""
    @property
    def head(self) -> bytes:
        """The request head as it came."""
    @property
    def body(self) -> bytes: ...
    @property
    def kind(self) -> Literal["request", "notification", "response", "batch", ""]:
        """Of the JSON-RPC message in the body of a POST."""
    @property
    def ident(self) -> bytes | None:
        """The message's raw id."""
    @property
    def rpc(self) -> bytes | None:
        """The method between its quotes, escapes left alone."""
    @property
    def params(self) -> bytes | None:
        """Raw."""
    @property
    def name(self) -> bytes | None:
        """`params.name` between its quotes, escapes left alone."""
    @property
    def uri(self) -> bytes | None:
        """`params.uri`, likewise."""
    @property
    def peer(self) -> bytes:
        """The client's address without port."""
    @property
    def service(self) -> Any:
        """Who was given it."""
    @property
    def identity(self) -> Identity | None:
        """Whom it is from; None when the route has no gate."""
    @property
    def gate(self) -> Gate | None:
        """The route's gate."""
    @property
    def secure(self) -> bool:
        """Does the client speak TLS?"""
    @property
    def labels(self) -> tuple[str, str, str, str, str]:
        """(bind, gateway, listener, route, rule)."""
    @property
    def prefix_len(self) -> int:
        """Octets of `path` that the route's prefix matched."""
    @property
    def started(self) -> bool: ...
    @property
    def ended(self) -> bool:
        """Did the handler end it?"""
    @property
    def open(self) -> bool:
        """Is there still somebody to answer?"""
    @property
    def hopped(self) -> bool:
        """Did a sibling worker pass it on?"""
    @property
    def queued(self) -> int:
        """Octets the client has not taken yet."""
    @property
    def full(self) -> bool:
        """Is more queued than a producer should add to? See `on_drain`."""
    @property
    def bind(self) -> str:
        """The listener's key, `address:port`."""
    def header(self, name: bytes) -> bytes | None:
        """The first value of a field; `name` in lower case."""
    def values(self, name: bytes) -> list[bytes]:
        """All values of a field."""
    def note(self, label: int, target: bytes) -> None:
        """Which backend the counters name, and which target the access log."""
    def note_tool(self, number: int) -> None:
        """Which tool the counters name: a number of `arena.Slot.learn_tool`."""
    def note_answer(self, text: bytes) -> None:
        """What the counters look at when the answer goes out in pieces: the JSON-RPC response. `reply` does it by itself."""
    def note_fields(self, fragment: bytes) -> None:
        """More fields for the access log: a JSON fragment from a comma on. What is over 8 KiB in all is left out."""
    def hold(self, charge: Charge) -> None:
        """A charge of a concurrency limit that ends with this request, or at once when it has ended."""
    def not_counted(self) -> None:
        """The MCP counters leave this request to `arena.Slot.observe_mcp`."""
    @property
    def logged(self) -> bool:
        """Is there an access log, so that `note_fields` is of use?"""
    @property
    def route(self) -> int:
        """The route's label."""
    @property
    def number(self) -> int:
        """The method's number in `methods.RPC_METHODS`; -1 without one."""
    def reply(self, status: int, content_type: bytes | None, body: bytes, lines: bytes = b"", reason: int = 0) -> None:
        """The whole answer. `lines` are complete header lines; `reason` indexes `forward.REASONS`."""
    def reply_result(self, ident: bytes, result: bytes, lines: bytes = b"") -> None:
        """A JSON-RPC response with a raw result. Large results are not copied (but for those of tools/call, whose counters look
        into them), so they cost what sending them costs."""
    def start(self, status: int, lines: bytes, stream: bool = True) -> None:
        """The head of an answer in pieces. `stream`: a client that leaves is noticed at once."""
    def write(self, data: bytes) -> None:
        """A piece of the body, sent at once."""
    def end(self) -> None:
        """The body is complete."""
    def abort(self) -> None:
        """End it visibly broken."""
    def forget(self) -> None:
        """Drop the request's head and body: a long stream does not need them."""
    def pass_on(self, choice: Choice, body: bytes | None) -> None:
        """Relay the request to `choice` like any other, with `body` in place of the caller's (None: as it came)."""

def make(
    x: Any, service: object, method: str, path: bytes, query: bytes | None, headers: list[tuple[bytes, bytes]], head: bytes, body: bytes,
    envelope: tuple[str, bytes | None, bytes | None, bytes | None, bytes | None, bytes | None], peer: bytes, prefix_len: int,
) -> Call:
    """For the exchange `x`, which cannot import this module. `envelope`: kind, id, method, params, name, uri, as in the attributes of Call."""
