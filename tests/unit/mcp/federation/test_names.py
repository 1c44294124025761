"""Naming modes, checks at load, and who owns a plain name."""

from __future__ import annotations

import pytest

from agw.mcp.federation.names import Naming, Owners, name_problems


@pytest.mark.parametrize(
    ("targets", "mode", "prefixed"),
    [(["a"], "conditional", False), (["a", "b"], "conditional", True), (["a"], "always", True), (["a", "b"], "never", False)],
)
def test_modes(targets: list[str], mode: str, prefixed: bool) -> None:
    naming = Naming(targets, mode)  # type: ignore[arg-type]
    assert naming.prefixed is prefixed
    assert naming.public(0, "echo") == ("a_echo" if prefixed else "echo")


def test_split_without_prefixes() -> None:
    assert Naming(["a"]).split("a_b") == (0, "a_b")
    assert Naming(["a", "b"], "never").split("a_b") is None


def test_split_takes_the_longest_target() -> None:
    naming = Naming(["a", "a.b", "c"], "always", ".")
    assert naming.split("a.b.x") == (1, "x")
    assert naming.split("a.c") == (0, "c")
    assert naming.split("c.") == (2, "")
    assert naming.split("d.x") is None
    assert naming.split("") is None
    assert naming.split("_x") is None


def test_own_names_may_hold_the_separator() -> None:
    assert Naming(["a", "b"]).split("b_a_x_") == (1, "a_x_")


def test_tasks_are_routable_whenever_there_is_a_choice() -> None:
    assert Naming(["a"]).task(0, "t") == "t"
    assert Naming(["a", "b"], "never").task(1, "t+u") == "b+t+u"
    assert Naming(["a", "b"]).split_task("x+t") is None
    assert Naming(["a", "b"]).split_task("a") is None


@pytest.mark.parametrize("name", ["", "A", "a_b", "a+b", "-a", "a.", "ä", "a" * 254])
def test_target_names_refused(name: str) -> None:
    assert Naming([name, "ok"], "never").problems().errors


def test_ambiguous_targets_are_refused_only_where_it_matters() -> None:
    assert "cannot be told apart" in Naming(["a", "a.b"], "always", ".").problems().errors[0]
    assert not Naming(["a", "a.b"], "always", "_").problems().errors
    assert not Naming(["a", "a.b"], "never", ".").problems().errors
    assert Naming(["a", "a"]).problems().errors == ["two targets have the same name"]


@pytest.mark.parametrize("separator", ["", "+", "/", " "])
def test_separators_refused(separator: str) -> None:
    assert "separator" in Naming(["a", "b"], "always", separator).problems().errors[0]


def test_room_for_names() -> None:
    assert not Naming(["a" * 62, "b"]).problems().warnings
    assert "longer than the 64" in Naming(["a" * 63, "b"]).problems().warnings[0]
    assert "no room" in Naming(["a" * 127, "b"]).problems().errors[0]
    assert "RFC 3986" in Naming(["1a", "b"]).problems().warnings[0]


def test_public_names_known_at_load() -> None:
    assert name_problems(["ok", "x" * 64]) == ([], [])
    found = name_problems(["twice", "twice", "", "x" * 65, "x" * 129, "a b"])
    assert len(found.errors) == 3
    assert len(found.warnings) == 2


def test_a_target_that_is_down_keeps_its_names() -> None:
    owners = Owners(2)
    owners.assign(0, ["x"])
    owners.assign(1, ["x", "y"])
    assert owners.owner("x") == 0
    owners.assign(1, ["x"])
    assert owners.owner("x") == 0
    assert owners.owner("y") is None
    owners.assign(0, [])
    assert owners.owner("x") == 1
