"""What the parts of this package are to each other, and to the data path.

The compiled gate of a route (`_fast.gate`) asks its keeper (`agw.security.keeper`) only about what it has not seen: a credential
that is not in its cache, a rule that depends on more than the identity. The keeper walks its steps in order; each step is one
policy, made from its part of the plan by the factory that `agw.security.steps` lists.

Rules:
- a step answers at once whenever it can; only what must ask somebody returns an awaitable, and that is bounded in time;
- a step that fails in any unforeseen way refuses: nothing passes because something broke;
- a refusal says nothing to the caller that the caller did not know; the operator finds the cause in log and counters;
- what one step learns is in `Found`, which later steps, rules and limits read;
- an identity's key is the same for the same user in every worker, life and host with the same configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from agw.runtime.plan_security import CallPlan
    from agw.security.upstream.store import GrantStore

Headers = list[tuple[bytes, bytes]]
"""Names in lower case, wire order."""

INTERNAL, JWT_AUTH, OIDC, BASIC_AUTH, API_KEY_AUTH, EXT_AUTH, AUTHORIZATION, RATE_LIMIT, UPSTREAM = 4, 6, 7, 8, 9, 10, 11, 14, 17
"""Indexes of `_fast.forward.REASONS`."""


class Request(Protocol):
    """The head of a request, as steps see it. `_fast.entry.Entry` is one; tests write their own."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> bytes:
        """Normalised; what is routed and forwarded."""
    @property
    def query(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def peer(self) -> bytes:
        """The client's address without port."""
    @property
    def secure(self) -> bool:
        """Did it come over TLS?"""
    @property
    def certificate(self) -> bytes | None:
        """The client's verified certificate, DER."""
    @property
    def hopped(self) -> bool:
        """Did another worker of this gateway, which has asked the steps already, pass it on?"""
    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""


class Refusal(NamedTuple):
    """An answer instead of entry. `message` is for the caller, `cause` for the operator's log (no secrets in either).

    `lines` are complete header lines (`WWW-Authenticate: ...\\r\\n`); `reason` indexes `_fast.forward.REASONS`; `code` is the
    JSON-RPC code on MCP routes; `body` None makes the error body of the caller's protocol.
    """

    status: int
    reason: int
    message: bytes
    cause: str = ""
    lines: bytes = b""
    code: int = -32001
    body: bytes | None = None
    content_type: bytes = b"application/json"


class Found:
    """What the steps learned about one request. Ends as an identity.

    `claims` are the roots of CEL (`jwt`, `apiKey`, `basicAuth`, `source`, `extauthz`); `parts` name the principal, the first step
    that says something first; `expires` is in seconds of time.time(); `lasting` False: the next request must be asked about anew.
    """

    __slots__ = ("body", "claims", "expires", "lasting", "lines", "log_fields", "parts", "remove", "scopes", "token")

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {}
        self.parts: list[str] = []
        self.expires = float("inf")
        self.lasting = True
        self.token = b""
        """The caller's verified bearer token, for passthrough and exchange."""
        self.scopes: frozenset[str] = frozenset()
        self.log_fields = b""
        """JSON members for the access log, each after a comma."""
        self.lines = b""
        """Header lines added to the request towards the upstream (extAuthz)."""
        self.remove: tuple[bytes, ...] = ()
        """Lower-case headers taken off the request towards the upstream."""
        self.body: bytes | None = None

    def name(self, kind: str, *parts: str) -> None:
        """The principal's name according to one step: `kind` and what is unique in it (issuer, subject)."""
        self.parts.append("\0".join((kind, *parts)))

    def key(self) -> bytes:
        """16 octets that name the principal; b"" for nobody."""
        if not self.parts:
            return b""
        return hashlib.sha256("\1".join(self.parts).encode("utf-8", "surrogatepass")).digest()[:16]


Verdict = Refusal | None
"""None lets pass."""


class Step(Protocol):
    """One policy of a route."""

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Look at a request. Writes what it learns into `found`; sets `found.lasting` False when the verdict depends on more than
        the credentials."""


class Reader(Step, Protocol):
    """A step that may look at the body, which is in `Found.body` when it is asked then."""

    takes_part: bool
    """Is the beginning of a longer body enough for it?"""

    def wants_body(self, request: Request) -> int:
        """How many octets of the body it looks at; 0 for none."""

    def too_long(self) -> Refusal:
        """The answer to a longer body, when the beginning is not enough."""


class Document(NamedTuple):
    """A fetched document. `version` changes with the content."""

    body: bytes
    version: int


class Documents(Protocol):
    """Documents that the helper process fetches (`DocumentPlan`), as workers see them."""

    def get(self, url: str) -> Document | None:
        """The newest good one, None while there is none."""

    def want(self, url: str) -> None:
        """It seems outdated (an unknown key id): fetch it anew, at most once per cool-down whoever asks."""

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        """Call `changed` after each new version. A bound method is held weakly."""

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        """The document, after waiting for the first or the wanted version."""


class HttpAnswer(NamedTuple):
    """A whole answer; header names in lower case."""

    status: int
    headers: Headers
    body: bytes


class CallError(Exception):
    """No usable answer. `kind`: connect, timeout, closed, protocol, limit, forbidden (a URL where the gateway does not go)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Caller(Protocol):
    """Calls services of the plan at request time."""

    async def __call__(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None = None) -> HttpAnswer:
        """One request; redirects are not followed, answers are bounded (1 MiB). Errors: CallError."""


class Trust(NamedTuple):
    """For a URL of an origin that the operator wrote: http and inner addresses are fine. `ca` is PEM text, "" the system's."""

    ca: str = ""
    insecure: bool = False


class Outside(Protocol):
    """Asks URLs that are not of the plan, but of a target's answer, a document, a token."""

    async def __call__(self, method: str, url: str, headers: Headers, body: bytes, trust: Trust | None = None) -> HttpAnswer:
        """One request, over https to a public address only unless there is `trust`. Redirects are not followed, answers are bounded (1 MiB, 10 s).

        Errors: CallError.
        """


class SecurityHost(Protocol):
    """What the worker lends to this package."""

    @property
    def documents(self) -> Documents: ...
    @property
    def caller(self) -> Caller: ...
    @property
    def outside(self) -> Outside: ...
    @property
    def grants(self) -> GrantStore:
        """What users granted the gateway elsewhere, shared by all workers. Errors: upstream.store.StoreError."""
    def spawn(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run it; exceptions are logged."""
    def count(self, what: str, result: str) -> None:
        """One more in `auth_decisions_total{policy=what, result=result}`; both from closed sets."""


class McpFacts(NamedTuple):
    """What rules and limits know of one MCP message. `kind`: tool, prompt, resource, task or "". `arguments` is raw JSON.

    `name` is the target's own name of the thing, `public` what the client says. `tool` is the tool as its target lists it, raw JSON; None when
    nobody asked (`Keeper.described`) or it lists none of the name.
    """

    method: str
    kind: str = ""
    target: str = ""
    name: str = ""
    public: str = ""
    session: str = ""
    arguments: bytes | None = None
    tool: bytes | None = None
