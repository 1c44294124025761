"""Names of tools, prompts and tasks when several targets stand behind one endpoint.

Rules:
- a public name is the target's id, the separator, the target's own name; it is resolved by the longest known target id
  that a separator follows, so ids may contain the separator as long as no two readings are possible (`problems` says);
- a name never depends on which target answered first: configuration order decides, and a target that is down keeps what
  its last list held (`Owners`), else one target's tool would silently become another's (tool shadowing);
- without prefixes names are the targets' own and `Owners` knows whose they are;
- task ids are opaque to clients and must be routable from the id alone: they carry `target+` as soon as there is a choice.

Source: MCP 2025-11-25, "Tools", tool names (1-128 characters of A-Z a-z 0-9 _ - .); agentgateway's naming rules.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Literal, NamedTuple

Mode = Literal["always", "conditional", "never"]

MAX_NAME = 128
"""Longest name the specification allows, in characters."""
SAFE_NAME = 64
"""Longest name that every model API takes, in characters."""
MAX_TARGET = 253

_TARGET = re.compile(r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)


class Problems(NamedTuple):
    """What is wrong with a set of names: `errors` must stop the load, `warnings` are for the operator's log."""

    errors: list[str]
    warnings: list[str]


class Naming:
    """Public names of a backend's targets, by index in configuration order.

    `prefixed`: tools, prompts and URIs carry their target; `tasks_prefixed`: task ids do.
    Errors: none; call `problems` when the configuration is loaded.
    """

    def __init__(self, targets: Sequence[str], mode: Mode = "conditional", separator: str = "_") -> None:
        self.targets = tuple(targets)
        self.separator = separator
        self.prefixed = mode == "always" or (mode == "conditional" and len(self.targets) > 1)
        self.tasks_prefixed = self.prefixed or len(self.targets) > 1
        self._index = {name: index for index, name in enumerate(self.targets)}
        self._prefixes = tuple(name + separator for name in self.targets)
        self._longest = max((len(name) for name in self.targets), default=0)

    def public(self, target: int, name: str) -> str:
        """The name clients see for `name` of that target."""
        return self._prefixes[target] + name if self.prefixed else name

    def split(self, public: str) -> tuple[int, str] | None:
        """Target and own name of a public name; None when it names no target or (without prefixes) when there is a choice."""
        if not self.prefixed:
            return (0, public) if len(self.targets) == 1 else None
        at = public.rfind(self.separator, 0, self._longest + len(self.separator))
        while at > 0:
            target = self._index.get(public[:at])
            if target is not None:
                return target, public[at + len(self.separator) :]
            at = public.rfind(self.separator, 0, at + len(self.separator) - 1)
        return None

    def task(self, target: int, ident: str) -> str:
        """The task id clients see."""
        return f"{self.targets[target]}+{ident}" if self.tasks_prefixed else ident

    def split_task(self, public: str) -> tuple[int, str] | None:
        """Target and own id of a public task id; None when it was never ours."""
        if not self.tasks_prefixed:
            return (0, public)
        name, plus, ident = public.partition("+")
        target = self._index.get(name)
        return None if target is None or not plus else (target, ident)

    def problems(self) -> Problems:
        """Check target ids and separator."""
        errors: list[str] = []
        warnings: list[str] = []
        if len(self._index) != len(self.targets):
            errors.append("two targets have the same name")
        for name in self._index:
            if not _TARGET.fullmatch(name) or len(name) > MAX_TARGET:
                errors.append(f"target name {name!r}: lower-case letters, digits, '-' and '.' only, a letter or digit at both ends, at most {MAX_TARGET}")
        if not self.prefixed:
            return Problems(errors, warnings)
        if not _NAME.fullmatch(self.separator):
            errors.append(f"separator {self.separator!r}: one or more of A-Z a-z 0-9 _ - . (tool names may hold nothing else)")
            return Problems(errors, warnings)
        for short in self._index:
            errors.extend(
                f"target names {short!r} and {long!r} cannot be told apart with the separator {self.separator!r}"
                for long in self._index
                if long != short and (long + self.separator).startswith(short + self.separator)
            )
            used = len(short) + len(self.separator)
            if used >= MAX_NAME:
                errors.append(f"target name {short!r} leaves no room: tool names end at {MAX_NAME} characters")
            elif used >= SAFE_NAME:
                warnings.append(f"target name {short!r} makes every tool name longer than the {SAFE_NAME} characters model APIs take")
            if not short[:1].isalpha():
                warnings.append(f"target name {short!r} starts with a digit: its resource URIs get a scheme that RFC 3986 does not allow")
        return Problems(errors, warnings)


def name_problems(names: Iterable[str]) -> Problems:
    """Check public names that are known at load (virtual servers), or look at a list: too long, odd characters, repeated."""
    errors: list[str] = []
    warnings: list[str] = []
    seen: set[str] = set()
    for name in names:
        if name in seen:
            errors.append(f"name {name!r} is given twice")
        seen.add(name)
        if not 0 < len(name) <= MAX_NAME:
            errors.append(f"name {name!r}: 1 to {MAX_NAME} characters")
        elif len(name) > SAFE_NAME:
            warnings.append(f"name {name!r} is longer than the {SAFE_NAME} characters model APIs take")
        if name and not _NAME.fullmatch(name):
            warnings.append(f"name {name!r} has characters outside A-Z a-z 0-9 _ - .")
    return Problems(errors, warnings)


class Owners:
    """Whose a plain name is, from the last list of every target.

    A target that is down is simply not assigned again, so what it had stays its own. Holds what it is given: bounded by the
    limits of the lists.
    """

    def __init__(self, targets: int) -> None:
        self._names: list[Collection[str]] = [()] * targets
        self._owner: dict[str, int] | None = None

    def assign(self, target: int, names: Collection[str]) -> None:
        """`names` is all the target has now; replaces what it had."""
        self._names[target] = names
        self._owner = None

    def owner(self, name: str) -> int | None:
        """The first target in configuration order that has the name."""
        if self._owner is None:
            self._owner = {}
            for target, names in enumerate(self._names):
                for each in names:
                    self._owner.setdefault(each, target)
        return self._owner.get(name)

    def duplicates(self) -> int:
        """How many names of later targets are hidden by an earlier target's."""
        return sum(self.owner(name) != target for target, names in enumerate(self._names) for name in names)
