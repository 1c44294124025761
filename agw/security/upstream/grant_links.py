"""What travels through a user's browser while he grants access: the link to the gateway's page, and the state at the server.

    Ticket    in the link the user is given: who is meant          good for TICKET_S
    State     at the authorization server and back: the login      good for STATE_S, and once (`GrantStore.spend`)

Rules:
- both are sealed, and bound to the resource and the page: neither can be made, read, or used for something else;
- both name the principal; that the browser is his is for who receives them to see (`agw.security.consent`);
- the verifier of PKCE is in the state, so a worker needs no memory of a login that another one began.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import msgspec

from agw.security.upstream.store import GrantStore

TICKET_S = 3600
STATE_S = 600

T = TypeVar("T", bound="Ticket | State")


class Ticket(NamedTuple):
    """`user` is the principal's key as hex, `ident` names the occasion, `expires` is in seconds of time.time()."""

    ident: str
    expires: int
    user: str


class State(NamedTuple):
    """A login at `issuer` as the client `client`. `browser` is the digest of what the browser keeps in a cookie."""

    ident: str
    expires: int
    user: str
    browser: str
    issuer: str
    client: str
    verifier: str


class Links:
    """Tickets and states of one resource and page."""

    __slots__ = ("_bound", "_clock")

    def __init__(self, resource: str, redirect_uri: str, clock: Callable[[], float] = time.time) -> None:
        self._bound = b"\0".join((resource.encode(), redirect_uri.encode()))
        self._clock = clock

    def ticket(self, store: GrantStore, user: bytes) -> tuple[str, str]:
        """(text, ident) of a new ticket."""
        ident = secrets.token_hex(16)
        return self._seal(store, b"ticket", Ticket(ident, int(self._clock()) + TICKET_S, user.hex())), ident

    def state(self, store: GrantStore, ticket: Ticket, browser: str, issuer: str, client: str, verifier: str) -> str:
        """The text of a new state. It has the ticket's ident, so one ticket ends in one grant."""
        return self._seal(store, b"state", State(ticket.ident, int(self._clock()) + STATE_S, ticket.user, browser, issuer, client, verifier))

    def open_ticket(self, store: GrantStore, text: str) -> Ticket | None:
        """The ticket behind a text, None for everything else and when its time is over."""
        return self._open(store, b"ticket", text, Ticket)

    def open_state(self, store: GrantStore, text: str) -> State | None:
        """The state behind a text, None for everything else and when its time is over."""
        return self._open(store, b"state", text, State)

    def _seal(self, store: GrantStore, what: bytes, value: Ticket | State) -> str:
        return store.seal_state(msgspec.json.encode(value), what + b"\0" + self._bound)

    def _open(self, store: GrantStore, what: bytes, text: str, kind: type[T]) -> T | None:
        payload = store.open_state(text, what + b"\0" + self._bound)
        found = None if payload is None else msgspec.json.decode(payload, type=kind)
        return found if found is not None and found.expires > self._clock() else None
