"""`locate` against json.loads and a model of what is one JSON-RPC message.

Text comes from three sources: any JSON value in any spelling, messages composed of members that decide something (in
right and wrong types, repeated and misspelt), and either of them with a few octets changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.jsonrpc import EnvelopeError, locate

PROFILE = settings(max_examples=300, deadline=None, derandomize=True, database=None)
DEEPEST = 64
DECISIVE = ("jsonrpc", "id", "method", "params", "result", "error")


# ------------------------------------------------------------------------------------------------------- the oracle


class Number(NamedTuple):
    raw: str


class Members(NamedTuple):
    pairs: list[tuple[str, Any]]


def refuse_constant(text: str) -> Any:
    raise ValueError(text)


def parsed(text: bytes) -> Any:
    """The value with repeated members and spelling of numbers kept. Errors: ValueError."""
    return json.loads(text.decode("utf-8"), object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=refuse_constant)


def is_json(text: bytes) -> bool:
    try:
        parsed(text)
    except (ValueError, RecursionError):
        return False
    return True


def misspelt_or_repeated(pairs: list[tuple[str, Any]], names: tuple[str, ...]) -> bool:
    lower = [re.sub("[A-Z]", lambda m: m[0].lower(), name) for name, _ in pairs]
    chosen = [name for name in lower if name in names]
    exact = [name for name, _ in pairs if name in names]
    return chosen != exact or len(set(exact)) != len(exact)


def kind_of(value: Any) -> str | None:
    """What a JSON value is as a message; None when it is none."""
    if isinstance(value, list):
        return "batch"
    if not isinstance(value, Members) or misspelt_or_repeated(value.pairs, DECISIVE):
        return None
    members = dict(value.pairs)
    if members.get("jsonrpc") != "2.0":
        return None
    ident = members.get("id", "")
    if not (ident is None or isinstance(ident, str) or (isinstance(ident, Number) and re.fullmatch(r"-?\d+", ident.raw))) or isinstance(ident, bool):
        return None
    params = members.get("params", [])
    if not isinstance(params, (list, Members)):
        return None
    if isinstance(params, Members) and misspelt_or_repeated(params.pairs, ("name", "uri")):
        return None
    if "method" in members:
        if not isinstance(members["method"], str) or "result" in members or "error" in members:
            return None
        return "notification" if "id" not in members else None if ident is None else "request"
    return "response" if "id" in members and ("result" in members) != ("error" in members) else None


def text_of(raw: bytes | None) -> Any:
    return None if raw is None else json.loads(b'"' + raw + b'"')


def agrees(text: bytes) -> None:
    """`locate` says about `text` what the oracle says."""
    try:
        found = locate(text)
    except EnvelopeError as error:
        assert error.code in (-32700, -32600)
        if error.code == -32700:
            assert not is_json(text)
        elif is_json(text):
            assert kind_of(parsed(text)) is None
        return
    value = parsed(text)
    assert found["kind"] == kind_of(value)
    if found["kind"] == "batch":
        return
    members = dict(value.pairs)
    assert (found["id"] is not None) == ("id" in members)
    if found["id"] is not None:
        assert parsed(found["id"]) == members["id"]
    assert text_of(found["method"]) == members.get("method")
    assert (found["params"] is not None) == ("params" in members)
    inner: dict[str, Any] = {}
    if found["params"] is not None:
        assert parsed(found["params"]) == members["params"]
        assert found["params"][:1] in b"{[" and found["params"][-1:] in b"}]"
        if isinstance(members["params"], Members):
            inner = dict(members["params"].pairs)
    for part in (found["name"], found["uri"]):
        assert part is None or part in text
    assert text_of(found["name"]) == (inner.get("name") if isinstance(inner.get("name"), str) else None)
    assert text_of(found["uri"]) == (inner.get("uri") if isinstance(inner.get("uri"), str) else None)


# --------------------------------------------------------------------------------------------------- generated text

BLANKS = st.sampled_from(["", "", "", " ", "\n", "\t\r "])
TEXTS = st.text(max_size=6).map(lambda s: json.dumps(s, ensure_ascii=False)) | st.text(max_size=4).map(json.dumps)
NUMBERS = st.sampled_from(["0", "-0", "1", "-12", "1.0", "1e3", "1E-3", "-0.5e+10", "9" * 40, str(2**53), "1" * 5000]) | st.integers().map(str)
LITERALS = st.sampled_from(["true", "false", "null"])
# Encoded surrogates cannot be written; names with escapes are a case of their own, see below.
NAMES = st.text(st.characters(blacklist_characters='"\\', min_codepoint=32, blacklist_categories=["Cs"]), max_size=4).map(lambda s: f'"{s}"')


def containers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    spaced = st.tuples(BLANKS, inner, BLANKS).map("".join)
    arrays = st.lists(spaced, max_size=4).map(lambda v: "[" + ",".join(v) + "]")
    members = st.tuples(BLANKS, NAMES | st.sampled_from(['"name"', '"id"']), BLANKS, spaced).map(lambda t: f"{t[0]}{t[1]}{t[2]}:{t[3]}")
    return arrays | st.lists(members, max_size=4).map(lambda v: "{" + ",".join(v) + "}")


VALUES = st.recursive(TEXTS | NUMBERS | LITERALS, containers, max_leaves=12)


def members_of(pairs: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"


def rarely(text: str, change: Callable[[str], str]) -> st.SearchStrategy[str]:
    return st.sampled_from([text] * 12 + [change(text)])


PARAMS = st.lists(
    st.tuples(st.sampled_from(["name", "uri", "Name", "URI", "arguments", "_meta", "n"]), TEXTS | VALUES), max_size=3
).map(members_of)
MEMBERS: st.SearchStrategy[list[tuple[str, str]]] = st.tuples(
    st.lists(st.tuples(rarely("jsonrpc", str.upper), rarely('"2.0"', lambda _: "2.0")), min_size=1, max_size=1),
    st.lists(st.tuples(rarely("id", str.title), NUMBERS | TEXTS | LITERALS | VALUES), max_size=1),
    st.lists(st.tuples(rarely("method", str.title), rarely('"tools/call"', lambda _: "7") | TEXTS), max_size=1),
    st.lists(st.tuples(rarely("params", str.title), PARAMS | PARAMS | VALUES), max_size=1),
    st.lists(st.tuples(st.sampled_from(["result", "error", "Error", "id", "params", "other", "ids"]), VALUES), max_size=1),
).map(lambda parts: [member for part in parts for member in part])
MESSAGES = MEMBERS.flatmap(st.permutations).map(members_of)
PUT = st.binary(max_size=3) | st.sampled_from([b'"', b"\\", b"{", b"}", b"]", b","])
CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), PUT), min_size=1, max_size=2)


def changed(text: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, drop, put in changes:
        at %= len(text) + 1
        text = text[:at] + put + text[at + drop :]
    return text


@PROFILE
@given(MESSAGES)
def test_messages_are_read_as_json_reads_them(text: str) -> None:
    agrees(text.encode())


@PROFILE
@given(st.tuples(BLANKS, VALUES, BLANKS).map("".join))
def test_any_json_is_accepted_or_refused_as_no_message(text: str) -> None:
    agrees(text.encode())


@PROFILE
@given((MESSAGES | VALUES).map(str.encode), CHANGES)
def test_what_is_not_json_is_refused(text: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    raw = changed(text, changes)
    if not escaped_name(raw):
        agrees(raw)


@PROFILE
@given(st.binary(max_size=40) | st.text(alphabet='{}[]",:\\u0019.eE+-truefalsn ', max_size=30).map(str.encode))
def test_noise(text: bytes) -> None:
    if not escaped_name(text):
        agrees(text)


def escaped_name(text: bytes) -> bool:
    return re.search(rb'\\[^{}]*"[ \t\r\n]*:', text) is not None


@PROFILE
@given(st.sampled_from([*DECISIVE, "name", "uri", "other"]), st.integers(0, 20), st.booleans())
def test_an_escaped_member_name_is_refused_whatever_it_spells(name: str, at: int, inside: bool) -> None:
    at %= len(name)
    spelt = f"{name[:at]}\\u{ord(name[at]):04x}{name[at + 1 :]}"
    text = f'{{"jsonrpc":"2.0","id":1,"method":"m","params":{{"{spelt}":1}}}}' if inside else f'{{"jsonrpc":"2.0","id":1,"method":"m","{spelt}":1}}'
    assert is_json(text.encode())
    try:
        locate(text.encode())
    except EnvelopeError as error:
        assert error.code == -32600
    else:
        raise AssertionError(text)


@PROFILE
@given(st.integers(0, 70), st.integers(0, 70))
def test_nesting_is_bounded_exactly(depth: int, limit: int) -> None:
    text = b"[" * depth + b"0" + b"]" * depth
    try:
        locate(text, limit)
        fine = True
    except EnvelopeError as error:
        fine = error.code == -32600
    assert fine == (depth <= min(limit, DEEPEST))
