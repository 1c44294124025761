"""A request that waits: its head for Python code that decides whether it may enter, or what its backend is presented, and the way back.

The exchange makes an Entry when the gate does not know the credential and gives it to `gate.keeper.enter`; and again when the
backend wants a credential that differs from caller to caller (`agw.security.upstream.presenting`). Everything in it is a copy,
so who is asked may take his time; the client's connection is not read meanwhile.

Rules:
- exactly one of `admit`, `present` and `refuse` ends it, during `enter` or later; further ones do nothing;
- of the body it has what `read_body` asked for: a client sends a long body only once it may, and whoever may not never gets so far;
- an Entry outlives its exchange: when the client has left, `open` is False and `on_close` was called;
- whoever lets it wait bounds the time.
"""

from collections.abc import Callable
from typing import Any

from typing_extensions import disjoint_base

from agw._fast.gate import Gate, Identity, License

@disjoint_base
class Entry:
    """One request. Made by the exchange only; see `agw.security.contract.Request`."""

    on_close: Callable[[], object] | None
    @property
    def gate(self) -> Gate | None:
        """None when it is a backend that must be presented something."""
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
    def peer(self) -> bytes:
        """The client's address without port."""
    @property
    def secure(self) -> bool: ...
    @property
    def hopped(self) -> bool:
        """Did a sibling worker pass it on?"""
    @property
    def bind(self) -> str: ...
    @property
    def labels(self) -> tuple[str, str, str, str, str]:
        """(bind, gateway, listener, route, rule)."""
    @property
    def now(self) -> int:
        """The reactor's clock when it came, ns."""
    @property
    def certificate(self) -> bytes | None:
        """The client's verified certificate, DER; of a request that another worker passed on, what that worker saw."""
    @property
    def open(self) -> bool:
        """Is it undecided, and the client there?"""
    @property
    def distinct(self) -> bool:
        """False: a header that holds credentials came more than once."""
    @property
    def body(self) -> bytes | None:
        """What `read_body` brought, at most as many octets as it asked for; None before."""
    @property
    def whole(self) -> bool:
        """Is `body` all of it?"""
    @property
    def body_asked(self) -> int:
        """How many octets `read_body` was asked for."""
    @property
    def identity(self) -> Identity | None: ...
    @property
    def licence(self) -> License | None: ...
    @property
    def refusal(self) -> Any: ...
    @property
    def presented(self) -> Any:
        """What the backend gets: (header lines, query, cookies)."""
    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
    def read_body(self, limit: int, then: Callable[[], object]) -> None:
        """Read the body until it is whole or longer than `limit` octets (or than `maxBufferSize`, if that is less); then `body` is there
        and `then` is called, never from within this call. What was read is forwarded like the rest of it.

        A client that does not send ends in 408 and never comes here. An exception of `then` refuses the request.
        Errors: RuntimeError when nothing is to be decided, or a body is awaited already.
        """
    def admit(self, who: Identity, licence: License, lasting: bool) -> None:
        """It may enter and is charged for; `lasting`: so may whoever shows the same."""
    def present(self, presented: Any) -> None:
        """It goes on with these credentials (`agw.security.upstream.source.Presented`)."""
    def refuse(self, refusal: Any) -> None:
        """It does not (`agw.security.contract.Refusal`)."""

def make(x: object, asked: Any, gate: Gate | None, path: bytes, query: bytes | None, headers: list[tuple[bytes, bytes]], shown: bytes | None) -> Entry:
    """For the exchange; `asked` has `enter(entry)`, `shown` is what a decision may depend on."""
