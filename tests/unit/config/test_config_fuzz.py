"""Whatever the file holds, it is loaded or refused with placed problems; nothing else is ever raised."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.config import ConfigErrors, load_bytes
from agw.config.document import read
from agw.config.model import Config
from agw.config.problem import Findings
from agw.config.walk import walk

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "config" / "examples").glob("*.yaml")) + sorted((ROOT / "tests/vectors/config").glob("*.yaml"))
ODD: list[Any] = [None, True, 0, -1, 3.5, "", "x", "a:1", "$", "${x", "/", "*", "\r\n", [], {}, [None], {"": ""},
                  ["x"], {"name": "x"}, {"exact": 1}, 10**30, "\ud7ff"]  # fmt: skip


def outcome(data: bytes) -> ConfigErrors | None:
    try:
        load_bytes(data, "f", {})
    except ConfigErrors as error:
        assert error.problems
        for problem in error.problems:
            assert problem.text
            assert problem.path
            assert str(problem).isprintable()
        return error
    return None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    outcome(data)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!?#|>'\"%@`\n ,~$0.", max_size=60))
def test_any_yaml(text: str) -> None:
    outcome(text.encode())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


def mutated(tree: Any, dice: random.Random) -> Any:
    tree = copy.deepcopy(tree)
    for _ in range(dice.randint(1, 4)):
        path = dice.choice(places(tree))
        if not path:
            continue
        holder = tree
        for part in path[:-1]:
            holder = holder[part]
        action = dice.randrange(3)
        if action == 0 and isinstance(holder, dict):
            holder[dice.choice(["name", "port", "host", "cors", "x", "mcp", "gateways"])] = holder.pop(path[-1])
        elif action == 1:
            del holder[path[-1]]
        else:
            holder[path[-1]] = dice.choice(ODD)
    return tree


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_mutated_files(file: Path) -> None:
    """Also: the walker refuses exactly what msgspec refuses, and what it leaves over converts."""
    try:
        tree = read(file.read_bytes(), file.name).tree
    except Exception:
        pytest.skip("no document to mutate")
    dice = random.Random(file.name)
    for _ in range(60):
        changed = mutated(tree, dice)
        outcome(yaml.dump(changed, allow_unicode=True).encode("utf-8", "replace"))
        findings = Findings()
        pruned = walk(changed, Config, findings)
        msgspec.convert(pruned.tree, Config)
        try:
            msgspec.convert(changed, Config)
        except msgspec.ValidationError:
            assert findings.problems, changed
        else:
            assert findings.problems == [], changed
