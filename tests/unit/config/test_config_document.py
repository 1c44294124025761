"""Reading YAML: the core schema, limits, duplicate keys, places."""

from __future__ import annotations

import math
from typing import Any

import pytest

from agw.config import document
from agw.config.document import DocumentError, read


def value_of(text: str) -> Any:
    source = read(f"a: {text}\n".encode(), "x")
    assert source.findings == []
    return source.tree["a"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("22:22", "22:22"),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-1", -1),
        ("+1.", 1.0),
        ("2024-01-01", "2024-01-01"),
        ("true", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("-.inf", -math.inf),
        ("1.2.3.4:80", "1.2.3.4:80"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    result = value_of(text)
    assert result == value
    assert type(result) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(value_of(".nan"))


def test_keys_are_text() -> None:
    assert read(b"200: a\ntrue: b\nnull: c\n", "x").tree == {"200": "a", "true": "b", "null": "c"}


def test_aliases_are_expanded_to_copies() -> None:
    tree = read(b"a: &a {x: [1]}\nb: *a\n", "x").tree
    assert tree == {"a": {"x": [1]}, "b": {"x": [1]}}
    assert tree["a"] is not tree["b"]


def test_empty_documents_are_empty() -> None:
    assert read(b"", "x").tree == {}
    assert read(b"# only a comment\n", "x").tree == {}


def test_a_byte_order_mark_is_skipped() -> None:
    assert read(b"\xef\xbb\xbfa: 1\n", "x").tree == {"a": 1}


def refused(data: bytes) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read(data, "x")
    return caught.value


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? "])
def test_deep_nesting_is_refused_before_the_stack_is_used_up(opening: bytes) -> None:
    assert "nested deeper" in str(refused(opening * 100_000))


def test_the_depth_limit_is_exact() -> None:
    depth = document.MAX_DEPTH
    assert read(b"[" * depth + b"]" * depth, "x").findings == []
    assert "nested deeper" in str(refused(b"[" * (depth + 1) + b"]" * (depth + 1)))


def test_large_files_are_refused() -> None:
    assert "larger than 16 MiB" in str(refused(b"#" * (document.MAX_BYTES + 1)))


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    assert "expand to more than" in str(refused("\n".join(lines).encode()))


def test_many_aliases_are_refused() -> None:
    text = "a: &a 1\nb: [" + ", ".join(["*a"] * (document.MAX_ALIASES + 1)) + "]\n"
    assert "more than 1000 aliases" in str(refused(text.encode()))


def test_aliases_that_deepen_are_refused() -> None:
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [[[[*a{i - 1}]]]]" for i in range(1, 20)]
    assert "nested deeper" in str(refused("\n".join(lines).encode()))


def test_a_stray_octet_is_placed() -> None:
    error = refused(b"a: 1\nb: \xff\n")
    assert "UTF-8" in str(error)
    assert error.finding.place == (2, 4)


def test_an_unknown_alias_is_a_problem() -> None:
    assert "undefined alias" in str(refused(b"a: *b\n"))


def test_locate_finds_values_keys_and_the_nearest_ancestor() -> None:
    source = read(b"a:\n  b:\n  - x\n  - c: 1\n", "x")
    assert source.locate(("a", "b", 1, "c")) == (4, 8)
    assert source.locate(("a", "b", 1, "c"), at_key=True) == (4, 5)
    assert source.locate(("a", "b", 0)) == (3, 5)
    assert source.locate(("a", "b", 7)) == (3, 3)
    assert source.locate(("a", "missing", "x"), at_key=True) == (2, 3)
    assert source.locate(()) == (1, 1)
    assert read(b"", "x").locate(("a",)) == (1, 1)
