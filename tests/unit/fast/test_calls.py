"""What the compiled path knows of names, and how it searches answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agw._fast.calls import CallTable, contains

NEEDLES = [(b"\\u", 0), (b"taskId", 4), (b"uri", 0), (b"esource", 3), (b"requestState", 7)]


def test_licences_end_when_a_name_leads_elsewhere_and_only_then() -> None:
    """Callers who learn the same name one after another must not end each other's licences."""
    table = CallTable(2, False, False, True)
    table.learn_tool(b"a_echo", 0, b"echo", False)
    stamp = table.stamp
    table.learn_tool(b"a_echo", 0, b"echo", False)
    table.learn_tool(b"a_echo", 0, b"echo", True)
    table.learn_tool(b"a_echo", 0, b"echo", False)
    table.learn_tool(b"b_echo", 1, b"echo", False)
    assert table.stamp == stamp
    assert table.tools[b"a_echo"] == (0, b"echo", True)
    table.learn_tool(b"a_echo", 1, b"echo", False)
    assert table.stamp > stamp
    assert table.tools[b"a_echo"] == (1, b"echo", False)
    moved = table.stamp
    table.learn_tool(b"a_echo", 1, b"echo2", False)
    assert table.stamp > moved
    moved = table.stamp
    table.forget_tools()
    assert table.stamp > moved


@pytest.mark.parametrize(("needle", "rare"), NEEDLES)
@given(text=st.lists(st.sampled_from([b"\\", b"u", b"S", b"I", b"r", b"ur", b"uri", b"taskI", b"taskId", b"esourc", b"requestState", b"x" * 40]), max_size=60))
def test_search_finds_what_is_there(needle: bytes, rare: int, text: list[bytes]) -> None:
    whole = b"".join(text)
    assert contains(whole, needle, rare) == (needle in whole)


@pytest.mark.parametrize(("needle", "rare"), NEEDLES)
def test_search_at_the_ends_and_among_many_of_the_letter(needle: bytes, rare: int) -> None:
    letter = needle[rare : rare + 1]
    for before in range(40):
        assert contains(letter * before + needle, needle, rare)
        assert contains(needle + letter * before, needle, rare)
        assert not contains(letter * before + needle[:-1], needle, rare)
        assert not contains((needle[1:] + b" ") * before, needle, rare)
    assert not contains(b"", needle, rare)
