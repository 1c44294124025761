"""Credentials are read from one place in one way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.plan_security import LocationPlan
from agw.security.credentials_in import Malformed, reader
from tests.kits.tokens import Asked

BEARER = LocationPlan()
PLAIN = LocationPlan("header", "x-api-key", "")
QUERY = LocationPlan("query", "key", "")
COOKIE = LocationPlan("cookie", "key", "")


def read(location: LocationPlan, *values: bytes) -> bytes | Malformed | None:
    return reader(location)(Asked([(location.name.encode(), value) for value in values]))


@pytest.mark.parametrize("value", [b"Bearer abc", b"bearer abc", b"BEARER abc"])
def test_the_scheme_has_no_case(value: bytes) -> None:
    assert read(BEARER, value) == b"abc"


@pytest.mark.parametrize("value", [b"Basic abc", b"Bearerx abc", b"Bearer2 abc", b"DPoP abc", b"abc"])
def test_another_scheme_is_no_credential_of_this_kind(value: bytes) -> None:
    assert read(BEARER, value) is None


@pytest.mark.parametrize(
    "value", [b"Bearer", b"Bearer ", b"Bearer  abc", b"Bearer\tabc", b"Bearer abc ", b"Bearer a b", b"Bearer a, Bearer b", b"Bearer,abc", b"Bearer \xc3\xa9",
              b"Bearer a\x00b", b"Bearer a\x7f"],
)  # fmt: skip
def test_the_form_is_exact(value: bytes) -> None:
    assert isinstance(read(BEARER, value), Malformed)


def test_two_headers_are_never_the_first() -> None:
    assert isinstance(read(BEARER, b"Bearer abc", b"Bearer abc"), Malformed)
    assert isinstance(read(BEARER, b"Bearer abc", b"Basic abc"), Malformed)
    assert isinstance(read(PLAIN, b"a", b""), Malformed)
    assert read(BEARER) is None


def test_a_header_without_prefix_is_the_credential() -> None:
    assert read(PLAIN, b"abc=") == b"abc="
    assert isinstance(read(PLAIN, b""), Malformed)
    assert isinstance(read(PLAIN, b"a b"), Malformed)


@pytest.mark.parametrize(
    ("query", "expected"),
    [(None, None), (b"", None), (b"a=1", None), (b"keys=1", None), (b"a=key", None), (b"key=abc", b"abc"), (b"a=1&key=a%2Bb&b=2", b"a+b"),
     (b"%6bey=abc", b"abc")],
)  # fmt: skip
def test_query(query: bytes | None, expected: bytes | None) -> None:
    assert reader(QUERY)(Asked(query=query)) == expected


@pytest.mark.parametrize("query", [b"key=a&key=b", b"key=a&%6bey=a", b"key=", b"key", b"key=a+b", b"key=a%00", b"key=%C3%A9"])
def test_query_that_is_refused(query: bytes) -> None:
    assert isinstance(reader(QUERY)(Asked(query=query)), Malformed)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [([], None), ([b"a=1"], None), ([b"xkey=1; keyx=2"], None), ([b"a=1; key=abc; b=2"], b"abc"), ([b"a=1", b"key=abc"], b"abc"), ([b'key="abc"'], b"abc"),
     ([b"key="], None), ([b"key"], None), ([b"key=a=b=="], b"a=b==")],
)  # fmt: skip
def test_cookie(lines: list[bytes], expected: bytes | None) -> None:
    assert reader(COOKIE)(Asked([(b"cookie", line) for line in lines])) == expected


@pytest.mark.parametrize("lines", [[b"key=a; key=b"], [b"key=a", b"key=a"], [b"key=a b"], [b'key=""'], [b"key=\xff"]])
def test_cookie_that_is_refused(lines: list[bytes]) -> None:
    assert isinstance(reader(COOKIE)(Asked([(b"cookie", line) for line in lines])), Malformed)


@given(st.sampled_from((BEARER, PLAIN, QUERY, COOKIE)), st.binary(max_size=60))
def test_what_is_read_is_visible_ascii(location: LocationPlan, octets: bytes) -> None:
    name = location.name.encode()
    request = Asked([(name, octets), (b"cookie", b"key=" + octets)] if location.kind != "query" else [], query=b"key=" + octets)
    if location.kind == "header":
        request.headers = [(name, location.prefix.encode() + octets)]
    found = reader(location)(request)
    assert found is None or isinstance(found, Malformed) or all(33 <= octet <= 126 for octet in found)


EXPRESSION = LocationPlan("expression", 'request.headers["x-auth"].startsWith("Key ") ? request.headers["x-auth"].substring(4) : ""', "", ["x-auth"])


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None), ([(b"x-auth", b"Key abc")], b"abc"), ([(b"x-auth", b"Other abc")], None), ([(b"x-auth", b"Key a b")], "malformed"),
        ([(b"x-auth", b"Key \xff")], "malformed"), ([(b"x-other", b"Key abc")], None),
    ],
)  # fmt: skip
def test_an_expression(headers: list[tuple[bytes, bytes]], found: bytes | str | None) -> None:
    read = reader(EXPRESSION)(Asked(headers))
    assert (isinstance(read, Malformed) and found == "malformed") or read == found


def test_an_expression_that_fails_on_what_is_there_is_no_credential_that_is_missing() -> None:
    read = reader(LocationPlan("expression", 'request.headers["x-auth"].split(":")[1]', "", ["x-auth"]))
    assert read(Asked([])) is None
    assert isinstance(read(Asked([(b"x-auth", b"abc")])), Malformed)
    assert read(Asked([(b"x-auth", b"a:bc")])) == b"bc"
