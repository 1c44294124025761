"""Header lines, header edits and CORS: what is compiled once must be harmless, and decide as the specification says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.policy import Cors, HeaderEdits, Http, Match, header_line
from agw.runtime.plan import HttpPlan

PROFILE = settings(max_examples=300, deadline=None, derandomize=True, database=None)
TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


# ----------------------------------------------------------------------------------------------------- header_line


def test_a_header_line() -> None:
    assert header_line("X-A", "1 é") == "X-A: 1 é\r\n".encode()
    assert header_line("x", "") == b"x: \r\n"


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\nX-Evil: 1", "\x0b", "\x1f", "\x7f"])
@pytest.mark.parametrize("place", ["{}", "a{}", "{}a", "a{}b"])
def test_what_ends_a_line_is_refused(bad: str, place: str) -> None:
    with pytest.raises(ValueError):
        header_line("x-a", place.format(bad))
    with pytest.raises(ValueError):
        header_line(place.format(bad), "v")
    for edits in ([("x-a", bad)], [(bad, "v")]):
        with pytest.raises(ValueError):
            HeaderEdits([], edits, [])
        with pytest.raises(ValueError):
            HeaderEdits([], [], edits)
    with pytest.raises(ValueError):
        Cors(["*"], ["GET" + bad], [], [], False, None)
    with pytest.raises(ValueError):
        Cors(["*"], [], ["x" + bad], [], False, None)
    with pytest.raises(ValueError):
        Cors(["*"], [], [], ["x" + bad], False, None)


@PROFILE
@given(st.text(max_size=6), st.text(max_size=6))
def test_any_line_is_one_line(name: str, value: str) -> None:
    fine = name != "" and all(c in TOKEN.decode() for c in name) and not any((c < " " and c != "\t") or c == "\x7f" for c in value)
    try:
        line = header_line(name, value)
    except ValueError:
        assert not fine or any("\ud800" <= c <= "\udfff" for c in value)
        return
    assert fine
    assert line == f"{name}: {value}\r\n".encode()
    assert line.count(b"\n") == line.count(b"\r") == 1


# ----------------------------------------------------------------------------------------------------- HeaderEdits

NAMES = st.text(alphabet="aAbB-", min_size=1, max_size=3)


@PROFILE
@given(st.lists(NAMES, max_size=3), st.lists(st.tuples(NAMES, st.just("1")), max_size=3), st.lists(st.tuples(NAMES, st.just("2")), max_size=3), NAMES)
def test_what_is_removed_or_set_is_dropped_in_any_case(
    remove: list[str], set_: list[tuple[str, str]], add: list[tuple[str, str]], name: str
) -> None:
    edits = HeaderEdits(remove, set_, add)
    gone = {n.lower() for n in remove} | {n.lower() for n, _ in set_}
    assert edits.would_drop(name.encode()) == (name.lower() in gone)
    assert {n.decode() for n in edits.drop} == gone
    assert edits.lines == b"".join(header_line(n, v) for n, v in [*set_, *add])


def test_a_longer_or_shorter_name_is_another_name() -> None:
    edits = HeaderEdits(["x-trace"], [], [])
    assert [edits.would_drop(n) for n in (b"X-Trace", b"x-trac", b"x-trace2", b"", b"x.trace")] == [True, False, False, False, False]


def test_a_name_with_underscores_is_the_same_name() -> None:
    """Backends that make variables of header names (HTTP_X_USER) cannot tell them apart, so a client must not have the second word."""
    for own in ("x-user", "x_user"):
        edits = HeaderEdits([], [(own, "gateway")], [])
        assert all(edits.would_drop(name) for name in (b"x-user", b"X_User", b"X_USER"))


# ------------------------------------------------------------------------------------------------------------ Cors

ORIGINS = ["https://app.example.com", "http://localhost:3000", "https://*.wild.example", "https://*.ports.example:8443", "null"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example.com", True),
        ("HTTPS://APP.example.com", True),
        ("http://app.example.com", False),
        ("https://app.example.com:443", False),
        ("https://app.example.com.evil.test", False),
        ("https://evilapp.example.com", False),
        ("https://example.com", False),
        ("http://localhost:3000", True),
        ("http://localhost", False),
        ("http://localhost:30000", False),
        ("https://a.wild.example", True),
        ("https://a.b.wild.example", True),
        ("https://A.Wild.Example", True),
        ("https://wild.example", False),
        ("https://.wild.example", False),
        ("https://evilwild.example", False),
        ("http://a.wild.example", False),
        ("https://a.wild.example:8443", False),
        ("https://evil.test/.wild.example", False),
        ("https://evil.test:1.wild.example", False),
        ("https://evil.test?.wild.example", False),
        ("https://evil.test#.wild.example", False),
        ("https://evil.test\\.wild.example", False),
        ("https://user@a.wild.example", False),
        ("https://a.ports.example:8443", True),
        ("https://a.ports.example", False),
        ("https://a.ports.example:84430", False),
        ("null", True),
        ("", False),
        ("*", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    cors = Cors(ORIGINS, [], [], [], False, None)
    expected = f"access-control-allow-origin: {origin}\r\nvary: origin\r\n".encode()
    assert cors.lines_for(origin.encode(), False) == (expected if allowed else b"vary: origin\r\n")
    assert cors.lines_for(origin.encode(), True) == (expected if allowed else b"")


def test_any_origin() -> None:
    cors = Cors(["*"], [], [], [], False, None)
    assert cors.lines_for(b"https://a", False) == cors.lines_for(b"https://a", True) == b"access-control-allow-origin: *\r\n"


def test_any_origin_with_credentials_is_named() -> None:
    cors = Cors(["*"], [], [], [], True, None)
    expected = b"access-control-allow-origin: https://a\r\nvary: origin\r\naccess-control-allow-credentials: true\r\n"
    assert cors.lines_for(b"https://a", False) == cors.lines_for(b"https://a", True) == expected


def test_preflight_lists_what_may_be_sent_and_other_answers_what_may_be_read() -> None:
    cors = Cors(["https://a"], ["GET", "POST"], ["x-a", "authorization"], ["x-b"], True, 600)
    origin = b"access-control-allow-origin: https://a\r\nvary: origin\r\naccess-control-allow-credentials: true\r\n"
    assert cors.lines_for(b"https://a", True) == origin + (
        b"access-control-allow-methods: GET, POST\r\naccess-control-allow-headers: x-a, authorization\r\naccess-control-max-age: 600\r\n"
    )
    assert cors.lines_for(b"https://a", False) == origin + b"access-control-expose-headers: x-b\r\n"
    assert b"x-a" not in cors.lines_for(b"https://b", True) + cors.lines_for(b"https://b", False)


def test_max_age_zero_is_said() -> None:
    assert b"access-control-max-age: 0\r\n" in Cors(["*"], [], [], [], False, 0).lines_for(b"https://a", True)


# ------------------------------------------------------------------------------------------------------- the others


def test_http_limits_must_not_contradict_each_other() -> None:
    assert Http(HttpPlan()).max_requests == 10_000
    for plan in (
        HttpPlan(max_line_bytes=40_000),
        HttpPlan(max_head_bytes=70_000),
        HttpPlan(max_field_bytes=70_000),
        HttpPlan(max_headers=0),
        HttpPlan(max_headers=1001),
    ):
        with pytest.raises(ValueError):
            Http(plan)


def test_a_match_needs_a_route() -> None:
    with pytest.raises(TypeError):
        Match(None, 0)  # type: ignore[arg-type]
