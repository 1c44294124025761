"""Patterns of routes: RE2's syntax, time that grows with the text and no faster, and words for what is refused."""

from __future__ import annotations

import time

import pytest

from agw._fast.patterns import MAX_MEMORY, compiled
from agw.config.values import regex

CATASTROPHES = ["(a+)+$", "(a|a)*b", "(a|aa)+b", "(a*)*b", "(.*a){20}b", "(?:a?){30}a{30}b", "([a-z]+)*[0-9]", r"^(\w+\s?)*$"]


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_no_pattern_is_slow(pattern: str) -> None:
    """Each of these takes a matcher that goes back more steps than there are atoms; here it is a pass over the text."""
    matcher = compiled(pattern)
    begun = time.process_time()
    assert matcher.fullmatch(b"a" * 16_384 + b"!") is None
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("(?=x)a", "perl operator"), (r"(a)\1", "escape"), ("a++", "repetition"), ("(", "missing"), ("(a{1000}){1000}", "repetition"), ("[b-a]", "range"),
     ("(?<!x)a", "perl operator"), ("|".join("abcdefgh"[n % 8] * 200 for n in range(800)), "large")],
)  # fmt: skip
def test_what_cannot_be_matched_in_linear_time_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compiled(pattern)
    with pytest.raises(ValueError, match="is no regular expression: "):
        regex(pattern)


@pytest.mark.parametrize(
    ("pattern", "octets", "matches"),
    [("/v[0-9]+/x", b"/v12/x", True), ("/v[0-9]+/x", b"/v12/x\n", False), ("a", b"ab", False), ("a|ab", b"ab", True), ("(?i)abc", b"ABC", True),
     (".", b"\xff", True), (".", b"\n", False), ("\u00e9", "\u00e9".encode(), True), (r"\d", b"5", True), ("", b"", True), ("(?P<n>a)b", b"ab", True)],
)  # fmt: skip
def test_the_whole_of_the_octets_is_matched(pattern: str, octets: bytes, matches: bool) -> None:
    assert (compiled(pattern).fullmatch(octets) is not None) is matches


def test_a_pattern_is_compiled_once_and_has_a_bound() -> None:
    assert compiled("/once") is compiled("/once")
    assert MAX_MEMORY <= 1 << 20
