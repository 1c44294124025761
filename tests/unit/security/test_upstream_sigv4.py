"""AWS signatures against the published vectors, and what the signer insists on."""

from __future__ import annotations

import asyncio
import calendar
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.runtime.plan_security import AwsSign, BackendAuthPlan, KeyCredential, LocationPlan
from agw.security.contract import Headers
from agw.security.upstream import make
from agw.security.upstream.outgoing import Outgoing
from agw.security.upstream.sigv4 import AwsSource, canonical_query
from agw.security.upstream.source import CredentialError, signs
from tests.kits.external import FakeRequest, Host

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "security" / "sigv4.json").read_text())
NOON = calendar.timegm((2015, 8, 30, 12, 36, 0))
HOST: Headers = [(b"host", b"example.amazonaws.com")]


def source(service: str = "service", **more: Any) -> AwsSource:
    return AwsSource(AwsSign(VECTORS["access_key"], VECTORS["secret_key"], region="us-east-1", service=service, **more), lambda: NOON)


def signed(made: AwsSource, request: Outgoing) -> bytes:
    presented = made.ready(None, request)
    assert presented is not None
    return presented.lines


def signature(lines: bytes) -> bytes:
    return lines.rpartition(b"Signature=")[2].strip()


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
def test_published_vectors(vector: dict[str, str]) -> None:
    headers: Headers = [(b"host", vector["host"].encode())]
    if "content_type" in vector:
        headers.append((b"content-type", vector["content_type"].encode()))
    request = Outgoing(vector["method"], b"/", vector["query"].encode(), headers, vector.get("body", "").encode())
    lines = signed(source(vector["service"]), request)
    assert signature(lines).decode() == vector["signature"]
    scope = f"AKIDEXAMPLE/20150830/us-east-1/{vector['service']}/aws4_request"
    assert lines.decode() == (
        "x-amz-date: 20150830T123600Z\r\n"
        f"authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={vector['signed']}, Signature={vector['signature']}\r\n"
    )


def test_the_session_token_is_signed_and_sent() -> None:
    with_token = signed(source(session_token="temporary"), Outgoing("GET", b"/", b"", HOST))
    assert b"x-amz-security-token: temporary\r\n" in with_token
    assert b"SignedHeaders=host;x-amz-date;x-amz-security-token," in with_token


def test_amazon_headers_of_the_request_are_signed_and_the_signers_own_replaced() -> None:
    headers: Headers = [*HOST, (b"x-amz-target", b"  A   b "), (b"x-amz-date", b"1"), (b"x-amzn-trace", b"x"), (b"accept", b"*/*")]
    lines = signed(source(), Outgoing("GET", b"/", b"", headers))
    assert b"SignedHeaders=host;x-amz-date;x-amz-target," in lines
    assert lines.count(b"x-amz-date: ") == 1
    same = [*HOST, (b"x-amz-target", b"A b")]
    assert signature(lines) == signature(signed(source(), Outgoing("GET", b"/", b"", same)))


def test_paths_are_encoded_once_more_except_for_s3() -> None:
    # The same resource, but S3 signs /a%20b and the others /a%2520b.
    def of(service: str, path: bytes) -> bytes:
        return signature(signed(source(service), Outgoing("GET", path, b"", HOST)))

    assert source()._path(b"/a%20b/") == b"/a%2520b/"
    assert source("s3")._path(b"/a%20b/") == b"/a%20b/"
    assert of("service", b"/a%20b") != of("service", b"/a b")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", b""),
        (b"b&a", b"a=&b="),
        (b"a=2&a=1", b"a=1&a=2"),
        (b"a=%7e+%2f&&", b"a=~%20%2F"),
        (b"%61=x=y", b"a=x%3Dy"),
    ],
)
def test_query(query: bytes, expected: bytes) -> None:
    assert canonical_query(query) == expected


@given(st.lists(st.tuples(st.binary(max_size=6), st.binary(max_size=6)), max_size=6), st.randoms())
def test_a_query_has_one_form(pairs: list[tuple[bytes, bytes]], random: Any) -> None:
    def spelled(some: list[tuple[bytes, bytes]]) -> bytes:
        return b"&".join(b"".join(b"%%%02x" % octet for octet in name) + b"=" + b"".join(b"%%%02X" % octet for octet in value) for name, value in some)

    once = canonical_query(spelled(pairs))
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert canonical_query(spelled(shuffled)) == once
    assert canonical_query(once) == once


def test_a_body_is_signed_or_there_is_no_credential() -> None:
    sized = FakeRequest("POST", headers=[(b"content-length", b"3")], secure=True)
    with pytest.raises(CredentialError, match="the body is not at hand") as caught:
        source().ready(None, sized)
    assert caught.value.kind == "missing"
    unsigned = source("s3").ready(None, sized)
    assert unsigned is not None
    assert b"x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n" in unsigned.lines
    with pytest.raises(CredentialError, match="the body is not at hand"):
        source("s3").ready(None, FakeRequest("POST", headers=[(b"content-length", b"3")]))
    empty = FakeRequest("POST", headers=[(b"content-length", b"0")])
    assert asyncio.run(source().fetch(None, empty)) == source().ready(None, empty)


def test_a_stream_is_signed_by_nobody_but_s3() -> None:
    stream = Outgoing("PUT", b"/", None, HOST, None, secure=True)
    with pytest.raises(CredentialError, match="the body is not at hand"):
        source().ready(None, stream)
    assert b"x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n" in signed(source("s3"), stream)
    whole = signed(source("s3"), Outgoing("PUT", b"/", None, HOST, b"abc", secure=True))
    assert b"x-amz-content-sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\r\n" in whole


@pytest.mark.parametrize(
    "other",
    [
        Outgoing("PUT", b"/a", b"x=1", HOST, b"b"), Outgoing("POST", b"/b", b"x=1", HOST, b"b"), Outgoing("POST", b"/a", b"x=2", HOST, b"b"),
        Outgoing("POST", b"/a", b"x=1", [(b"host", b"other.example")], b"b"), Outgoing("POST", b"/a", b"x=1", HOST, b"c"),
    ],
    ids=["method", "path", "query", "host", "body"],
)  # fmt: skip
def test_nothing_can_be_changed_afterwards(other: Outgoing) -> None:
    assert signed(source(), other) != signed(source(), Outgoing("POST", b"/a", b"x=1", HOST, b"b"))


def test_a_new_day_has_a_new_key() -> None:
    now = [float(NOON)]
    made = AwsSource(AwsSign("AKIDEXAMPLE", "s", region="r", service="s"), lambda: now[0])
    request = Outgoing("GET", b"/", None, HOST)
    before = signed(made, request)
    now[0] += 86_400
    assert b"/20150831/r/s/" in signed(made, request)
    now[0] -= 86_400
    assert signed(made, request) == before


def test_what_cannot_be_signed() -> None:
    with pytest.raises(CredentialError, match="no Host"):
        source().ready(None, Outgoing("GET", b"/", b"", []))
    with pytest.raises(CredentialError, match="no request"):
        source().ready(None, None)
    with pytest.raises(CredentialError, match="parameters"):
        canonical_query(b"&".join([b"a"] * 1001))
    for plan in (AwsSign("", "x", region="r", service="s"), AwsSign("AKID", "x", region="", service="s"), AwsSign("AKID", "x", "a\nb", "r", "s")):
        with pytest.raises(ValueError, match=r"aws needs|session token"):
            AwsSource(plan)


def test_a_plan_makes_it() -> None:
    made = make(BackendAuthPlan([AwsSign("AKIDEXAMPLE", "secret", region="us-east-1", service="execute-api")]), Host())
    assert signs(made)
    presented = made.ready(None, FakeRequest())
    assert presented is not None
    assert b"/us-east-1/execute-api/aws4_request, SignedHeaders=host;x-amz-date, " in presented.lines


def test_several_with_a_signature_sign_and_others_do_not() -> None:
    aws, key = AwsSign("AKIDEXAMPLE", "secret", region="us-east-1", service="execute-api"), KeyCredential("k", LocationPlan("header", "x-api-key", ""))
    both = make(BackendAuthPlan([aws, key]), Host())
    assert signs(both)
    assert not signs(make(BackendAuthPlan([key]), Host()))
    presented = both.ready(None, Outgoing("POST", b"/", None, HOST, b"{}"))
    assert presented is not None
    assert b"Signature=" in presented.lines
    assert b"x-api-key: k\r\n" in presented.lines


def test_the_secret_is_not_shown() -> None:
    made = source()
    presented = signed(made, Outgoing("GET", b"/", b"", HOST))
    assert VECTORS["secret_key"] not in repr(made) + presented.decode()
