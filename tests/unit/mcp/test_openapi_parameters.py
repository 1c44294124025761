"""No value leaves the place it is written to: what a server reads back is what was given, one segment, one pair, one line."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.mcp.openapi.parameters import ArgumentError, Parameter, cookie_text, decode, encode, header_text, path_text, query_pairs

TEXT = st.text(max_size=40)
NASTY = st.text(st.sampled_from(list("./\\%2eEfF25cC;=&?#+ ab\r\n\x00")), max_size=12)


@given(TEXT | NASTY)
def test_a_path_value_stays_one_segment(value: str) -> None:
    try:
        written = path_text(Parameter("p", "path", True, "simple", False), value)
    except ArgumentError:
        assert value == "" or any(ord(c) < 32 or ord(c) == 127 for c in unquote(value)) or "." in unquote(value)
        return
    assert unquote(written) == value
    assert written.isascii()
    assert not set(written) & set("/?#\\;&= ")
    # However often a server decodes, and whichever slashes it knows, no part becomes a dot segment.
    once, twice = unquote(written), unquote(unquote(written))
    for seen in (written, once, twice):
        assert not {".", ".."} & set(seen.replace("\\", "/").split("/"))


@given(TEXT | NASTY, st.booleans())
def test_a_query_value_stays_one_pair(value: str, reserved: bool) -> None:
    (written,) = query_pairs(Parameter("q", "query", False, "form", True, reserved), value)
    name, _, encoded = written.partition("=")
    assert (name, unquote(encoded)) == ("q", value)
    assert not set(encoded) & set("&#+ ")
    assert written.isascii()


@given(TEXT | NASTY)
def test_a_header_value_stays_one_line(value: str) -> None:
    try:
        written = header_text(Parameter("H", "header", False, "simple", False), value)
    except ArgumentError:
        assert any((ord(c) < 32 and c != "\t") or ord(c) == 127 for c in value)
        return
    assert written.decode() == value.strip(" \t")
    assert not set(written) & {0, 10, 13}


@given(TEXT | NASTY)
def test_a_cookie_value_stays_one_cookie(value: str) -> None:
    written = cookie_text(Parameter("c", "cookie", False, "form", True), value)
    assert unquote(written.partition("=")[2]) == value
    assert written.isascii()
    assert not set(written) & set('; ",\r\n\x00\\')


def test_numbers_keep_their_digits() -> None:
    value = decode(b'{"a":[1.10,12345678901234567890123,-0,1E5,null,true,"x"]}')
    assert encode(value) == '{"a":[1.10,12345678901234567890123,-0,1E5,null,true,"x"]}'


@pytest.mark.parametrize("raw", [b"NaN", b"[Infinity]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(ArgumentError):
        decode(raw)
