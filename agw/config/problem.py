"""What can be wrong with a configuration, and where.

Rules kept here:
- a path is a tuple of keys and list indexes; it becomes text only when somebody reads it;
- a problem stops the load, a warning does not; both look the same: `file:line:column: path: text`;
- `text` says what is wrong and how to mend it, and never contains a value that came from `${cred:}` or `${file:}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import msgspec

Path = tuple[str | int, ...]
T = TypeVar("T")

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_$-]+")


def path_text(path: Path) -> str:
    """`("routes", 3, "backends", 0)` as `routes[3].backends[0]`; odd keys are quoted, the root is `(top level)`."""
    out: list[str] = []
    for part in path:
        if isinstance(part, int):
            out.append(f"[{part}]")
        elif _PLAIN_KEY.fullmatch(part):
            out.append(f".{part}" if out else part)
        else:
            quoted = part.replace("\\", "\\\\").replace('"', '\\"')
            out.append(f'["{quoted}"]')
    return "".join(out) or "(top level)"


def one_line(text: str) -> str:
    """The text with everything that is not printable escaped: what the file holds must not forge lines of a log."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


class Problem(msgspec.Struct, frozen=True):
    """One finding with its place; line and column count from 1, and are 0 for what is not in a file."""

    file: str
    line: int
    column: int
    path: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.path}: {self.text}"


class ConfigErrors(Exception):
    """The configuration is refused; `problems` lists every reason, in the order of the file."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class Finding(msgspec.Struct, frozen=True):
    """A problem or warning before its place is known.

    `at_key` points at the key instead of its value; `place` is set when the finding knows where it is.
    """

    path: Path
    text: str
    at_key: bool = False
    place: tuple[int, int] | None = None


class Findings:
    """Collects problems and warnings; a check never raises and never stops at the first one."""

    def __init__(self) -> None:
        self.problems: list[Finding] = []
        self.warnings: list[Finding] = []

    def problem(self, path: Path, text: str, at_key: bool = False) -> None:
        """Record a reason to refuse the file."""
        self.problems.append(Finding(path, text, at_key))

    def warning(self, path: Path, text: str) -> None:
        """Record something that is legal and probably not meant."""
        self.warnings.append(Finding(path, text))

    def value(self, path: Path, parse: Callable[[str], T], text: str, fallback: T) -> T:
        """`parse(text)`; when it raises ValueError that becomes a problem, and `fallback` stands in."""
        try:
            return parse(text)
        except ValueError as error:
            self.problem(path, str(error))
            return fallback
