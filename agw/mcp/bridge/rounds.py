"""Questions a server asks while it works on a request: requests to the client (legacy) and multi round-trip results (modern).

| what | how |
|---|---|
| modern target asks a legacy client | `input_required` -> a request per key on the call's stream; answers -> `inputResponses`; the call again |
| legacy target asks a modern client | its call is parked; requests -> `input_required` + requestState; the client's retry -> responses |
| sampling or roots refused with an error | to a modern target: there is no such answer, the call fails with that error |
| elicitation refused with an error | to a modern target: `{"action": "cancel"}`, the user was not asked |
| `elicitationId` of URL mode | minted towards legacy, taken out towards modern |
| state without questions | `split` gives no questions: the caller repeats the call after a pause |
| the same retry without answers | `answers` gives the keys that are missing: the same questions again |

Towards a legacy client: `split`, `undeclared`, `legacy_request`, `input_responses`, `retry_params`. Towards a modern one:
`input_required`, `parse_retry`, `digest`, `answers`, `refusal`.

Rules: questions, answers and the state stay octet for octet unless the table names the member; only questions whose capability
the client declared are passed on (`undeclared`); at most MAX_QUESTIONS in a round and MAX_ROUNDS rounds of a call.

Cannot be bridged: a server's request outside any call of a client (`refusal`); `ping` and `tasks/*` of a server; progress of a
client on a question; a parked call after the process that holds it has gone.

Source: MCP 2026-07-28, "Multi Round-Trip Requests"; MCP 2025-11-25, sampling, elicitation, roots.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from agw.mcp.bridge.capabilities import needed
from agw.mcp.bridge.errors import MRTR_METHODS
from agw.mcp.bridge.results import INPUT_REQUIRED, with_server_info
from agw.mcp.errors import INTERNAL, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError, TargetError
from agw.mcp.ladder import Kind, has_capability
from agw.mcp.message import Members, Message, encode, failure, members, raw, request, result, text

MAX_QUESTIONS = 32
MAX_ROUNDS = 10
_URL_MODE_SINCE = "2025-11-25"
_ELICITATION_SINCE = "2025-06-18"
_ROUND = ("inputResponses", "requestState")


class Question(NamedTuple):
    """One entry of `inputRequests`; `params` is raw, None when there are none."""

    key: str
    method: str
    params: bytes | None


class Round(NamedTuple):
    """What an `input_required` result asks. `state` is the raw requestState (a JSON string), None when there is none."""

    questions: list[Question]
    state: bytes | None


class Retry(NamedTuple):
    """A request of a modern client, round members apart. `responses` is None if it came without, `state` is decoded."""

    params: bytes | None
    responses: Members | None
    state: str | None


# ------------------------------------------------------------------------------- modern target, legacy client


def split(raw_result: bytes, method: str) -> Round:
    """The questions of an `input_required` result that answered `method`.

    Errors: RpcError (-32603) if the method may not be answered so, there is nothing to do, or an entry is no question.
    """
    parts = members(raw_result)
    asked = {key: part for key, part in members(parts.get("inputRequests")).items() if bytes(part) != b"null"}
    state = parts.get("requestState")
    if state is not None and bytes(state) == b"null":
        state = None
    if method not in MRTR_METHODS or (not asked and state is None) or len(asked) > MAX_QUESTIONS or (state is not None and text(state) is None):
        raise _unusable()
    questions = []
    for key, entry in asked.items():
        inner = members(entry)
        name = text(inner.get("method")) or ""
        params = inner.get("params")
        if needed(name, None) is None:
            raise _unusable()
        questions.append(Question(key, name, None if params is None else bytes(params)))
    return Round(questions, None if state is None else bytes(state))


def undeclared(questions: Sequence[Question], capabilities: Members) -> Kind | None:
    """The first capability the questions need and the client did not declare."""
    for question in questions:
        kind = needed(question.method, question.params)
        if kind is not None and not has_capability(kind, capabilities):
            return kind
    return None


def legacy_request(ident: bytes, question: Question, version: str, elicitation_id: str) -> bytes:
    """A question as the request to a legacy client. `ident` is the gateway's raw id; `elicitation_id` is minted by the caller.

    Errors: RpcError (-32603) for a question the client's version does not have.
    """
    params = question.params
    if question.method == "elicitation/create":
        url = needed(question.method, params) == "elicitation.url"
        if version < (_URL_MODE_SINCE if url else _ELICITATION_SINCE):
            raise RpcError(INTERNAL, "The target asks for an elicitation that this protocol version does not have", reason="bridge")
        asked = members(params)
        if url and "elicitationId" not in asked:
            params = encode({**asked, "elicitationId": elicitation_id})
    return request(ident, question.method, params)


def input_responses(answered: Sequence[tuple[Question, Message]]) -> bytes:
    """Raw `inputResponses` of the responses of a legacy client, in the order given.

    Errors: TargetError with the client's own error object if it refused sampling or roots: the call fails with it.
    """
    given: Members = {}
    for question, response in answered:
        parts = members(response.raw)
        error = parts.get("error")
        if error is None and "result" in parts:
            given[question.key] = parts["result"]
        elif question.method == "elicitation/create":
            given[question.key] = raw({"action": "cancel"})
        else:
            raise TargetError(b"{}" if error is None else bytes(error))
    return encode(given)


def retry_params(params: bytes | None, responses: bytes | None, state: bytes | None) -> bytes:
    """The params of the repeated call: the same, with these answers and this state and none of an earlier round.

    `responses` and `state` are raw JSON; None leaves the member out.
    """
    parts: Members = {name: part for name, part in members(params).items() if name not in _ROUND}
    if responses is not None:
        parts["inputResponses"] = msgspec.Raw(responses)
    if state is not None:
        parts["requestState"] = msgspec.Raw(state)
    return encode(parts)


def _unusable() -> RpcError:
    return RpcError(INTERNAL, "The target asks for input in a way its protocol version does not have", status=502, reason="bridge")


# ------------------------------------------------------------------------------- legacy target, modern client


def input_required(pending: Sequence[tuple[str, Message]], state: str, server_info: bytes | None = None) -> bytes:
    """The result that hands the pending requests of a legacy target to a modern client.

    Args:   `pending`: (key, request), each a question (see `needed`), at most MAX_QUESTIONS; `state` points to the parked
            call and is sealed by the caller.
    """
    questions = {key: {"method": asked.method, **_modern_params(asked)} for key, asked in pending[:MAX_QUESTIONS]}
    parts: Members = {"resultType": raw(INPUT_REQUIRED), "inputRequests": raw(questions), "requestState": raw(state)}
    return encode(with_server_info(parts, server_info))


def _modern_params(asked: Message) -> dict[str, msgspec.Raw]:
    """`{"params": ...}` without what only a legacy client can use; {} when there are none."""
    if asked.params is None:
        return {}
    parts = members(asked.params)
    meta = members(parts.get("_meta"))
    dropped = {"task", "elicitationId"} & parts.keys()
    if not dropped and "progressToken" not in meta:
        return {"params": msgspec.Raw(asked.params)}
    kept: Members = {name: part for name, part in parts.items() if name not in dropped}
    if meta.pop("progressToken", None) is not None:
        kept["_meta"] = raw(meta)
        if not meta:
            del kept["_meta"]
    return {"params": raw(kept)}


def parse_retry(params: bytes | None) -> Retry:
    """Round members and the rest of a modern client's params. It is a retry if either member is there; null is absent.

    Errors: RpcError -32602 if `inputResponses` is no object of objects or `requestState` no string.
    """
    parts = members(params)
    if not any(name in parts for name in _ROUND):
        return Retry(params, None, None)
    found = {name: parts.pop(name) for name in _ROUND if name in parts}
    present = {name: part for name, part in found.items() if bytes(part) != b"null"}
    state: str | None = None
    responses: Members | None = None
    if "requestState" in present:
        state = text(present["requestState"])
        if state is None:
            raise RpcError(INVALID_PARAMS, "params.requestState is not a string", status=400)
    if "inputResponses" in present:
        responses = members(present["inputResponses"])
        if bytes(present["inputResponses"])[:1] != b"{" or any(bytes(part)[:1] != b"{" for part in responses.values()):
            raise RpcError(INVALID_PARAMS, "params.inputResponses is not an object of objects", status=400)
    return Retry(encode(parts), responses, state)


class _Number(str):
    """A number's text; kept apart from strings of the same text."""

    __slots__ = ()


def digest(method: str, params: bytes | None) -> bytes:
    """32 octets that are equal for a request and its retry, whatever the order of members, blanks and escapes.

    `_meta` and the round members do not count; the text of numbers does. Source: MRTR, "the same params".
    """
    decoded = json.loads(params, parse_int=_Number, parse_float=_Number) if params is not None else None
    if isinstance(decoded, dict):
        decoded = {name: part for name, part in decoded.items() if name not in (*_ROUND, "_meta")}
    return hashlib.sha256(_canonical([method, decoded or {}]).encode("utf-8", "surrogatepass")).digest()


def _canonical(part: Any) -> str:
    if isinstance(part, _Number):
        return str(part)
    if isinstance(part, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_canonical(part[name])}" for name in sorted(part)) + "}"
    if isinstance(part, list):
        return "[" + ",".join(map(_canonical, part)) + "]"
    return json.dumps(part)


def answers(pending: Sequence[tuple[str, Message]], responses: Members | None) -> tuple[list[bytes], list[str]]:
    """`(responses to send to the legacy target, keys still without an answer)`. Answers nobody asked for are passed over."""
    given = responses or {}
    ready = [result(asked.ident or b"null", bytes(given[key])) for key, asked in pending if key in given]
    return ready, [key for key, _ in pending if key not in given]


def refusal(asked: Message, *, declared: bool) -> bytes:
    """The answer to a legacy target whose request cannot be passed on.

    `declared`: the client has the capability, but the request belongs to no call of a client (-32602); otherwise the
    client does not have it (-32601).
    """
    error = (
        RpcError(INVALID_PARAMS, "A request to the client must belong to one of its calls")
        if declared
        else RpcError(METHOD_NOT_FOUND, "The client does not support this request")
    )
    return failure(asked.ident, error.raw())
