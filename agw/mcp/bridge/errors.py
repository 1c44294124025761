"""Errors of one era as the other may hear them.

| error | legacy target -> modern client | modern target -> legacy client |
|---|---|---|
| -32002 resource not found | -32602, `data` kept | as it came |
| -32602 with `data.uri` on `resources/read` | as it came | -32002 |
| -32042 URL elicitation required | an `input_required` result (`url_round`); -32603 where that is impossible | -32603 |
| -32020, -32021, -32022 | -32603: a legacy server means something else by them | -32603: the gateway's own affair, explained |
| -32023 ... -32099 | -32603: reserved, must not be sent | as it came |
| all others | as they came | as they came |

Statuses for modern clients are in `http_status`; a legacy client gets 200 for every error of a target.

Cannot be bridged: `notifications/elicitation/complete` has no modern counterpart; the client of a URL round just retries.

Source: MCP 2026-07-28, "Error codes"; MCP 2025-11-25, elicitation, "URL Elicitation Required Error".
"""

from __future__ import annotations

from agw.mcp.bridge.capabilities import needed
from agw.mcp.bridge.results import INPUT_REQUIRED
from agw.mcp.errors import (
    HEADER_MISMATCH,
    INTERNAL,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE,
    RESOURCE_NOT_FOUND,
    UNSUPPORTED_VERSION,
    URL_ELICITATION_REQUIRED,
    RpcError,
    TargetError,
)
from agw.mcp.ladder import check_capability
from agw.mcp.message import Members, elements, encode, members, raw, text, value

MRTR_METHODS = frozenset(("tools/call", "prompts/get", "resources/read"))
"""The only requests that may be answered `input_required` (MCP 2026-07-28, multi round-trip requests)."""

_STATUS = {
    PARSE: 400,
    INVALID_REQUEST: 400,
    METHOD_NOT_FOUND: 404,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}
_EXPLAINED = {
    HEADER_MISMATCH: "The target found the gateway's headers at odds with the request",
    MISSING_CAPABILITY: "The target needs a capability that the client did not declare",
    UNSUPPORTED_VERSION: "The target does not serve the protocol version the gateway speaks to it",
    URL_ELICITATION_REQUIRED: "The target asked for URL elicitation in a way its protocol version does not have",
}
_MAX_ELICITATIONS = 32


def http_status(code: int) -> int:
    """The HTTP status of an error answer to a modern client; 200 where the specification names none."""
    return _STATUS.get(code, 200)


def code_of(raw_error: bytes) -> int:
    """The code of an error object, -32603 if it has none."""
    code = value(members(raw_error).get("code"))
    return code if isinstance(code, int) and not isinstance(code, bool) else INTERNAL


def _recoded(raw_error: bytes, code: int) -> bytes:
    """The same error with another code."""
    return encode({**members(raw_error), "code": raw(code)})


def to_modern(raw_error: bytes) -> TargetError:
    """A legacy target's error for a modern client. Ask `url_round` first."""
    code = code_of(raw_error)
    if code == RESOURCE_NOT_FOUND:
        raw_error, code = _recoded(raw_error, INVALID_PARAMS), INVALID_PARAMS
    elif -32099 <= code <= -32020:
        raw_error, code = _recoded(raw_error, INTERNAL), INTERNAL
    return TargetError(raw_error, status=http_status(code))


def to_legacy(raw_error: bytes, method: str) -> RpcError:
    """A modern target's error for a legacy client's `method`."""
    code = code_of(raw_error)
    if code in _EXPLAINED:
        return RpcError(INTERNAL, _EXPLAINED[code], reason="bridge")
    if code == INVALID_PARAMS and method == "resources/read" and text(members(members(raw_error).get("data")).get("uri")) is not None:
        return TargetError(_recoded(raw_error, RESOURCE_NOT_FOUND))
    return TargetError(raw_error)


def url_round(raw_error: bytes, method: str, capabilities: Members) -> bytes | None:
    """A legacy -32042 as an `input_required` result: the client opens the URLs and sends the request again.

    None if the error is another one, the method cannot be answered so, or the error lists no elicitation in URL mode: then
    `to_modern` has the answer. There is no requestState: nothing is parked, the retry is a new call.
    Errors: RpcError -32021 if the client did not declare URL elicitation.
    """
    if code_of(raw_error) != URL_ELICITATION_REQUIRED or method not in MRTR_METHODS:
        return None
    questions: Members = {}
    for number, entry in enumerate(elements(members(members(raw_error).get("data")).get("elicitations"))[:_MAX_ELICITATIONS]):
        asked = members(entry)
        if needed("elicitation/create", bytes(entry)) != "elicitation.url" or text(asked.get("url")) is None:
            continue
        ident = text(asked.pop("elicitationId", None))
        key = ident if ident and ident not in questions else f"url-{number}"
        questions[key] = raw({"method": "elicitation/create", "params": asked})
    if not questions:
        return None
    missing = check_capability("elicitation.url", capabilities)
    if missing is not None:
        raise missing
    return encode({"resultType": INPUT_REQUIRED, "inputRequests": questions})
