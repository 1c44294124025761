"""The small languages inside values: what is accepted, and as what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw.config import values
from agw.config.values import Endpoint

S = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("10s", 10 * S),
        ("1m30s", 90 * S),
        ("3m0s", 180 * S),
        ("500ms", S // 2),
        ("100us", 100_000),
        ("7ns", 7),
        ("1h", 3600 * S),
        ("1.5h", 5400 * S),
        ("0.25s", S // 4),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_durations(text: str, ns: int) -> None:
    assert values.duration_ns(text) == ns


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1d", "1s ", ".5s", "999999999h", "1e3s", "\u0661s"])
def test_durations_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        values.duration_ns(text)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("app:80", Endpoint("app", 80, "", "app")),
        ("App.Example:8080", Endpoint("app.example", 8080, "", "app.example:8080")),
        ("1.2.3.4:81", Endpoint("1.2.3.4", 81, "", "1.2.3.4:81")),
        ("[::1]:80", Endpoint("::1", 80, "", "[::1]")),
        ("[::1]:8080", Endpoint("::1", 8080, "", "[::1]:8080")),
        ("http://app", Endpoint("app", 80, "", "app")),
        ("HTTP://app:8080/", Endpoint("app", 8080, "", "app:8080")),
        ("http://[::1]", Endpoint("::1", 80, "", "[::1]")),
        ("my_service:80", Endpoint("my_service", 80, "", "my_service")),
        ("unix:/run/a.sock", Endpoint("", 0, "/run/a.sock", "localhost")),
        ("unix:///run/a.sock", Endpoint("", 0, "/run/a.sock", "localhost")),
        ("unix:@name", Endpoint("", 0, "@name", "localhost")),
    ],
)
def test_hosts(text: str, endpoint: Endpoint) -> None:
    assert values.host_endpoint(text) == endpoint
    assert values.mcp_endpoint(text) == endpoint


def test_an_mcp_url_may_have_a_path() -> None:
    assert values.mcp_endpoint("http://a:9000/x/mcp").path == "/x/mcp"
    with pytest.raises(ValueError, match="has a path"):
        values.host_endpoint("http://a:9000/x/mcp")


@pytest.mark.parametrize(
    "text",
    ["", "a", ":80", "a:", "a:x", "a:080000", "a:80:80", "a/b:80", "a b:80", "http://", "http://a:b", "[::1", "-a:80",
     "a\n:80", "http://a\r\n/", "http://a/ b", "1.2.3.4.5:80", "unix:@",
     "unix:/" + "x" * 200, "http://a#b", "a:\u0663"],
)  # fmt: skip
def test_hosts_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        values.host_endpoint(text)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (values.service_address, "localhost:15000", "127.0.0.1:15000"),
        (values.service_address, "[::]:15000", "[::]:15000"),
        (values.service_address, "off", "off"),
        (values.service_address, "unix:/run/a", "unix:/run/a"),
        (values.bind_address, "", ""),
        (values.bind_address, "[::1]", "::1"),
        (values.bind_address, "localhost", "127.0.0.1"),
        (values.hostname_pattern, "*", ""),
        (values.hostname_pattern, "*.EXAMPLE.com", "*.example.com"),
        (values.header_name, "X-A", "x-a"),
        (values.header_value, " a\tb ", "a\tb"),
        (values.header_value, "", ""),
        (values.origin, "https://A.example:8443", "https://a.example:8443"),
        (values.origin, "https://*.example.com", "https://*.example.com"),
        (values.origin, "*", "*"),
        (values.authority, "A:8080", "a:8080"),
        (values.authority, "[::1]", "[::1]"),
        (values.authority_host, "[::1]", "[::1]"),
        (values.url_path, "/a%20b", "/a%20b"),
        (values.match_path, "/a%20b/", "/a%20b/"),
        (values.match_path, "/%7ea//b/./c/../%c3%a9", "/~a/b/%C3%A9"),
        (values.cel_constant, "'a b'", "a b"),
        (values.cel_constant, '"a"', "a"),
    ],
)
def test_accepted(parse: Callable[[str], str], text: str, value: str) -> None:
    assert parse(text) == value


@given(st.text(max_size=40))
def test_nothing_that_ends_a_line_gets_through(text: str) -> None:
    """Whatever the operator writes, no parser lets a CR, LF or NUL reach the wire."""
    parsers = (values.header_name, values.header_value, values.url_path, values.match_path, values.method, values.authority, values.origin,
               values.host_name, values.cel_constant, values.hostname_pattern)  # fmt: skip
    for parse in parsers:
        try:
            result = parse(text)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert not set("\r\n\0") & set(result)
