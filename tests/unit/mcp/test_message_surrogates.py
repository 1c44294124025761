"""Half a surrogate pair is valid JSON text (RFC 8259 section 8.2): what holds one is taken apart like anything else."""

from __future__ import annotations

import time

import pytest

from agw.mcp import message

LONE = rb'{"a" : "\ud83d", "b":[1,{"c":"]}"}], "e": {} , "\ud800":1.0, "f":"x\"y"}'


def test_members() -> None:
    found = message.members(LONE)
    assert [bytes(raw) for raw in found.values()] == [rb'"\ud83d"', b'[1,{"c":"]}"}]', b"{}", b"1.0", rb'"x\"y"']
    assert list(found) == ["a", "b", "e", "\ud800", "f"]
    assert message.encode(found) == rb'{"a":"\ud83d","b":[1,{"c":"]}"}],"e":{},"\ud800":1.0,"f":"x\"y"}'


def test_elements_and_batches() -> None:
    text = rb'[ "\ud83d" , {"a":[1,2]},3]'
    expected = [rb'"\ud83d"', b'{"a":[1,2]}', b"3"]
    assert [bytes(raw) for raw in message.elements(text)] == expected
    assert message.split_batch(text) == expected


def test_one_line() -> None:
    assert message.one_line(b'{"a" :\n"\\ud83d \\" x",\r\n"b" : [1, 2]}') == b'{"a":"\\ud83d \\" x","b":[1,2]}'


@pytest.mark.parametrize("text", [b'{"a":', rb'\u{"a"', rb'{"\ud800"', rb'{"\u', rb'{"\q\ud800":1}', rb'"\ud83d"', rb'["\ud83d"]'])
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    assert message.members(text) == {}


@pytest.mark.parametrize("unit", [b'"\\', b'"', b'\\"', b'"a', b"[", b'"\\"'])
def test_what_breaks_off_is_nothing_and_not_slow(unit: bytes) -> None:
    """A target's text is taken apart before it is known to be JSON: one of a megabyte once kept a worker for hours."""
    begun = time.process_time()
    for begin in (b'{"a":"\\ud83d","b":', b'["\\ud83d",'):
        text = begin + unit * (1_000_000 // len(unit))
        assert message.members(text) == {}
        assert message.elements(text) == []
        if begin[:1] == b"[":
            with pytest.raises(message.MessageError):
                message.split_batch(text)
    assert time.process_time() - begun < 5
