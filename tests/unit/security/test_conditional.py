"""Of several policies under conditions exactly one is asked, and an accident asks rather than lets pass."""

from __future__ import annotations

import pytest

from agw.security.conditional import Conditional
from agw.security.contract import AUTHORIZATION, Found, Refusal, Request, Verdict
from tests.kits.external import FakeRequest


class Fixed:
    closed = False

    def __init__(self, name: str) -> None:
        self.refusal = Refusal(403, AUTHORIZATION, name.encode())

    def check(self, request: Request, found: Found) -> Verdict:
        return self.refusal

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("path", "claims", "asked"),
    [
        (b"/a", {"sub": "x"}, b"first"), (b"/b", {"sub": "x"}, b"second"), (b"/c", {"sub": "x"}, b"last"), (b"/b", {}, b"first"),
    ],
)  # fmt: skip
def test_the_first_that_holds(path: bytes, claims: dict[str, str], asked: bytes) -> None:
    first, second, last = Fixed("first"), Fixed("second"), Fixed("last")
    step = Conditional([('jwt.sub != "x" || request.path == "/a"', first), ('request.path == "/b"', second), ("", last)])
    found = Found()
    found.claims["jwt"] = claims
    verdict = step.check(FakeRequest(path=path), found)
    assert isinstance(verdict, Refusal) and verdict.message == asked
    assert not found.lasting
    step.close()
    assert first.closed and second.closed and last.closed


def test_without_one_that_holds_the_request_passes() -> None:
    found = Found()
    assert Conditional([('request.method == "PUT"', Fixed("a")), ("false", Fixed("b"))]).check(FakeRequest(), found) is None
    assert not found.lasting
