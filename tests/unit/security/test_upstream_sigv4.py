"""AWS Signature Version 4 against signatures that AWS publishes."""

from __future__ import annotations

import calendar
from typing import Any

import pytest

from agw.runtime.plan_security import AwsSign
from agw.security.upstream.sigv4 import Sigv4

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = calendar.timegm((2015, 8, 30, 12, 36, 0))
FORM = [(b"content-type", b"application/x-www-form-urlencoded")]


def signer(service: str = "service", **fields: Any) -> Sigv4:
    return Sigv4(AwsSign(KEY, SECRET, region="us-east-1", service=service, **fields), lambda: NOW)


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "headers", "signature"),
    [
        ("GET", b"/", None, b"", [], "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("POST", b"/", None, b"", [], "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ("GET", b"/", b"Param2=value2&Param1=value1", b"", [], "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"),
        ("POST", b"/", None, b"Param1=value1", FORM, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
    ],
    ids=["get-vanilla", "post-vanilla", "get-vanilla-query-order-key-case", "post-x-www-form-urlencoded"],
)
def test_the_published_signatures(method: str, path: bytes, query: bytes | None, body: bytes, headers: list[tuple[bytes, bytes]], signature: str) -> None:
    lines = signer().sign(method, b"example.amazonaws.com", path, query, body, headers).decode()
    names = "content-type;host;x-amz-date" if headers else "host;x-amz-date"
    assert lines == (
        "x-amz-date: 20150830T123600Z\r\n"
        f"authorization: AWS4-HMAC-SHA256 Credential={KEY}/20150830/us-east-1/service/aws4_request, SignedHeaders={names}, Signature={signature}\r\n"
    )


def test_the_example_of_the_manual() -> None:
    headers = [(b"content-type", b"application/x-www-form-urlencoded; charset=utf-8")]
    lines = signer("iam").sign("GET", b"iam.amazonaws.com", b"/", b"Action=ListUsers&Version=2010-05-08", b"", headers)
    assert b"Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7\r\n" in lines


def test_a_session_token_is_sent_and_signed() -> None:
    lines = signer(session_token="t0k").sign("GET", b"h", b"/", None, b"")
    assert b"x-amz-security-token: t0k\r\n" in lines
    assert b"SignedHeaders=host;x-amz-date;x-amz-security-token," in lines


@pytest.mark.parametrize("change", ["method", "authority", "path", "query", "body", "header"])
def test_nothing_can_be_changed_afterwards(change: str) -> None:
    fixed: dict[str, Any] = {"method": "POST", "authority": b"h", "path": b"/a%20b", "query": b"x=1", "body": b"b", "headers": FORM}
    other = {"method": "PUT", "authority": b"i", "path": b"/a", "query": b"x=2", "body": b"c", "headers": []}
    key = "headers" if change == "header" else change
    assert signer().sign(**fixed) != signer().sign(**{**fixed, key: other[key]})


def test_a_new_day_has_a_new_key() -> None:
    now = [NOW]
    made = Sigv4(AwsSign(KEY, SECRET, region="r", service="s"), lambda: now[0])
    before = made.sign("GET", b"h", b"/", None, b"")
    now[0] += 86_400
    after = made.sign("GET", b"h", b"/", None, b"")
    assert b"/20150831/r/s/" in after
    now[0] -= 86_400
    assert made.sign("GET", b"h", b"/", None, b"") == before


@pytest.mark.parametrize("fields", [{"access_key": ""}, {"secret_key": "é"}, {"region": ""}, {"service": "a\nb"}, {"session_token": "s3cr\r\n"}])
def test_what_cannot_sign_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="aws") as caught:
        Sigv4(AwsSign(**{"access_key": "a", "secret_key": "s3cr", "region": "r", "service": "s", **fields}))
    assert "s3cr" not in str(caught.value)
