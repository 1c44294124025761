"""Values of fields of the access log: what they look like, how long they are, what is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw._fast.accesslog import formatted
from agw._fast.gate import Identity
from agw.runtime.plan import AccessLogPlan
from agw.security.log_details import MAX_ADDED, MAX_VALUE, LogDetails


def fields(claims: dict[str, Any], remove: list[str] | None = None, **add: str) -> dict[str, Any]:
    """What a request of this identity has in its line."""
    details = LogDetails(AccessLogPlan(add={name.replace("_", "."): text for name, text in add.items()}, remove=remove or []))
    assert not details.looks
    added = details(Identity(b"k" * 16, {"jwt": claims}), None)  # type: ignore[arg-type]
    assert added is not None
    line = formatted(method=b"GET", path=b"/", host=b"h", added=added, shape=details.shape)
    assert line.isascii() and line.count(b"\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("jwt.sub", "kim\x7f\n"), ("jwt.n + 1.0", 4.5), ("jwt.list", [1, {"a": None}]), ("jwt.none", "ABSENT"), ("jwt.missing", "ABSENT"),
        ("[1, 2].size()", 2), ('b"ab"', "6162"), ('duration("90s")', "90.000000s"), ('timestamp("2026-01-02T03:04:05Z")', "2026-01-02T03:04:05Z"),
        ("0.0 / 0.0", "ABSENT"), ('"x" == "x"', True),
    ],
)  # fmt: skip
def test_values(expression: str, value: Any) -> None:
    found = fields({"sub": "kim\x7f\n", "n": 3.5, "list": [1, {"a": None}], "none": None}, f=expression)
    assert found.get("f", "ABSENT") == value


def test_long_values_are_cut_or_left_out() -> None:
    found = fields({"text": "é" * 5000, "list": ["x"] * 5000}, text="jwt.text", list="jwt.list")
    assert found["text"] == "é" * MAX_VALUE and "list" not in found
    many = {f"f{number}": "jwt.text" for number in range(40)}
    details = LogDetails(AccessLogPlan(add=many))
    added = details(Identity(b"", {"jwt": {"text": "x" * 5000}}), None)  # type: ignore[arg-type]
    assert added is not None and MAX_ADDED - 2 * MAX_VALUE < len(added) <= MAX_ADDED
    assert list(json.loads(b"{" + added[1:] + b"}")) == list(many)[: len(json.loads(b"{" + added[1:] + b"}"))]


def test_a_field_replaces_one_of_the_same_name() -> None:
    found = fields({"sub": "kim"}, ["http.version", "duration", "time", "nothing"], http_path="jwt.sub", reason='"mine"')
    assert (found["http.path"], found["reason"]) == ("kim", "mine")
    assert "time" in found and not {"http.version", "duration"} & found.keys()


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40), st.binary(max_size=60), st.binary(max_size=40))
def test_a_shaped_line_is_one_line_of_json(text: str, path: bytes, host: bytes) -> None:
    details = LogDetails(AccessLogPlan(add={"claim": "jwt.sub"}, remove=["http.host"]))
    added = details(Identity(b"", {"jwt": {"sub": text}}), None)  # type: ignore[arg-type]
    assert added is not None
    line = formatted(method=b"GET", path=path, host=host, added=added, shape=details.shape)
    whole = json.loads(formatted(method=b"GET", path=path, host=host))
    found = json.loads(line)
    assert line.count(b"\n") == 1 and "http.host" not in found and found["http.path"] == whole["http.path"]
    try:
        text.encode()
    except UnicodeEncodeError:
        assert "claim" not in found
        return
    if "\0" in text:
        assert "claim" not in found, "the library would take the beginning for the whole"
    else:
        assert found["claim"] == text


def test_who_is_nobody_has_the_constant_fields_only() -> None:
    details = LogDetails(AccessLogPlan(add={"a": "jwt.sub", "b": '"x"', "c": "has(jwt.sub)"}))
    assert details(None, None) == b',"b":"x","c":false'  # type: ignore[arg-type]
