"""Credentials for targets: whose request it is, and an origin that presents itself to its target.

Rules:
- whoever works for a message finds its caller through the context of its task, as it finds his rights (`guarding`); what was
  started for him (a stream that is kept open) goes on in his name;
- a request goes out with all of its target's credentials or not at all; what the caller sent at their places never does;
- a 401 costs one more try where another credential can be had: it says that nothing was processed.
"""

from __future__ import annotations

from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING

from agw._fast.bare import bare_cookies, bare_query
from agw._fast.call import Call
from agw._fast.exchange import Context
from agw._fast.gate import Identity
from agw._fast.pool import Cluster
from agw.runtime.credentials import BackendAuth
from agw.runtime.origin import SILENCE_S, Answer, Headers, Origin, Stream, TransportError
from agw.security.contract import Request
from agw.security.upstream.outgoing import Outgoing
from agw.security.upstream.source import CredentialError

if TYPE_CHECKING:
    from agw.security.upstream.presenting import Presenting

_current: ContextVar[Call | None] = ContextVar("caller", default=None)


def begin(call: Call) -> None:
    """The task that runs now, and what it starts, works for this call's caller."""
    _current.set(call)


class NoCredential(TransportError):
    """There is no credential for the target; nothing was sent. `cause` says why, to the operator."""

    def __init__(self, cause: CredentialError) -> None:
        super().__init__("credential", str(cause), sent=False)
        self.cause = cause


class PresentedOrigin(Origin):
    """A target's origin whose requests carry its `backendAuth`. `auth.presenting` is attached before the first request."""

    def __init__(self, context: Context, cluster: Cluster, auth: BackendAuth) -> None:
        super().__init__(context, cluster)
        self._auth = auth

    async def begin(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, silence_s: float = SILENCE_S
    ) -> Stream:
        """See Origin.begin. Errors: NoCredential."""
        identity, request = _caller()
        places = self._auth.places
        fields = [field for field in headers if field[0].lower() not in places.headers]
        if self._presenting.signs:
            bare, mark, query = path.partition(b"?")
            lowered = [(b"host", self.cluster.plan.authority.encode()), *((name.lower(), value) for name, value in fields)]
            request = Outgoing(method.decode(), bare, query if mark else None, lowered, body or b"", secure=self.cluster.plan.tls is not None)
        try:
            presented = await self._presenting.present(identity, request)
        except CredentialError as error:
            raise NoCredential(error) from None
        if places.cookies:
            cookie = bare_cookies(fields, places.cookies, presented.cookie)
            fields = [field for field in fields if field[0] != b"cookie"]
            if cookie:
                fields.append((b"cookie", cookie.partition(b": ")[2][:-2]))
        for line in presented.lines.split(b"\r\n")[:-1]:
            name, _, value = line.partition(b": ")
            fields.append((name, value))
        if places.queries:
            bare, mark, query = path.partition(b"?")
            left = bare_query(query if mark else None, places.queries, presented.query)
            path = bare if left is None else bare + b"?" + left
        return self.start(method, path, fields, body, timeout_s=timeout_s, silence_s=silence_s)

    def refused(self) -> bool:
        """See Origin.refused."""
        return self._presenting.refused(*_caller())

    @property
    def _presenting(self) -> Presenting:
        presenting: Presenting | None = self._auth.presenting
        if presenting is None:
            raise TransportError("connect", "its credentials are not ready", sent=False)
        return presenting

    async def open(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, silence_s: float = SILENCE_S
    ) -> Stream:
        """See Origin.open."""
        return await self._opened(method, path, headers, body, timeout_s, silence_s, False)

    async def fetch(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, *, timeout_s: float, max_bytes: int, redirects: bool = False
    ) -> Answer:
        """See Origin.fetch."""
        stream = await self._opened(method, path, headers, body, timeout_s, timeout_s, redirects)
        try:
            return Answer(stream.status, stream.headers, await stream.read_all(max_bytes))
        finally:
            stream.cancel()

    async def _opened(
        self, method: bytes, path: bytes, headers: Headers, body: bytes | None, timeout_s: float, silence_s: float, redirects: bool
    ) -> Stream:
        stream = await self.begin(method, path, headers, body, timeout_s=timeout_s, silence_s=silence_s)
        await stream.opened(redirects=redirects)
        if stream.status == 401 and self.refused():
            stream.cancel()
            stream = await self.begin(method, path, headers, body, timeout_s=timeout_s, silence_s=silence_s)
            await stream.opened(redirects=redirects)
        return stream


def _caller() -> tuple[Identity | None, Request | None]:
    from agw.security.messages import MessageRequest

    call = _current.get()
    return (None, None) if call is None else (call.identity, MessageRequest(call))


def principal(call: Call, auths: list[BackendAuth | None]) -> bytes:
    """Who calls, as sessions, lists and tasks are bound to: 16 octets, b"" for nobody in particular.

    Where a target gets something made of what the caller shows, and no policy has verified it, what he shows is part of the name:
    else one caller would see what was got with another's credential.
    """
    identity = call.identity
    known = b"" if identity is None else identity.key
    if identity is not None and identity.token:
        return known
    shown: list[bytes] = []
    for auth in auths:
        if auth is not None and auth.personal:
            shown += [b"%b: %b" % field for field in call.headers if field[0] in auth.places.headers or (field[0] == b"cookie" and auth.places.cookies)]
            if auth.places.queries and call.query is not None:
                shown.append(b"?" + call.query)
    return known if not shown else sha256(known + b"\n" + b"\n".join(shown)).digest()[:16]
