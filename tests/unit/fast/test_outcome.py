"""Classes of errors, read from the edges of an answer."""

from __future__ import annotations

import pytest

from agw._fast.outcome import CANCELLED, OUTCOMES, classify, outcome

RESULT = b'{"jsonrpc":"2.0","id":1,"result":%b}'


def named(text: bytes, call: bool = True) -> tuple[str, int, bool]:
    number, code, unknown = classify(text, call)
    return OUTCOMES[number], code, unknown


@pytest.mark.parametrize("code", [-32700, -32600, -32601, -32602, -32603, -32002, -32042, -32020, -32021, -32022])
def test_codes_of_the_specifications_have_their_own_class(code: int) -> None:
    assert OUTCOMES[outcome(code)] == str(code)
    assert named(b'{"jsonrpc":"2.0","id":"x","error":{"code":%d,"message":"m"}}' % code) == (str(code), code, False)
    assert named(b'{"error": {"message": "m", "code": %d}, "id": 1, "jsonrpc": "2.0"}' % code) == (str(code), code, False)


def test_all_other_codes_share_two_classes() -> None:
    assert OUTCOMES[outcome(-32000)] == OUTCOMES[outcome(-32099)] == "server"
    assert OUTCOMES[outcome(1)] == OUTCOMES[outcome(-32100)] == OUTCOMES[outcome(0)] == "other"
    assert OUTCOMES[CANCELLED] == "cancelled"


def test_results_are_fine_whatever_they_talk_about() -> None:
    for result in (b"{}", b'{"error":{"code":-32603}}', b'{"content":[{"type":"text","text":"\\"error\\": \\"isError\\":true"}]}', b'{"isError":false}'):
        assert named(RESULT % result) == ("", 0, False)
    assert named(b'{"id":"\\"error\\":{","jsonrpc":"2.0","result":{"error":{"code":1}}}') == ("", 0, False)


def test_results_of_tools_may_be_errors() -> None:
    failed = RESULT % b'{"content":[{"type":"text","text":"disk full"}],"isError":true}'
    assert named(failed) == ("tool", 0, False)
    assert named(failed, call=False) == ("", 0, False)
    assert named(b'{"result":{"content":[],"isError": true},"jsonrpc":"2.0","id":3}') == ("tool", 0, False)


def test_a_tool_that_is_not_there_is_told_from_one_that_failed() -> None:
    for said in (b"Unknown tool: x", b"Tool x not found"):
        assert named(RESULT % (b'{"content":[{"type":"text","text":"%b"}],"isError":true}' % said)) == ("tool", 0, True)


@pytest.mark.parametrize("text", [
    b"", b"{", b'{"error"', b'{"error":', b'{"error":{', b'{"error":{"code"', b'{"error":{"code":', b'{"error":null}', b"[]", b'{"a\\"'])
def test_what_is_cut_short_is_never_read_beyond(text: bytes) -> None:
    assert classify(text, True)[0] in (0, outcome(0))
