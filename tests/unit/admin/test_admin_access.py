"""Who may use the admin listener."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest

from agw.admin.access import MAX_ADDRESSES, MAX_FAILURES, WINDOW_S, Access
from agw.admin.endpoints import Endpoint, EndpointTable
from agw.admin.message import HttpError, Request, Response
from agw.runtime.plan_security import AdminAuthPlan, AdminTokenPlan


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


PLAN = AdminAuthPlan([AdminTokenPlan(hashed("reader"), "read", "scraper"), AdminTokenPlan(hashed("operator"), "operate")])


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def request(method: str = "GET", authorization: str | None = None, peer: str = "192.0.2.1:5000", *more: str) -> Request:
    headers = tuple(("authorization", value) for value in ([authorization] if authorization else []) + list(more))
    return Request(method, "/workers", "", "gateway.example:15000", headers, peer=peer)


def refusal(access: Access, asked: Request) -> HttpError:
    with pytest.raises(HttpError) as caught:
        access.check(asked)
    return caught.value


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize("write", ["Bearer {}", "bearer  {}", "basic"])
def test_roles(write: str) -> None:
    access = Access(PLAN)

    def authorization(token: str) -> str:
        return basic(token) if write == "basic" else write.format(token)

    access.check(request("GET", authorization("reader")))
    access.check(request("HEAD", authorization("reader")))
    assert refusal(access, request("POST", authorization("reader"))).status == 403
    for method in ("GET", "POST"):
        access.check(request(method, authorization("operator")))
    assert access.results["refused"] == 0


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer ", "Bearer READER", "Bearer reader x", "reader", "Digest reader", "Basic reader", "Basic " + "A" * 2000, basic(""), "Bearer \u20ac"],
)
def test_what_is_no_token(authorization: str) -> None:
    access = Access(PLAN)
    error = refusal(access, request("GET", authorization))
    assert error.status == 401 and [name for name, _ in error.headers] == ["www-authenticate"] * 2
    assert access.results["refused"] == 1


def test_no_credential_is_no_attempt_and_two_are_none() -> None:
    access = Access(PLAN)
    assert refusal(access, request()).status == 401 and access.results["refused"] == 0
    assert refusal(access, request("GET", "Bearer reader", "192.0.2.1:1", "Bearer reader")).status == 401


def test_who_guesses_is_not_listened_to_for_a_while() -> None:
    clock = Clock()
    access = Access(PLAN, clock)
    for port in range(MAX_FAILURES):
        assert refusal(access, request("GET", "Bearer guess", f"192.0.2.1:{port}")).status == 401
    error = refusal(access, request("GET", "Bearer operator"))
    assert error.status == 429 and error.headers == (("retry-after", "61"),)
    access.check(request("GET", "Bearer operator", "192.0.2.2:1"))
    clock.now += WINDOW_S
    access.check(request("GET", "Bearer operator"))
    assert refusal(access, request("GET", "Bearer guess")).status == 401, "counted anew"
    access.check(request("GET", "Bearer operator"))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1:5000", "2001:db8::ffff:2:80", True), ("2001:db8:0:1::1:5000", "2001:db8::1:5000", False), ("::ffff:192.0.2.1:9", "192.0.2.1:9", True),
        ("unix", "unix", True),
    ],
)  # fmt: skip
def test_what_counts_as_one_address(one: str, other: str, same: bool) -> None:
    access = Access(PLAN)
    for _ in range(MAX_FAILURES):
        refusal(access, request("GET", "Bearer guess", one))
    if same:
        assert refusal(access, request("GET", "Bearer operator", other)).status == 429
    else:
        access.check(request("GET", "Bearer operator", other))


def test_the_table_of_addresses_is_bounded() -> None:
    access = Access(PLAN)
    for number in range(MAX_ADDRESSES + 100):
        refusal(access, request("GET", "Bearer guess", f"10.0.{number >> 8}.{number & 255}:1"))
    assert len(access._failed) == MAX_ADDRESSES


async def answer(request: Request) -> Response:
    return Response(200, b"yes")


def test_every_endpoint_asks_also_one_that_does_not_exist(serve: Any) -> None:
    import http.client

    table = EndpointTable([Endpoint("GET", "/a", "", answer), Endpoint("POST", "/a", "", answer)], access=Access(PLAN))
    _, port = serve(table)
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)

    def status(method: str, path: str, **headers: str) -> int:
        client.request(method, path, headers=headers)
        response = client.getresponse()
        response.read()
        return response.status

    assert [status("GET", path) for path in ("/a", "/", "/none")] == [401] * 3
    assert status("GET", "/a", Authorization="Bearer reader") == 200
    assert status("GET", "/none", Authorization="Bearer reader") == 404
    assert status("POST", "/a", Authorization="Bearer reader") == 403
    assert status("POST", "/a", Authorization="Bearer operator") == 200
    assert status("POST", "/a", Authorization="Bearer operator", Origin="http://evil.example") == 403, "a browser that remembers the password"
    client.close()
