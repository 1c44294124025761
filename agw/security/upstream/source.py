"""What every credential towards an upstream is: where it comes from, and the octets it adds to a request.

Rules:
- a source answers at once from what it has (`ready`), and only what must ask somebody is awaited (`fetch`), bounded in time;
- no credential means no request: a failure is a `CredentialError`, never a request without it;
- a value is looked at before it becomes part of a message: nothing in it can end a line, a parameter or a cookie;
- what the client itself sent at the place of a credential is not its business: the data path takes that off (`agw.runtime.credentials`);
- an error says what went wrong and holds no part of any credential.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol
from urllib.parse import quote

from agw.runtime.plan_security import LocationPlan
from agw.security.contract import Request
from agw.security.headers import is_value

Kind = Literal["missing", "refused", "unreachable", "consent"]
"""missing: the caller brought nothing to make it of. refused: who issues it says no. unreachable: nobody answered usably.
consent: the user has to grant access first, at the error's `url`."""

_COOKIE = re.compile(rb"[!#-+\--:<-\[\]-~]+")  # RFC 6265, 4.1.1: cookie-octet
MAX_VALUE = 16 * 1024
"""Octets of a credential in a query or cookie; headers have their own bound."""


class CredentialError(Exception):
    """There is no credential for this request. The text is for the operator.

    Of the kind `consent`: `url` is the page of the gateway where this user grants access, `ident` names the occasion, `resource` what it is about.
    All three are for this user only. `granted(timeout_s)` waits until he has; False when he has not in time.
    """

    def __init__(self, kind: Kind, text: str, *, url: str = "", ident: str = "", resource: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.url = url
        self.ident = ident
        self.resource = resource
        self.granted: Callable[[float], Awaitable[bool]] | None = None


class Presented(NamedTuple):
    """What a request gets: complete header lines (`Name: value\\r\\n`), `name=value` of the query (joined by &) and of the cookies (by `; `)."""

    lines: bytes = b""
    query: bytes = b""
    cookie: bytes = b""

    def __repr__(self) -> str:
        return f"Presented({len(self.lines)}, {len(self.query)}, {len(self.cookie)} octets)"


class Identity(Protocol):
    """Who calls. `_fast.gate` has one; tests write their own."""

    @property
    def key(self) -> bytes:
        """16 octets that name the principal."""
    @property
    def claims(self) -> Mapping[str, Any]:
        """The roots of CEL, as in `Found.claims`."""
    @property
    def token(self) -> bytes:
        """The verified bearer token, b"" when the caller showed something else."""


class CredentialSource(Protocol):
    """Where the credential of one backend or target comes from. `request` None: the gateway asks on its own account."""

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The credential when it is at hand; None: await `fetch`. Errors: CredentialError when it is known that there is none."""

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The credential, asking for it if need be. Errors: CredentialError."""

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """The upstream refused it (401): do not use it again. What never changes, or was made just now, stays."""


def signs(source: CredentialSource) -> bool:
    """Whether the credential is made of the outgoing request itself: such a source gets an `Outgoing`, anew for every request."""
    return bool(getattr(source, "signs", False))


class Placer:
    """Puts a credential where the plan says."""

    __slots__ = ("_head", "_kind", "_tail")

    def __init__(self, location: LocationPlan) -> None:
        self._kind = location.kind
        name = location.name.encode("ascii")
        self._head = name + b": " + location.prefix.encode("ascii") if location.kind == "header" else name + b"="
        self._tail = b"\r\n" if location.kind == "header" else b""

    def __call__(self, value: bytes) -> Presented:
        """The credential in its place. Errors: CredentialError (refused) for a value that cannot stand there."""
        if self._kind == "header":
            if not value or value.strip(b" \t") != value or not is_value(value):
                raise CredentialError("refused", "the credential is empty, too long, or holds octets that no header value can")
            return Presented(lines=self._head + value + self._tail)
        if not value or len(value) > MAX_VALUE:
            raise CredentialError("refused", f"the credential is empty or longer than {MAX_VALUE} octets")
        if self._kind == "query":
            return Presented(query=self._head + quote(value, safe="-._~").encode("ascii"))
        if not _COOKIE.fullmatch(value):
            raise CredentialError("refused", "the credential holds octets that no cookie can")
        return Presented(cookie=self._head + value)
