"""Credentials on their way into requests: between a source of them and the data path, or an MCP target's transport.

Rules:
- a request gets all credentials of its backend or does not go out: what cannot be had is a refusal, counted and told the operator;
- what follows from who calls alone is kept with the identity for KEPT_S: most requests cost a look. What an expression makes of the
  request is made of every request;
- what is at hand is presented at once; else the request waits, bounded by WAIT_S and by its own client's patience;
- the caller learns whether he, the gateway or an issuer is the cause, and nothing of the credential.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from typing import TYPE_CHECKING, Any

import msgspec

from agw.runtime.plan_security import AwsSign, BackendAuthPlan, JwtSign, KeyCredential
from agw.security import cel
from agw.security.contract import INTERNAL, JWT_AUTH, UPSTREAM, Refusal, Request, SecurityHost
from agw.security.ext_authz import expressions
from agw.security.upstream import make
from agw.security.upstream.outgoing import Outgoing
from agw.security.upstream.source import CredentialError, Identity, Presented, signs

if TYPE_CHECKING:
    from agw._fast.entry import Entry

log = logging.getLogger(__name__)

WAIT_S = 15.0
KEPT_S = 0.5
"""Shorter than what a token has left when it is last used."""
MAX_WAITING = 1024
"""Requests at a time that wait for a credential."""

BROKEN = Refusal(500, INTERNAL, b"the gateway cannot present itself to the backend now", "a credential's source failed", code=-32603)
CROWDED = Refusal(503, UPSTREAM, b"too many requests wait for a credential", "too many requests wait for a credential", code=-32603)


class Presenting:
    """The credentials of one `backendAuth`.

    `constant` is what everybody's requests get, None when it depends on caller or time. `signs`: they are made of the request as it
    goes out, `whole`: body included. Errors: ValueError for a plan that cannot work.
    """

    __slots__ = ("_by_identity", "_host", "_waiting", "constant", "signs", "source", "whole")

    def __init__(self, plan: BackendAuthPlan, host: SecurityHost) -> None:
        self.source = make(plan, host, expressions.compile)
        self._host = host
        self._waiting = 0
        self.signs = signs(self.source)
        self.whole = any(isinstance(credential, AwsSign) and credential.service != "s3" for credential in plan.credentials)
        self._by_identity = not any(_asks_request(credential) for credential in plan.credentials)
        fixed = all(isinstance(credential, KeyCredential) for credential in plan.credentials)
        self.constant: Presented | None = self.source.ready(None, None) if fixed else None

    # ------------------------------------------------------------------------------------------ the data path

    def enter(self, entry: Entry) -> None:
        """Present something for a request, now or later. Called by the exchange."""
        try:
            found = self.source.ready(entry.identity, entry)
        except CredentialError as error:
            self._refuse(entry, error)
            return
        if found is not None:
            entry.present(found)
        elif self._waiting >= MAX_WAITING:
            entry.refuse(CROWDED)
        else:
            self._waiting += 1
            task = self._host.spawn(self._wait(entry))
            # A task that is cancelled before its first step runs nothing of its coroutine, not even a `finally`.
            task.add_done_callback(self._waited)
            entry.on_close = task.cancel

    async def _wait(self, entry: Entry) -> None:
        try:
            found = await asyncio.wait_for(self.source.fetch(entry.identity, entry), WAIT_S)
        except CredentialError as error:
            self._refuse(entry, error)
        except TimeoutError:
            self._refuse(entry, CredentialError("unreachable", "no credential in time"))
        except asyncio.CancelledError:
            # The client has left, or the worker ends: nobody waits for a word.
            raise
        except Exception:
            log.exception("a credential's source failed")
            entry.refuse(BROKEN)
        else:
            entry.present(found)

    def _waited(self, _: object) -> None:
        self._waiting -= 1

    def _refuse(self, entry: Entry, error: CredentialError) -> None:
        self._host.count("credentials", error.kind)
        entry.refuse(refusal(error))

    def sign(self, identity: Identity | None, method: str, head: bytes, body: bytes | None, secure: bool) -> bytes | Refusal:
        """The header lines for a request whose `head` is complete but for them; `body` None while it streams. Never raises."""
        line, *lines = head.split(b"\r\n")
        path, mark, query = line.split(b" ")[1].partition(b"?")
        headers = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines if line)]
        try:
            presented = self.source.ready(identity, Outgoing(method, path, query if mark else None, headers, body, secure=secure))
            assert presented is not None, "signing waits for nobody"
        except CredentialError as error:
            self._host.count("credentials", error.kind)
            return Refusal(502, UPSTREAM, b"the gateway cannot sign this request for the backend", str(error), code=-32603)
        except Exception:
            log.exception("a credential's source failed")
            return BROKEN
        return presented.lines

    def now(self, identity: Identity | None) -> Presented | None:
        """What is at hand for a caller, whatever his request; None: somebody must look at it. Never raises."""
        if self.signs or not self._by_identity:
            return None
        kept: dict[Any, tuple[Presented | None, float]] = {} if identity is None else identity.extra
        found, until = kept.get(self, _NOTHING)
        now = time.monotonic()
        if now < until:
            return found
        try:
            found = self.source.ready(identity, None)
        except Exception:
            # Told by whoever asks with the request at hand.
            return None
        if found is not None:
            kept[self] = found, now + KEPT_S
        return found

    # ------------------------------------------------------------------------------------------ transports

    async def present(self, identity: Identity | None, request: Request | None) -> Presented:
        """The credentials for a caller. Errors: CredentialError."""
        try:
            found = self.source.ready(identity, request)
            if found is None:
                found = await asyncio.wait_for(self.source.fetch(identity, request), WAIT_S)
        except CredentialError as error:
            self._host.count("credentials", error.kind)
            raise
        except TimeoutError:
            self._host.count("credentials", "unreachable")
            raise CredentialError("unreachable", "no credential in time") from None
        return found

    def refused(self, identity: Identity | None, request: Request | None) -> bool:
        """The upstream did not accept it (401). True: the next request may get another one, so it is worth a try."""
        if self.constant is not None:
            return False
        if identity is not None:
            kept: dict[Any, Any] = identity.extra
            kept.pop(self, None)
        try:
            before = self.source.ready(identity, request)
            self.source.invalidate(identity, request)
            return before is not None and self.source.ready(identity, request) != before
        except CredentialError:
            return False


_NOTHING: tuple[Presented | None, float] = None, 0.0


def _asks_request(part: object) -> bool:
    """Does an expression of a credential depend on more than who calls?"""
    if isinstance(part, msgspec.Struct):
        for name in part.__struct_fields__:
            value = getattr(part, name)
            if name.endswith("_cel") or (name == "claims" and isinstance(part, JwtSign)):
                if any(_needs(text) - {"identity"} for text in value.values()):
                    return True
            elif _asks_request(value):
                return True
    return False


def _needs(text: str) -> frozenset[str]:
    try:
        json.loads(text)  # JSON is a part of the expression language
    except ValueError:
        return cel.compile(text, "http").needs
    return frozenset()


def refusal(error: CredentialError) -> Refusal:
    """What the caller of an HTTP route is told. The cause, which is for the operator, holds no credential."""
    if error.kind == "missing":
        return Refusal(
            401, JWT_AUTH, b"the backend needs a credential of yours, and the request has none that can be used", str(error),
            lines=b"WWW-Authenticate: Bearer\r\n")
    if error.kind == "consent":
        return Refusal(
            403, UPSTREAM, f"the backend needs your permission: open {error.url} in a browser, grant access, and try again".encode(), str(error),
            lines=f"Link: <{error.url}>; rel=\"authorization\"\r\nCache-Control: no-store\r\n".encode())
    if error.kind == "refused":
        return Refusal(502, UPSTREAM, b"the gateway was given no credential for the backend", str(error), code=-32603)
    return Refusal(502, UPSTREAM, b"the gateway cannot get a credential for the backend now", str(error), code=-32603)
