"""The router against a scan of all rows that does what the docstring of agw/_fast/router.pyi says, and nothing clever.

Rows, listeners and requests are drawn from few names, so that they collide: several hostnames match a host, several
paths a path, several rows differ in one condition only.
"""

from __future__ import annotations

import random
import re
from typing import Literal, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agw._fast.http1 import normalised_path
from agw._fast.router import HostTable, Router

PROFILE = settings(max_examples=150, deadline=None, derandomize=True, database=None)

Test = tuple[str, Literal["exact", "regex"], str]
Row = tuple[Literal["exact", "prefix", "regex"], str, str, list[Test], list[Test], int]
Hosts = dict[str, list[Row]]


class Request(NamedTuple):
    method: str
    host: str
    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]

    def head(self) -> bytes:
        target = self.path + ("?" + "&".join(f"{k}={v}" for k, v in self.query) if self.query else "")
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {self.host}", *(f"{n}: {v}" for n, v in self.headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


# ------------------------------------------------------------------------------------------------------- the model


def host_rank(pattern: str, host: str) -> tuple[int, int] | None:
    """How specific a hostname that matches is: exact, wildcard by length, none at all; None when it does not match."""
    if pattern == "":
        return 0, 0
    if pattern.startswith("*."):
        suffix = pattern[1:]
        return (1, len(suffix)) if host.endswith(suffix) and len(host) > len(suffix) else None
    return (2, 0) if pattern == host else None


def bare_host(authority: str) -> str:
    return (authority if authority.startswith("[") else authority.partition(":")[0]).partition("]:")[0].lower().removesuffix(".")


def ranked(patterns: list[str], host: str) -> list[str]:
    """The hostnames that match, most specific first."""
    found = [(rank, pattern) for pattern in patterns if (rank := host_rank(pattern, host)) is not None]
    return [pattern for _, pattern in sorted(found, reverse=True)]


def condition_holds(test: Test, value: str | None) -> bool:
    _, kind, wanted = test
    return value is not None and (re.fullmatch(wanted, value) is not None if kind == "regex" else value == wanted)


def path_rank(kind: str, pattern: str, path: str) -> tuple[int, int] | None:
    if kind == "exact":
        return (1, 0) if pattern == path else None
    if kind == "regex":
        return (0, len(pattern.encode())) if re.fullmatch(pattern, path) else None
    prefix = pattern.rstrip("/")
    return (0, max(1, len(prefix.encode()))) if path == prefix or path.startswith(prefix + "/") else None


def naive(listeners: list[tuple[str, object, Hosts]], request: Request) -> tuple[int, int]:
    host = bare_host(request.host)
    path = (normalised_path(request.path.encode()) or b"").decode()
    names = [hostname for hostname, _, _ in listeners]
    matching = ranked(names, host)
    if not matching:
        return -1, -1
    listener = names.index(matching[0])
    hosts = listeners[listener][2]
    fields: dict[str, str] = {}
    for name, value in request.headers:
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    fields |= {":method": request.method, ":authority": request.host}
    query = dict(reversed(request.query))
    for hostname in ranked(list(hosts), host):
        best: tuple[tuple[tuple[int, int], bool, int, int, int], int] | None = None
        for order, (kind, pattern, method, headers, params, result) in enumerate(hosts[hostname]):
            rank = path_rank(kind, pattern, path)
            if rank is None or (method and method != request.method):
                continue
            if not all(condition_holds(t, fields.get(t[0].lower())) for t in headers):
                continue
            if not all(condition_holds(t, query.get(t[0])) for t in params):
                continue
            key = (rank, method != "", len(headers), len(params), -order)
            if best is None or key > best[0]:
                best = (key, result)
        if best is not None:
            return listener, best[1]
    return listener, -1


# -------------------------------------------------------------------------------------------------- generated input

SEGMENTS = ["a", "b", "ab", "c.d", "~"]
PATHS = st.lists(st.sampled_from(SEGMENTS), max_size=4).map(lambda s: "/" + "/".join(s))
SLASHED = st.tuples(PATHS, st.sampled_from(["", "", "/"])).map(lambda t: t[0] if t[0] == "/" else t[0] + t[1])
REGEXES = st.sampled_from(["/a.", "/.b", "/..", "/a/.", "/./b", "/.*", "/a.*", "/.*b", "/(a|b)/?", "/ab/.*"])
LABELS = st.sampled_from(["a", "b", "aa"])
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.one_of(st.just(""), NAMES, NAMES.map(lambda n: "*." + n))
METHODS = st.sampled_from(["GET", "POST", "BREW"])
HEADERS: st.SearchStrategy[list[Test]] = st.lists(
    st.sampled_from(
        [
            ("x-a", "exact", "1"),
            ("X-B", "exact", "2"),
            ("x-a", "regex", "[12]"),
            ("x-a", "regex", "1, 2"),
            (":method", "regex", "GET|POST"),
            (":authority", "regex", "a.*"),
        ]
    ),
    max_size=2,
)
QUERY: st.SearchStrategy[list[Test]] = st.lists(st.sampled_from([("q", "exact", "1"), ("r", "regex", "[12]*")]), max_size=2)
PATH_TESTS = st.one_of(
    st.tuples(st.just("exact"), SLASHED), st.tuples(st.just("prefix"), SLASHED), st.tuples(st.just("regex"), REGEXES)
)
ROWS = st.tuples(PATH_TESTS, st.one_of(st.just(""), METHODS), HEADERS, QUERY)
TABLES = st.lists(
    st.tuples(PATTERNS, st.dictionaries(PATTERNS, st.lists(ROWS, min_size=1, max_size=6), max_size=4)),
    min_size=1,
    max_size=3,
    unique_by=lambda listener: listener[0],
)
REQUESTS = st.builds(
    Request,
    METHODS,
    st.tuples(NAMES, st.sampled_from(["", "", ":8080", ".", ".:80"]), st.booleans()).map(lambda t: (t[0].upper() if t[2] else t[0]) + t[1]),
    SLASHED,
    st.lists(st.tuples(st.sampled_from(["q", "r"]), st.sampled_from(["", "1", "2"])), max_size=3),
    st.lists(st.tuples(st.sampled_from(["x-a", "X-A", "x-b"]), st.sampled_from(["1", "2"])), max_size=3),
)


def numbered(drawn: list[tuple[str, dict[str, list[tuple[tuple[str, str], str, list[Test], list[Test]]]]]]) -> list[tuple[str, object, Hosts]]:
    """Rows with distinct values, so that the answer names one row."""
    listeners: list[tuple[str, object, Hosts]] = []
    count = 0
    for hostname, hosts in drawn:
        rows_by_host: Hosts = {}
        for name, rows in hosts.items():
            rows_by_host[name] = []
            for (kind, path), method, headers, query in rows:
                rows_by_host[name].append((kind, path, method, headers, query, count))  # type: ignore[arg-type]
                count += 1
        listeners.append((hostname, hostname, rows_by_host))
    return listeners


@PROFILE
@given(TABLES, st.lists(REQUESTS, min_size=1, max_size=8))
def test_any_table_routes_as_the_naive_scan(drawn: list[object], requests: list[Request]) -> None:
    listeners = numbered(drawn)  # type: ignore[arg-type]
    router = Router(listeners)
    for request in requests:
        assert router.match_request(request.head()) == naive(listeners, request), request


CLOSE_ROWS = st.tuples(
    st.sampled_from(
        [("prefix", "/ab"), ("prefix", "/"), ("regex", "/a."), ("regex", "/.b"), ("regex", "/.*"), ("regex", "/a.*")]
    ),
    st.sampled_from(["", "GET"]),
    st.sampled_from([[], [("x-a", "exact", "1")]]),
    st.sampled_from([[], [("q", "exact", "1")]]),
)


@settings(PROFILE, max_examples=800)
@given(
    st.lists(CLOSE_ROWS, min_size=3, max_size=8),
    st.sampled_from(["/ab", "/ab", "/ab/"]),
    st.sampled_from([[], [("x-a", "1")]]),
    st.sampled_from([[], [("q", "1")]]),
)
def test_rows_that_differ_in_one_thing_are_ranked_as_documented(
    rows: list[object], path: str, headers: list[tuple[str, str]], query: list[tuple[str, str]]
) -> None:
    listeners = numbered([("", {"": rows})])  # type: ignore[dict-item]
    request = Request("GET", "h", path, query, headers)
    assert Router(listeners).match_request(request.head()) == naive(listeners, request)


@PROFILE
@given(st.lists(PATTERNS, max_size=6, unique=True), NAMES)
@example(["*.a"], ".a")
@example(["*.a", "*.a.a", "a.a.a", ""], "a.a.a")
def test_a_host_finds_its_hostnames_most_specific_first(patterns: list[str], host: str) -> None:
    table = HostTable({pattern: i for i, pattern in enumerate(patterns)})
    assert [patterns[i] for i in table.lookup(host)] == ranked(patterns, host)


# --------------------------------------------------------------------------------------------------------- by hand


def routes(rows: list[Row], request: Request) -> int:
    listeners: list[tuple[str, object, Hosts]] = [("", "only", {"": rows})]
    found = Router(listeners).match_request(request.head())
    assert found == naive(listeners, request)
    return found[1]


def get(path: str, method: str = "GET", host: str = "h") -> Request:
    return Request(method, host, path, [], [])


def test_regexes_of_equal_length_are_ranked_row_by_row() -> None:
    rows: list[Row] = [
        ("regex", "/a.", "", [], [], 0),
        ("regex", "/.b", "GET", [], [], 1),
        ("regex", "/a.", "GET", [("x", "exact", "1")], [], 2),
    ]
    assert routes(rows, get("/ab")) == 1


def test_a_prefix_and_a_regex_of_equal_length_are_ranked_by_what_follows() -> None:
    assert routes([("prefix", "/ab", "", [], [], 0), ("regex", "/.b", "GET", [], [], 1)], get("/ab")) == 1
    assert routes([("prefix", "/ab", "", [], [], 0), ("regex", "/.b", "", [], [], 1)], get("/ab")) == 0
    assert routes([("regex", "/.b", "", [], [], 0), ("prefix", "/ab", "", [], [], 1)], get("/ab")) == 0


def test_a_prefix_stands_for_whole_segments() -> None:
    rows: list[Row] = [("prefix", "/a", "", [], [], 0)]
    assert [routes(rows, get(p)) for p in ("/a", "/a/", "/a/b", "/ab", "/", "/b/a")] == [0, 0, 0, -1, -1, -1]


def test_a_trailing_slash_of_a_prefix_means_nothing_and_that_of_an_exact_path_does() -> None:
    assert [routes([("prefix", "/a/", "", [], [], 0)], get(p)) for p in ("/a", "/a/", "/a/b")] == [0, 0, 0]
    assert [routes([("exact", "/a/", "", [], [], 0)], get(p)) for p in ("/a", "/a/", "/a/b")] == [-1, 0, -1]


def test_prefixes_on_two_hundred_levels() -> None:
    """Row i takes /s/s/... of i+1 segments, for one method in turn: what fails on a level is found on the next shorter one."""
    methods = ["GET", "POST", "PUT"]
    rows: list[Row] = [("prefix", "/s" * (i + 1), methods[i % 3] if i >= 90 else "PUT", [], [], i) for i in range(200)]
    for depth in (1, 63, 64, 65, 66, 128, 200, 400):
        for method in methods:
            routes(rows, get("/s" * depth, method))
    assert routes(rows, get("/s" * 300, "GET")) == 198
    assert routes(rows, get("/s" * 198, "DELETE")) == -1
    assert routes([("prefix", "/", "DELETE", [], [], 7), *rows], get("/s" * 198, "DELETE")) == 7


def test_a_path_deeper_than_the_table_costs_nothing() -> None:
    rows: list[Row] = [("prefix", "/a", "", [], [], 0), ("exact", "/" + "/".join("b" * 500), "", [], [], 1)]
    assert routes(rows, get("/a" * 2000)) == 0
    assert routes(rows, get("/" + "/".join("b" * 500))) == 1


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("api.example.com", 0),
        ("API.EXAMPLE.COM:8443", 0),
        ("v1.api.example.com", 1),
        ("www.example.com", 2),
        ("a.b.example.com", 2),
        ("example.com", 3),
        (".example.com", 3),
        ("api.example.com.evil.test", 3),
        ("[::1]:80", 4),
        ("[::2]", 3),
        ("x" * 250 + ".example.com", 3),
        ("x." * 122 + "example.com" + ".evil.test", 3),
    ],
)
def test_hosts(host: str, expected: int) -> None:
    names = ["api.example.com", "*.api.example.com", "*.example.com", "", "[::1]"]
    router = Router([("", 0, {name: [("prefix", "/", "", [], [], i)] for i, name in enumerate(names)})])
    assert router.match_request(get("/", host=host).head()) == (0, expected)


def test_a_request_falls_through_to_less_specific_hostnames_but_not_to_another_listener() -> None:
    inner: Hosts = {
        "a.b.c": [("exact", "/x", "", [], [], 0)],
        "*.b.c": [("exact", "/y", "", [], [], 1)],
        "*.c": [("exact", "/z", "", [], [], 2)],
        "": [("exact", "/w", "", [], [], 3)],
    }
    listeners: list[tuple[str, object, Hosts]] = [("*.b.c", "inner", inner), ("", "outer", {"": [("prefix", "/", "", [], [], 9)]})]
    router = Router(listeners)
    assert router.listener_ids == ["inner", "outer"]
    found = [router.match_request(get(path, host="a.b.c").head()) for path in ("/x", "/y", "/z", "/w", "/v")]
    assert found == [(0, 0), (0, 1), (0, 2), (0, 3), (0, -1)]
    assert router.match_request(get("/x", host="b.c").head()) == (1, 9)


def test_no_listener_has_the_host() -> None:
    assert Router([("a", 0, {"": [("prefix", "/", "", [], [], 0)]})]).match_request(get("/", host="b").head()) == (-1, -1)


def test_conditions_read_what_was_sent() -> None:
    tests: list[Test] = [("q r", "exact", "a b"), ("u", "exact", "\u00e9")]
    rows: list[Row] = [("prefix", "/", "", [], tests, 0)]
    router = Router([("", 0, {"": rows})])
    for query, expected in (("q+r=a%20b&u=%C3%A9", 0), ("u=%c3%a9&q%20r=a+b&q+r=x", 0), ("q+r=x&q+r=a+b&u=%C3%A9", -1), ("u=%C3%A9", -1)):
        assert router.match_request(f"GET /?{query} HTTP/1.1\r\nHost: h\r\n\r\n".encode()) == (0, expected), query


def test_what_cannot_be_routed_is_a_value_error() -> None:
    router = Router([("", 0, {"": [("prefix", "/", "", [], [], 0)]})])
    for head in (b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET /%2f HTTP/1.1\r\nHost: h\r\n\r\n"):
        with pytest.raises(ValueError):
            router.match_request(head)
    assert router.match_request(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n") == (0, 0)


def test_ten_thousand_routes() -> None:
    """A table as large as promised: answers as the naive scan does, built in steps or at once."""
    chance = random.Random(20261122)
    hosts: Hosts = {}
    for i in range(10_000):
        name = chance.choice(["", "*.example.com", f"h{i % 50}.example.com", f"*.h{i % 50}.example.com"])
        kind: Literal["exact", "prefix"] = chance.choice(["exact", "prefix"])
        path = "/" + "/".join(f"s{chance.randrange(12)}" for _ in range(chance.randrange(1, 6)))
        headers: list[Test] = [("x-tenant", "exact", f"t{i % 5}")] if i % 4 == 0 else []
        hosts.setdefault(name, []).append((kind, path, chance.choice(["", "GET", "POST"]), headers, [], i))
    listeners: list[tuple[str, object, Hosts]] = [("", "all", hosts)]
    router = Router(listeners)
    steps = Router.build_steps(listeners)
    count = 0
    try:
        while True:
            next(steps)
            count += 1
    except StopIteration as done:
        stepped: Router = done.value
    assert count > 50
    for _ in range(150):
        path = "/" + "/".join(f"s{chance.randrange(12)}" for _ in range(chance.randrange(8)))
        host = chance.choice(["h1.example.com", "x.h2.example.com", "other.example.com", "elsewhere.test"])
        request = Request(chance.choice(["GET", "POST", "PUT"]), host, path, [], [("X-Tenant", f"t{chance.randrange(6)}")])
        expected = naive(listeners, request)
        assert router.match_request(request.head()) == expected
        assert stepped.match_request(request.head()) == expected
