"""A request at a gate: its head for Python code that decides whether it may enter, and the way back.

The exchange makes an Entry when the gate does not know the credential and gives it to `gate.keeper.enter`. Everything in it is
a copy, so the keeper may take its time; the client's connection is not read meanwhile.

Rules:
- exactly one of `admit` and `refuse` ends it, during `enter` or later; further ones do nothing;
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
    def gate(self) -> Gate: ...
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
    def identity(self) -> Identity | None: ...
    @property
    def licence(self) -> License | None: ...
    @property
    def refusal(self) -> Any: ...
    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
    def admit(self, who: Identity, licence: License, lasting: bool) -> None:
        """It may enter and is charged for; `lasting`: so may whoever shows the same."""
    def refuse(self, refusal: Any) -> None:
        """It may not (`agw.security.contract.Refusal`)."""

def make(x: object, gate: Gate, path: bytes, query: bytes | None, headers: list[tuple[bytes, bytes]], shown: bytes | None) -> Entry:
    """For the exchange; `shown` is what a decision may depend on."""
