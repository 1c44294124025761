"""Rules of the bridge that no single vector shows: what survives any edit, what a digest sees, which bounds hold."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp.bridge import capabilities, errors, listen, requests, results, rounds
from agw.mcp.bridge.listen import Filter
from agw.mcp.errors import RpcError, TargetError
from agw.mcp.message import members, parse
from agw.mcp.revisions import META_VERSION, METHODS

ENVELOPE = requests.Envelope("2026-07-28", b'{"x":{ }}', b'{"name":"c","version":"1"}', "info")

names = st.text(min_size=1, max_size=8).filter(lambda name: name not in ("_meta", "task", "requestState", "inputResponses"))
values = st.sampled_from([b"1.0", b"1e400", b"123456789012345678901234567890", b'"\\u0041"', b"null", b'{ "a" : [ 1.50 ] }', b"[1,\t2]", b'"\xc3\xa9"'])
objects = st.dictionaries(names, values, max_size=5)


def built(parts: dict[str, bytes]) -> bytes:
    return b"{" + b",".join(json.dumps(name).encode() + b":" + part for name, part in parts.items()) + b"}"


def plain(text: bytes) -> dict[str, bytes]:
    return {name: bytes(part) for name, part in members(text).items()}


@given(objects, objects)
def test_there_and_back_leaves_every_member_as_it_was(params: dict[str, bytes], meta: dict[str, bytes]) -> None:
    whole = built({**params, "_meta": built(meta)} if meta else params)
    out = requests.to_modern("tools/call", whole, ENVELOPE)
    assert {key for key in members(members(out.params)["_meta"]) if key.startswith("io.modelcontextprotocol/")} >= {META_VERSION}
    back = requests.to_legacy(out.params)
    assert back is not None
    got = plain(back)
    assert plain(got.pop("_meta", b"{}")) == meta
    assert got == params


@given(objects)
def test_results_keep_what_is_not_added(parts: dict[str, bytes]) -> None:
    added = {"resultType", "ttlMs", "cacheScope"}
    got = plain(results.to_modern("tools/list", built(parts), None))
    assert {name: part for name, part in got.items() if name not in added} == {name: part for name, part in parts.items() if name not in added}
    assert got["resultType"] == b'"complete"'


def test_what_needs_no_change_is_the_same_object() -> None:
    result, params = b'{"content":[], "x":1.0}', b'{ "name":"t" }'
    assert results.to_legacy("tools/call", result, "2025-11-25") is result
    assert requests.to_legacy(params) is params
    assert requests.to_legacy(None) is None


def test_hints_are_on_the_cacheable_results_only() -> None:
    hinted = {name for name in METHODS if "ttlMs" in members(results.to_modern(name, b"{}", None))}
    assert hinted == {"server/discover", "tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"}
    assert plain(results.to_modern("tools/list", b"{}", None, ttl_ms=7, scope="public")) == {
        "resultType": b'"complete"', "ttlMs": b"7", "cacheScope": b'"public"',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raw_result", "expected"), [(b"{}", "complete"), (b'{"resultType":"task"}', "task"), (b'{"resultType":null}', ""), (b"[]", "complete")]
)
def test_result_type(raw_result: bytes, expected: str) -> None:
    assert results.result_type(raw_result) == expected


# ---------------------------------------------------------------------------------------------------------- requests


def test_a_legacy_client_has_no_rounds_of_its_own() -> None:
    params = b'{ "name":"t" }'
    assert requests.own_params(params) is params
    assert requests.own_params(None) is None
    assert requests.own_params(b'{"name":"t","requestState":"forged","inputResponses":{}}') == b'{"name":"t"}'


def test_headers_of_every_method() -> None:
    for name, method in METHODS.items():
        fields = dict(requests.mirror_headers(name, b'{"name":"n","uri":"u:v","taskId":"k"}', "2026-07-28"))
        assert fields[b"MCP-Protocol-Version"] == b"2026-07-28"
        assert fields[b"Mcp-Method"] == name.encode()
        expected = {"name": b"n", "uri": b"u:v", "taskId": b"k"}.get(method.name) if "modern" in method.eras else None
        assert fields.get(b"Mcp-Name") == expected


def test_param_headers_are_for_calls() -> None:
    assert len(requests.mirror_headers("prompts/get", b'{"name":"p","arguments":{"a":"x"}}', "2026-07-28", {"A": ("a",)})) == 3


def test_notifications() -> None:
    cancelled = parse(b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}')
    roots = parse(b'{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}')
    assert requests.notification_to_modern(cancelled, shared_channel=True) == cancelled.raw
    assert requests.notification_to_modern(cancelled, shared_channel=False) is None
    assert requests.notification_to_modern(roots, shared_channel=True) is None
    assert requests.notification_to_legacy(cancelled) == cancelled.raw
    assert requests.notification_to_legacy(roots) is None


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("code", "status"), [(-32700, 400), (-32600, 400), (-32601, 404), (-32602, 400), (-32603, 200), (-32020, 400), (-32021, 400), (-32022, 400), (5, 200)]
)
def test_http_status(code: int, status: int) -> None:
    assert errors.http_status(code) == status


def test_no_reserved_code_reaches_a_modern_client() -> None:
    for code in (*range(-32099, -32019), -32002):
        found = errors.to_modern(b'{"code":%d,"message":"m"}' % code)
        assert found.code == (-32602 if code == -32002 else -32603)
        assert orjson.loads(found.raw())["code"] == found.code


@pytest.mark.parametrize("error", [b"{}", b'{"code":"x"}', b'{"code":true}', b"5"])
def test_an_error_without_a_code(error: bytes) -> None:
    assert errors.code_of(error) == -32603


# ------------------------------------------------------------------------------------------------------------ rounds


@pytest.mark.parametrize(
    ("method", "params", "kind"),
    [("roots/list", None, "roots"), ("sampling/createMessage", b"{}", "sampling"), ("sampling/createMessage", b'{"tools":[]}', "sampling.tools"),
     ("elicitation/create", b'{"mode":"form"}', "elicitation"), ("elicitation/create", b'{"mode":"url"}', "elicitation.url"), ("ping", None, None),
     ("tasks/get", b"{}", None)],
)  # fmt: skip
def test_what_a_question_needs(method: str, params: bytes | None, kind: str | None) -> None:
    assert capabilities.needed(method, params) == kind


def test_undeclared() -> None:
    questions = [rounds.Question("a", "roots/list", None), rounds.Question("b", "sampling/createMessage", b'{"tools":[]}')]
    assert rounds.undeclared(questions, members(b'{"roots":{},"sampling":{"tools":{}}}')) is None
    assert rounds.undeclared(questions, members(b'{"roots":{},"sampling":{}}')) == "sampling.tools"
    assert rounds.undeclared(questions, members(b"{}")) == "roots"


def test_the_client_s_own_error_is_kept() -> None:
    answer = parse(b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no","data":1.0}}')
    with pytest.raises(TargetError) as caught:
        rounds.input_responses([(rounds.Question("a", "roots/list", None), answer)])
    assert caught.value.raw() == b'{"code":-1,"message":"no","data":1.0}'


def test_a_round_is_bounded() -> None:
    def asking(count: int) -> bytes:
        return orjson.dumps({"inputRequests": {f"k{n}": {"method": "roots/list"} for n in range(count)}})

    assert len(rounds.split(asking(rounds.MAX_QUESTIONS), "tools/call").questions) == rounds.MAX_QUESTIONS
    with pytest.raises(RpcError):
        rounds.split(asking(rounds.MAX_QUESTIONS + 1), "tools/call")


def test_a_request_that_is_no_retry_is_left_alone() -> None:
    params = b'{ "name":"t" }'
    assert rounds.parse_retry(params) == (params, None, None)
    assert rounds.parse_retry(None) == (None, None, None)


@given(objects)
def test_what_the_client_repeats_is_what_is_parsed(parts: dict[str, bytes]) -> None:
    sent = rounds.retry_params(built(parts), b'{"k":{ "n":1.0}}', b'"s\\u0041"')
    retry = rounds.parse_retry(sent)
    assert plain(retry.params or b"{}") == parts
    assert retry.responses is not None
    assert {key: bytes(part) for key, part in retry.responses.items()} == {"k": b'{ "n":1.0}'}
    assert retry.state == "sA"
    assert rounds.digest("tools/call", sent) == rounds.digest("tools/call", built(parts))


BASE = b'{"name":"t","arguments":{"a":1,"b":[true,null,"x"]}}'


@pytest.mark.parametrize(
    "same",
    [b'{ "arguments": {"b":[true, null,"\\u0078"], "a":1 }, "name":"t" }', b'{"name":"t","arguments":{"a":1,"b":[true,null,"x"]},"_meta":{"progressToken":5}}',
     b'{"name":"t","arguments":{"a":1,"b":[true,null,"x"]},"requestState":"s","inputResponses":{}}'],
)  # fmt: skip
def test_the_digest_sees_the_same_request(same: bytes) -> None:
    assert rounds.digest("tools/call", same) == rounds.digest("tools/call", BASE)


@pytest.mark.parametrize(
    "other",
    [b'{"name":"u","arguments":{"a":1,"b":[true,null,"x"]}}', b'{"name":"t","arguments":{"a":"1","b":[true,null,"x"]}}',
     b'{"name":"t","arguments":{"a":2,"b":[true,null,"x"]}}', b'{"name":"t","arguments":{"a":1,"b":[null,true,"x"]}}', b'{"name":"t"}',
     b'{"name":"t","arguments":{"a":1,"b":[true,null,"x"],"_meta":1}}', b"{}"],
)  # fmt: skip
def test_the_digest_sees_another_request(other: bytes) -> None:
    assert rounds.digest("tools/call", other) != rounds.digest("tools/call", BASE)


def test_the_digest_of_big_numbers_methods_and_nothing() -> None:
    assert rounds.digest("m", b'{"n":18446744073709551616}') != rounds.digest("m", b'{"n":18446744073709551617}')
    assert rounds.digest("prompts/get", BASE) != rounds.digest("tools/call", BASE)
    assert rounds.digest("m", None) == rounds.digest("m", b"{}")
    assert len(rounds.digest("m", None)) == 32


def test_refusals() -> None:
    asked = parse(b'{"jsonrpc":"2.0","id":"7","method":"roots/list"}')
    outside, incapable = orjson.loads(rounds.refusal(asked, declared=True)), orjson.loads(rounds.refusal(asked, declared=False))
    assert (outside["id"], outside["error"]["code"]) == ("7", -32602)
    assert incapable["error"]["code"] == -32601


# ------------------------------------------------------------------------------------------------------------ listen


def test_a_filter_comes_back_from_its_text() -> None:
    whole = Filter(True, False, True, ("a:b", "c:é"), ("t",))
    assert listen.parse_filter(listen.listen_params(whole)) == whole
    assert listen.parse_filter(parse(listen.acknowledged(whole, b"1")).params) == whole
    assert Filter().raw() == b"{}"


def test_filters_are_bounded() -> None:
    def asking(count: int) -> bytes:
        return orjson.dumps({"notifications": {"resourceSubscriptions": [f"a:{n}" for n in range(count)]}})

    assert len(listen.parse_filter(asking(listen.MAX_SUBSCRIPTIONS)).uris) == listen.MAX_SUBSCRIPTIONS
    with pytest.raises(RpcError) as caught:
        listen.parse_filter(asking(listen.MAX_SUBSCRIPTIONS + 1))
    assert (caught.value.code, caught.value.status) == (-32602, 400)


def test_union_and_changes() -> None:
    one, two = Filter(tools=True, uris=("a", "b")), Filter(prompts=True, uris=("b", "c"), tasks=("t",))
    assert listen.union([one, two]) == Filter(True, True, False, ("a", "b", "c"), ("t",))
    assert listen.union([]) == Filter()
    assert listen.changes(one, two) == (["c"], ["a"])


@pytest.mark.parametrize(
    ("subscribed", "uri", "expected"),
    [("file:///a", "file:///a", True), ("file:///a", "file:///a/b", True), ("file:///a/", "file:///a/b", True), ("file:///a", "file:///a?x", True),
     ("file:///a", "file:///a#x", True), ("file:///a", "file:///ab", False), ("file:///a/b", "file:///a", False), ("file:///a/", "file:///a", False)],
)  # fmt: skip
def test_what_a_subscription_covers(subscribed: str, uri: str, expected: bool) -> None:
    assert listen.covers([subscribed], uri) is expected
    assert listen.covers(["other:x", subscribed], uri) is expected
    assert listen.covers([], uri) is False


@pytest.mark.parametrize("ident", [b"1", b'"1"', b"9007199254740993", b'"\\u0031"'])
def test_the_subscription_id_is_type_exact(ident: bytes) -> None:
    tagged = listen.tag(parse(b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'), ident)
    assert listen.subscription_of(parse(tagged)) == ident
    assert listen.subscription_of(parse(listen.acknowledged(Filter(), ident))) == ident
    assert b'Id":' + ident + b"}" in listen.final_result(ident)
    assert listen.subscription_of(parse(b'{"jsonrpc":"2.0","method":"x"}')) is None


def test_an_update_without_a_uri_is_not_wanted() -> None:
    message = parse(b'{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":5}}')
    assert listen.wants(Filter(uris=("5",)), message) is False
