"""How each client hears that a target needs its user's consent, and what a retry's answer means."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from agw.mcp import consent
from agw.mcp.consent import ConsentNeeded
from agw.mcp.credentials import NoCredential
from agw.mcp.errors import RpcError
from agw.mcp.target import as_rpc_error
from agw.runtime.credentials import BackendAuth
from agw.runtime.plan_security import BackendAuthPlan, KeyCredential, UserGrant
from agw.security.upstream.source import CredentialError

LINK = "https://gw.example/.agw/oauth/callback?ticket=t1ck3t"
URL_MODE = b'{"elicitation":{"url":{}}}'
WITHOUT = [b"{}", b'{"elicitation":{}}', b'{"elicitation":{"form":{}}}', b'{"elicitation":{"url":null}}', b"[]"]


def need() -> ConsentNeeded:
    error = as_rpc_error("files", NoCredential(CredentialError("consent", "nothing granted", url=LINK, ident="i1", resource="https://api.example")))
    assert isinstance(error, ConsentNeeded)
    return error


def told(error: RpcError) -> dict[str, Any]:
    found = json.loads(error.raw())
    assert isinstance(found, dict)
    return found


KEY = need().key


def retry(action: Any, key: str = KEY) -> bytes:
    return json.dumps({"name": "x", "inputResponses": {key: {"action": action}}}).encode()


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
def test_a_modern_client_gets_an_elicitation(method: str) -> None:
    result = json.loads(consent.answer(need(), method, b'{"name":"x"}', "modern", "2026-07-28", URL_MODE))
    asked = {"mode": "url", "url": LINK, "message": "files needs your permission: grant access in your browser"}
    assert result == {"resultType": "input_required", "inputRequests": {KEY: {"method": "elicitation/create", "params": asked}}}


def test_a_session_with_url_mode_gets_its_error() -> None:
    for method in ("tools/call", "tools/list"):
        with pytest.raises(RpcError) as caught:
            consent.answer(need(), method, None, "legacy", "2025-11-25", URL_MODE)
        error = told(caught.value)
        assert error["code"] == -32042
        assert error["data"] == {"elicitations": [
            {"mode": "url", "elicitationId": "i1", "url": LINK, "message": "files needs your permission: grant access in your browser"}]}
        assert caught.value.denied


@pytest.mark.parametrize(
    ("era", "method", "version", "capabilities"),
    [
        *(("modern", "tools/call", "2026-07-28", given) for given in WITHOUT),
        *(("legacy", "tools/call", "2025-11-25", given) for given in WITHOUT),
        ("modern", "tools/list", "2026-07-28", URL_MODE),
        ("legacy", "tools/call", "2025-06-18", URL_MODE),
    ],
)
def test_everybody_else_gets_the_address_in_an_error(era: Any, method: str, version: str, capabilities: bytes) -> None:
    with pytest.raises(ConsentNeeded) as caught:
        consent.answer(need(), method, None, era, version, capabilities)
    error = told(caught.value)
    assert (error["code"], error["data"]) == (-32603, {"target": "files", "reason": "consent_required", "url": LINK})
    assert LINK in error["message"]
    assert LINK not in caught.value.message + str(caught.value), "what is logged has no address in it"


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_who_declined_is_not_asked_again(action: str) -> None:
    with pytest.raises(ConsentNeeded):
        consent.answer(need(), "tools/call", retry(action), "modern", "2026-07-28", URL_MODE)


@pytest.mark.parametrize(
    "params",
    [None, b"{}", b"[]", retry("accept", "other"), retry(1), json.dumps({"inputResponses": {KEY: []}}).encode(), b'{"inputResponses":7,"x":"agw-consent"}'],
)
def test_what_is_no_answer_to_the_question(params: bytes | None) -> None:
    assert consent.action(need(), params) == ""
    assert b"input_required" in consent.answer(need(), "tools/call", params, "modern", "2026-07-28", URL_MODE)


@pytest.mark.parametrize(
    ("params", "era", "outcome", "expected"),
    [
        (retry("accept"), "modern", True, True),
        (retry("accept"), "modern", False, False),
        (retry("accept"), "modern", CredentialError("unreachable", "x"), True),
        (retry("accept"), "legacy", True, False),
        (retry("decline"), "modern", True, False),
        (b"{}", "modern", True, False),
    ],
)
def test_a_retry_waits_for_the_user_who_agreed(params: bytes, era: Any, outcome: Any, expected: bool) -> None:
    waited: list[float] = []

    async def granted(timeout_s: float) -> bool:
        waited.append(timeout_s)
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    error = CredentialError("consent", "x", url=LINK)
    error.granted = granted
    assert asyncio.run(consent.agreed(ConsentNeeded("files", error), params, era)) is expected
    assert waited == ([consent.WAIT_S] if params == retry("accept") and era == "modern" else [])


def test_other_failures_of_credentials_are_no_question() -> None:
    for kind in ("missing", "refused", "unreachable"):
        assert not isinstance(as_rpc_error("files", NoCredential(CredentialError(kind, "x"))), ConsentNeeded)  # type: ignore[arg-type]


def test_answers_to_our_questions_stay_here_and_others_go_on() -> None:
    grant = UserGrant("https://api.example", LINK.partition("?")[0])
    other = UserGrant("https://api.example", "https://inner.example/cb")

    class Target:
        def __init__(self, name: str, *credentials: Any) -> None:
            self.name = name
            self.auth = BackendAuth(BackendAuthPlan(list(credentials))) if credentials else None

    targets: Any = [Target("plain"), Target("files", KeyCredential("k"), grant), Target("more", other)]
    assert consent.without_answers(retry("accept"), targets) == b'{"name":"x"}'
    both = json.dumps({"name": "x", "inputResponses": {KEY: {"action": "accept"}, "theirs": {"action": "accept"}}}).encode()
    assert json.loads(consent.without_answers(both, targets) or b"") == {"name": "x", "inputResponses": {"theirs": {"action": "accept"}}}
    # The question of a gateway further on, about a target of the same name.
    for params in (None, b"{}", retry("accept", KEY[:-1] + "?"), retry("accept", "agw-consent.plain.00000000")):
        assert consent.without_answers(params, targets) == params
