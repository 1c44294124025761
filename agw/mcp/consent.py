"""A target whose user has to grant the gateway access first: how his client hears of it, and what its answer means.

| client | method | answer |
|---|---|---|
| modern, declared `elicitation.url` | one that may be answered `input_required` | the URL as an elicitation (MRTR) |
| 2025-11-25, declared `elicitation.url` | any | error -32042 with `data.elicitations` |
| any other | any | error -32603, the URL in text and `data.url` |

Rules:
- the URL is the gateway's own page, made for this caller; it goes to nobody else and into no log;
- a modern client that says its user agreed waits for him here, a while: the page is in the browser, and nothing tells the client;
- a client whose user declined is not asked again for the same request;
- nothing of the request reached the target, so it can be sent again as it is; a retry goes to the target without the answer to our question,
  whose name no other gateway uses.

Source: MCP 2026-07-28, "Multi Round-Trip Requests" and elicitation, URL mode; MCP 2025-11-25, "URL Elicitation Required Error".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING

from agw.mcp.bridge.errors import MRTR_METHODS
from agw.mcp.bridge.results import INPUT_REQUIRED
from agw.mcp.errors import INTERNAL, REAUTHORISE, URL_ELICITATION_REQUIRED, RpcError
from agw.mcp.ladder import has_capability
from agw.mcp.message import Members, encode, members, raw, text
from agw.mcp.revisions import Era
from agw.runtime.plan_security import UserGrant
from agw.security.upstream.source import CredentialError

if TYPE_CHECKING:
    from agw.mcp.target import Target

URL_MODE_SINCE = "2025-11-25"
WAIT_S = 20.0
"""How long a retry waits for the user: less than clients wait for an answer."""
_KEY = "agw-consent"


class ConsentNeeded(RpcError):
    """The target `target` needs a grant of its user, who gives it at `url`. As it stands, the answer to clients without URL mode."""

    def __init__(self, target: str, error: CredentialError) -> None:
        """`error` is one of the kind `consent`."""
        # `message` may be logged, and has no address in it.
        super().__init__(
            INTERNAL, f"Target {target} needs your permission", data={"target": target, "reason": "consent_required", "url": error.url}, reason=REAUTHORISE)
        self.target = target
        self.url = error.url
        self.ident = error.ident
        self._granted: Callable[[float], Awaitable[bool]] | None = error.granted

    def raw(self) -> bytes:
        """See RpcError.raw; with the address in the text, for clients that show nothing else."""
        text = f"{self.message}. Open this address in a browser, grant access, and try again: {self.url}"
        return encode({"code": raw(self.code), "message": raw(text), "data": raw(self.data)})

    async def granted(self, timeout_s: float) -> bool:
        """Wait until the user has granted access; False when he has not in time. Errors: CredentialError."""
        return self._granted is not None and await self._granted(timeout_s)

    @property
    def question(self) -> str:
        """What the user is asked."""
        return f"{self.target} needs your permission: grant access in your browser"

    @property
    def key(self) -> str:
        """The name of the question in `inputRequests`."""
        return _key(self.target, self.url.partition("?")[0])


def answer(need: ConsentNeeded, method: str, params: bytes | None, era: Era, version: str, capabilities: bytes) -> bytes:
    """The raw result for a client, or the error it is told. `capabilities` are raw JSON, what the client declared.

    Errors: RpcError.
    """
    if not has_capability("elicitation.url", members(capabilities)):
        raise need
    if era == "modern":
        if method not in MRTR_METHODS or action(need, params) in ("decline", "cancel"):
            raise need
        asked = {"mode": "url", "url": need.url, "message": need.question}
        questions: Members = {need.key: raw({"method": "elicitation/create", "params": asked})}
        return encode({"resultType": INPUT_REQUIRED, "inputRequests": questions})
    if version < URL_MODE_SINCE:
        raise need
    elicitation = {"mode": "url", "elicitationId": need.ident, "url": need.url, "message": need.question}
    raise RpcError(URL_ELICITATION_REQUIRED, need.question, data={"elicitations": [elicitation]}, reason=REAUTHORISE) from need


def action(need: ConsentNeeded, params: bytes | None) -> str:
    """What a modern client's retry says the user did: accept, decline or cancel; "" when it says nothing."""
    if params is None or _KEY.encode() not in params:
        return ""
    responses = members(members(params).get("inputResponses"))
    return text(members(responses.get(need.key)).get("action")) or ""


def without_answers(params: bytes | None, targets: Iterable[Target]) -> bytes | None:
    """A modern client's params as a target may see them: without answers to questions of ours."""
    if params is None or _KEY.encode() not in params:
        return params
    parts = members(params)
    responses = members(parts.get("inputResponses"))
    own = {
        _key(target.name, credential.redirect_uri)
        for target in targets
        if target.auth is not None
        for credential in target.auth.plan.credentials
        if isinstance(credential, UserGrant)
    }
    if own.isdisjoint(responses):
        return params
    left = {name: value for name, value in responses.items() if name not in own}
    if left:
        parts["inputResponses"] = raw(left)
    else:
        del parts["inputResponses"]
    return encode(parts)


async def agreed(need: ConsentNeeded, params: bytes | None, era: Era) -> bool:
    """Has the user granted access, after a client's retry said that he would? Waits for him. True: the request can be carried out."""
    if era != "modern" or action(need, params) != "accept":
        return False
    try:
        return await need.granted(WAIT_S)
    except CredentialError:
        # Told when the request asks for its credential again.
        return True


def _key(target: str, page: str) -> str:
    return f"{_KEY}.{target}.{blake2b(page.encode(), digest_size=4).hexdigest()}"
