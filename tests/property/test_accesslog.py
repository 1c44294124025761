"""Whatever a client sends, a record is one line of valid JSON, and says what was sent as far as JSON can."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agw._fast.accesslog import AccessLog, formatted

PROFILE = settings(max_examples=300, deadline=None, derandomize=True, database=None)

AWKWARD = [b"\xe2\x82\xac", b"\xe2\x82", b"\xed\xa0\x80", b"\xf0\x9f\x92\xa9", b"\xf0\x9f", b"\xc0\xaf", b"\xff", b"\x7f", b"\0", b"\n", b"\r\n", b'"', b"\\"]
TEXT = st.text(max_size=20).map(lambda s: s.encode("utf-8", "surrogatepass"))
OCTETS = st.binary(max_size=40) | TEXT | st.lists(st.sampled_from(AWKWARD)).map(b"".join)
TEXTS = ("peer", "endpoint", "method", "host", "path", "target", "rpc", "name")
RECORDS = st.fixed_dictionaries(
    dict.fromkeys(TEXTS, OCTETS),
    optional={
        "wall_ns": st.integers(0, 4_000_000_000_000_000_000),
        "duration_ns": st.integers(0, 2**62),
        "version": st.sampled_from([10, 11]),
        "status": st.integers(100, 999),
        "name_kind": st.sampled_from([1, 2, 3]),
        "retries": st.integers(0, 3),
        "fields": st.sampled_from([b"", b',"gateway":"g","route":"r"']),
    },
)


def as_logged(octets: bytes) -> str:
    """Well-formed UTF-8 as it is; each other octet as U+FFFD."""
    return re.sub("[\udc80-\udcff]", "\ufffd", octets.decode("utf-8", "surrogateescape"))


def no_constants(text: str) -> Any:
    raise AssertionError(text)


@PROFILE
@given(RECORDS)
@example(dict.fromkeys(TEXTS, b""))
@example(dict.fromkeys(TEXTS, b"\x01" * 300))
@example(dict.fromkeys(TEXTS, b"\xf4\x90\x80\x80\xed\xbf\xbf\xe0\x9f\xbf"))
def test_a_record_is_one_line_of_json_that_says_what_was_sent(record: dict[str, Any]) -> None:
    line = formatted(**record)
    assert line.endswith(b"}\n")
    assert re.search(rb"[\x00-\x1f\x7f]", line[:-1]) is None
    text = line.decode("utf-8")
    pairs = json.loads(text, object_pairs_hook=list, parse_constant=no_constants)
    found = dict(pairs)
    assert len(found) == len(pairs)
    expected: dict[str, Any] = {"scope": "request", "src.addr": as_logged(record["peer"])}
    expected |= {f"http.{part}": as_logged(record[part]) for part in ("method", "host", "path")}
    expected["http.version"] = "HTTP/1.0" if record.get("version") == 10 else "HTTP/1.1"
    expected["http.status"] = record.get("status", 200)
    if record.get("fields"):
        expected |= {"gateway": "g", "route": "r"}
    named = ("gen_ai.tool.name", "gen_ai.prompt.name", "mcp.resource.uri")[record.get("name_kind", 1) - 1]
    for field, part in (("endpoint", "endpoint"), ("mcp.method.name", "rpc"), ("mcp.target", "target"), (named, "name")):
        if record[part]:
            expected[field] = as_logged(record[part])
    if record.get("retries"):
        expected["retry.attempt"] = record["retries"]
    assert found.pop("time") == moment(record.get("wall_ns", 0))
    assert found.pop("duration") == f"{record.get('duration_ns', 0) // 1_000_000}.{record.get('duration_ns', 0) // 1000 % 1000:03d}ms"
    assert found == expected


def moment(wall_ns: int) -> str:
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=wall_ns // 1_000_000)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_the_order_of_fields() -> None:
    line = formatted(fields=b',"gateway":"g"', peer=b"p", endpoint=b"e", method=b"GET", host=b"h", path=b"/", target=b"t", rpc=b"m", name=b"n", retries=1)
    assert list(json.loads(line)) == [
        "time", "scope", "gateway", "endpoint", "src.addr", "http.method", "http.host", "http.path", "http.version", "http.status",
        "mcp.method.name", "mcp.target", "gen_ai.tool.name", "retry.attempt", "duration",
    ]  # fmt: skip


def test_long_values_have_room() -> None:
    long = b"\x00\"\\" * 20_000
    found = json.loads(formatted(path=long, host=long, name=long))
    assert found["http.path"] == found["http.host"] == found["gen_ai.tool.name"] == long.decode()


@pytest.mark.parametrize(("sink", "enabled"), [(print, True), (None, False)])
def test_a_log_without_a_sink_is_off(sink: Any, enabled: bool) -> None:
    log = AccessLog(sink)
    assert log.enabled == enabled
    log.flush()
