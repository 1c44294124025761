"""Compact tokens before any cryptography: one reading, or none."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.security.compact import MAX_DEPTH, MAX_TOKEN, Compact, object_of, parse
from agw.security.credentials_in import Malformed
from tests.kits.tokens import b64

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "security" / "compact.json").read_text())
HEADER = '{"alg":"RS256"}'


def token_of(case: dict[str, Any]) -> bytes:
    if "token" in case:
        return str(case["token"]).encode()
    claims = bytes.fromhex(case["claims_hex"]) if "claims_hex" in case else case.get("claims", "{}").encode()
    return f"{b64(case.get('header', HEADER).encode())}.{b64(claims)}.AAAA".encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_refused(case: dict[str, Any]) -> None:
    result = parse(token_of(case))
    assert isinstance(result, Malformed)
    assert case["cause"] in result.cause


def test_the_vectors_would_be_good_without_their_fault() -> None:
    result = parse(token_of({}))
    assert result == Compact("RS256", None, {}, token_of({}).rpartition(b".")[0], b"\0\0\0")


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_types_of_access_tokens(typ: str) -> None:
    assert isinstance(parse(token_of({"header": json.dumps({"alg": "RS256", "typ": typ})})), Compact)


def test_other_headers_are_ignored() -> None:
    header = {"alg": "RS256", "kid": "../../etc/passwd\0' OR 1=1", "x5c": ["AAAA"], "x5t": "AA", "nonce": "n"}
    result = parse(token_of({"header": json.dumps(header)}))
    assert isinstance(result, Compact)
    assert result.kid == header["kid"]


def test_size_is_bounded_before_anything_else() -> None:
    claims = json.dumps({"a": "x" * 12_000})
    token = token_of({"claims": claims})
    assert len(token) <= MAX_TOKEN
    assert isinstance(parse(token), Compact)
    assert parse(token + b"A" * (MAX_TOKEN - len(token) + 1)) == Malformed(f"the token is longer than {MAX_TOKEN} octets")


def test_depth_counts_brackets_outside_text_only() -> None:
    assert object_of(json.dumps({"a": "[" * 5000 + '"\\' + "{" * 5000}).encode()) == {"a": "[" * 5000 + '"\\' + "{" * 5000}
    deep = '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH
    assert isinstance(object_of(deep.encode()), dict)
    assert isinstance(object_of(('{"a":' + deep + "}").encode()), Malformed)
    wide = {"a": [[] for _ in range(2000)]}
    assert object_of(json.dumps(wide).encode()) == wide


def test_a_text_that_never_ends_is_read_once() -> None:
    """A quadratic scan of this would take minutes."""
    assert isinstance(object_of(b"[" * 40 + b'"' + b'\\"' * 500_000), Malformed)
    assert isinstance(object_of(b"[" * 40 + b'"' * 1_000_001), Malformed)


def test_whole_surrogate_pairs_are_text() -> None:
    assert object_of(rb'{"a":"\ud83d\ude00"}') == {"a": "\U0001f600"}


@given(st.binary(max_size=300))
def test_any_octets_are_refused_or_read(octets: bytes) -> None:
    assert isinstance(parse(octets), Compact | Malformed)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(min_size=1, max_size=40))
def test_any_parts_are_refused_or_read(header: bytes, claims: bytes, signature: bytes) -> None:
    assert isinstance(parse(f"{b64(header)}.{b64(claims)}.{b64(signature)}".encode()), Compact | Malformed)
    assert isinstance(parse(f"{b64(HEADER.encode())}.{b64(claims)}.{b64(signature)}".encode()), Compact | Malformed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=5), st.booleans())
def test_objects_are_read_as_they_were_written(value: dict[str, Any], ascii_only: bool) -> None:
    assert object_of(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(min_size=1, max_size=30), st.integers(0, 255))
def test_there_is_one_spelling_of_octets(signature: bytes, octet: int) -> None:
    """Another last character never decodes to the same signature."""
    good = f"{b64(HEADER.encode())}.e30.{b64(signature)}".encode()
    other = good[:-1] + bytes((octet,))
    read, changed = parse(good), parse(other)
    assert isinstance(read, Compact)
    assert other == good or not isinstance(changed, Compact) or changed.signature != read.signature


@pytest.mark.parametrize("unit", ['"\\', '"', '\\"', '"a', "[", "[]", "{}", '{"', '"[', "[1,", '"\\"', "\\u0041"])
@pytest.mark.parametrize("begin", ["", "[" * 33, '{"a":' + "[" * 40])
def test_no_text_is_slow(unit: str, begin: str) -> None:
    """Depth is counted before JSON is read; a text that breaks off inside a string once took a second for the size of a token."""
    octets = (begin + unit * MAX_TOKEN)[: MAX_TOKEN * 3 // 4].encode()
    begun = time.process_time()
    assert isinstance(object_of(octets), Malformed)
    assert time.process_time() - begun < 0.05
