"""Credentials that need nobody, and where credentials stand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.credentials import BackendAuth
from agw.runtime.plan_security import BackendAuthPlan, KeyCredential, LocationPlan, PassthroughCredential
from agw.security.upstream import make
from agw.security.upstream.source import CredentialError, Placer, Presented
from tests.kits.external import FakeRequest, Host

QUERY = LocationPlan("query", "key", "")
COOKIE = LocationPlan("cookie", "session", "")
HEADER = LocationPlan("header", "x-api-key", "")


class Caller:
    """Who calls."""

    def __init__(self, token: bytes = b"", key: bytes = b"k" * 16, claims: dict[str, Any] | None = None) -> None:
        self.key = key
        self.token = token
        self.claims = claims or {}


def source(*credentials: Any) -> Any:
    return make(BackendAuthPlan(list(credentials)), Host())


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        (LocationPlan(), Presented(lines=b"authorization: Bearer s3cret+/=\r\n")),
        (HEADER, Presented(lines=b"x-api-key: s3cret+/=\r\n")),
        (QUERY, Presented(query=b"key=s3cret%2B%2F%3D")),
        (COOKIE, Presented(cookie=b"session=s3cret+/=")),
    ],
)
def test_a_key_stands_where_the_plan_says(location: LocationPlan, expected: Presented) -> None:
    made = source(KeyCredential("s3cret+/=", location))
    assert made.ready(None, None) == expected
    assert asyncio.run(made.fetch(Caller(), FakeRequest())) == expected
    made.invalidate(None)
    assert made.ready(None, None) == expected


@pytest.mark.parametrize("value", ["", "s3cr\r\nx: y", "s3cr\nb", "s3cr\0b", " s3cr", "s3cr ", "s3cr\x7f", "x" * 9000, "\ud800"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(value: str) -> None:
    with pytest.raises(ValueError, match="credential") as caught:
        source(KeyCredential(value))
    assert "s3cr" not in str(caught.value)


def test_passthrough_gives_the_verified_token_only() -> None:
    made = source(PassthroughCredential())
    assert made.ready(Caller(b"tok.en"), FakeRequest()) == Presented(lines=b"authorization: Bearer tok.en\r\n")
    unasked = FakeRequest(headers=[(b"authorization", b"Bearer forged")])
    for identity in (None, Caller()):
        with pytest.raises(CredentialError) as caught:
            made.ready(identity, unasked)
        assert caught.value.kind == "missing"
        with pytest.raises(CredentialError):
            asyncio.run(made.fetch(identity, unasked))


def test_passthrough_refuses_a_token_with_a_line_end() -> None:
    with pytest.raises(CredentialError) as caught:
        source(PassthroughCredential()).ready(Caller(b"a\r\nx-admin: 1"), None)
    assert caught.value.kind == "refused"
    assert "x-admin" not in str(caught.value)


def test_several_credentials_are_sent_together_or_not_at_all() -> None:
    made = source(KeyCredential("a", HEADER), KeyCredential("b", QUERY), KeyCredential("c", COOKIE), PassthroughCredential())
    assert made.ready(Caller(b"t"), None) == Presented(b"x-api-key: a\r\nauthorization: Bearer t\r\n", b"key=b", b"session=c")
    assert asyncio.run(made.fetch(Caller(b"t"), None)) == made.ready(Caller(b"t"), None)
    plan = BackendAuthPlan([KeyCredential("a", HEADER), KeyCredential("b", QUERY), KeyCredential("c", COOKIE), PassthroughCredential()])
    places = BackendAuth(plan).places
    assert places == (frozenset((b"x-api-key", b"authorization")), frozenset((b"key",)), frozenset((b"session",)))
    with pytest.raises(CredentialError):
        made.ready(None, None)
    made.invalidate(None)


def test_parameters_and_cookies_are_joined() -> None:
    made = source(*(KeyCredential("1", LocationPlan(kind, name, "")) for kind in ("query", "cookie") for name in "ab"))
    assert made.ready(None, None) == Presented(b"", b"a=1&b=1", b"a=1; b=1")


def test_what_is_presented_is_not_shown() -> None:
    assert "s3cret" not in repr(source(KeyCredential("s3cret")).ready(None, None))


@given(st.binary(max_size=40), st.sampled_from([LocationPlan(), QUERY, COOKIE, HEADER]))
def test_any_value_is_placed_without_a_way_out_or_refused(value: bytes, location: LocationPlan) -> None:
    try:
        placed = Placer(location)(value)
    except CredentialError as error:
        assert error.kind == "refused"
        return
    assert placed.lines.count(b"\r\n") == (1 if location.kind == "header" else 0)
    assert not any(octet in placed.lines.removesuffix(b"\r\n") for octet in b"\r\n\0")
    assert not any(octet in placed.query for octet in b"& #\r\n")
    assert not any(octet in placed.cookie for octet in b'; ,"\\\r\n\t')
