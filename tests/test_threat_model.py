"""docs/threat-model.md is kept true: what it names as a test is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_it_names_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`(tests/[^`]*)`", text))
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_defence_names_a_test() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    rows = [line for line in text.partition("| against |")[2].partition("\n## ")[0].splitlines()[2:] if line.startswith("|")]
    assert len(rows) > 15
    assert [row for row in rows if "`tests/" not in row] == []
