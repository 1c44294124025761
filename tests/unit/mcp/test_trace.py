"""Trace context moves between header fields and `_meta`, and every other octet stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.mcp.trace import carried

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = b"00-11111111111111111111111111111111-2222222222222222-00"
FIELDS = [(b"accept", b"*/*"), (b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2"), (b"baggage", b'k="v"')]
NAMED = {"traceparent": PARENT.decode(), "tracestate": "a=1,b=2", "baggage": 'k="v"'}


def message(params: bytes | None) -> bytes:
    return b'{"jsonrpc":"2.0","id":1,"method":"tools/call"%b}' % (b"" if params is None else b',"params":' + params)


def into(params: bytes | None, fields: list[tuple[bytes, bytes]] = FIELDS) -> bytes:
    text, headers = carried(message(params), fields, channel=True)
    assert headers is fields
    return text


def test_fields_are_written_into_meta_of_a_channel() -> None:
    assert json.loads(into(None))["params"] == {"_meta": NAMED}
    assert json.loads(into(b"{}"))["params"] == {"_meta": NAMED}
    assert json.loads(into(b'{"name":"x"}'))["params"] == {"_meta": NAMED, "name": "x"}
    assert json.loads(into(b'{"_meta":{},"name":"x"}'))["params"] == {"_meta": NAMED, "name": "x"}
    assert json.loads(into(b'{"name":"x","_meta":{"progressToken":1}}'))["params"]["_meta"] == {**NAMED, "progressToken": 1}


def test_every_other_octet_stays() -> None:
    params = b'{ "name" :"x",\n"arguments":{"n":1.0e0,"_meta":{}}, "_meta" : { "progressToken" : 7 } }'
    text = into(params)
    head, tail = message(params).split(b'"_meta" : {')
    assert text.startswith(head + b'"_meta" : {"traceparent":')
    assert text.endswith(b', "progressToken"'[1:] + tail.removeprefix(b' "progressToken"'))


def test_what_the_caller_said_in_meta_stays() -> None:
    params = b'{"_meta":{"traceparent":"%b","x":1}}' % OTHER
    found = json.loads(into(params))["params"]["_meta"]
    assert found == {"traceparent": OTHER.decode(), "x": 1, "baggage": 'k="v"'}


@pytest.mark.parametrize("params", [b'{"_meta":5}', b'{"_meta":null}', b"[1]"])
def test_params_that_hold_no_meta_object_are_left_alone(params: bytes) -> None:
    assert into(params) == message(params)


@pytest.mark.parametrize("value", [
    b"", b"x", PARENT[:-1], PARENT + b"-x", b"ff" + PARENT[2:], PARENT.upper(), b"00-" + b"0" * 32 + PARENT[35:], PARENT[:36] + b"0" * 16 + PARENT[52:]])
def test_what_is_no_traceparent_is_not_moved(value: bytes) -> None:
    fields = [(b"traceparent", value), (b"tracestate", b"a=1")]
    assert into(b"{}", fields) == message(b"{}")
    text = message(b'{"_meta":{"traceparent":%b,"tracestate":"a=1"}}' % json.dumps(value.decode()).encode())
    assert carried(text, [], channel=False) == (text, [])


def test_two_parents_are_none() -> None:
    assert into(b"{}", [(b"traceparent", PARENT), (b"traceparent", OTHER)]) == message(b"{}")


def test_later_versions_may_say_more() -> None:
    later = b"01" + PARENT[2:] + b"-more"
    assert json.loads(into(b"{}", [(b"traceparent", later)]))["params"]["_meta"] == {"traceparent": later.decode()}


def test_meta_becomes_fields_over_http() -> None:
    text = message(b'{"_meta":%b}' % json.dumps(NAMED).encode())
    assert carried(text, [(b"x", b"y")], channel=False) == (
        text, [(b"x", b"y"), (b"traceparent", PARENT), (b"tracestate", b"a=1,b=2"), (b"baggage", b'k="v"')])


def test_fields_win_over_meta_over_http() -> None:
    text = message(b'{"_meta":%b}' % json.dumps(NAMED).encode())
    fields = [(b"traceparent", OTHER)]
    assert carried(text, fields, channel=False) == (text, [(b"traceparent", OTHER), (b"baggage", b'k="v"')])


def test_values_that_could_break_a_head_are_not_moved() -> None:
    text = message(b'{"_meta":{"baggage":"a=1\\r\\nx: y"}}')
    assert carried(text, [], channel=False) == (text, [])
    text = message(b'{"_meta":{"baggage":"%b"}}' % (b"a" * 8193))
    assert carried(text, [], channel=False) == (text, [])


def test_without_trace_context_nothing_happens() -> None:
    fields = [(b"accept", b"*/*")]
    for channel in (True, False):
        text = message(b'{"name":"traceparent"}')
        found = carried(text, fields, channel=channel)
        assert found[0] is text
        assert found[1] is fields


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["_meta", "a", "traceparent", "b"]), inner, max_size=3), max_leaves=10)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.dictionaries(st.sampled_from(["_meta", "a", "arguments", "traceparent"]), JSON, max_size=4), st.sampled_from([None, 1]))
def test_the_rest_of_the_message_is_the_same(params: dict[str, object], indent: int | None) -> None:
    found = json.loads(into(json.dumps(params, indent=indent).encode()))["params"]
    meta = params.get("_meta", {})
    if isinstance(meta, dict):
        added = {} if "traceparent" in meta else {"traceparent": NAMED["traceparent"], "tracestate": NAMED["tracestate"]}
        assert found == {**params, "_meta": {**added, "baggage": NAMED["baggage"], **meta}}
    else:
        assert found == params
