"""Find every structural problem of a document, where `msgspec.convert` stops at the first.

One walker driven by the model's types. It also prunes: what is wrong is left out, so that the rest converts and its
meaning can be checked in the same run. Rules of pruning:
- a wrong optional key is dropped; a wrong required key or list item drops the value around it, and so on upwards;
- `Pruned.original` translates a path of the pruned tree back into the file;
- `Pruned.is_complete` tells whether anything below a path was dropped, so that nobody reports as missing what is
  merely wrong; `Pruned.lost_names` does the same for names that others may refer to.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Final

import msgspec.inspect as mi

from agw.config.document import resolve_scalar
from agw.config.known import KEYS, VALUES
from agw.config.problem import Findings, Path
from agw.config.values import NOT_YET, is_secret_key, quoted


class _Drop:
    """The type of DROP, so that it cannot be mistaken for a value."""


DROP: Final = _Drop()
_DURATION_KEY = re.compile(r"(?:[tT]imeouts?|Deadline|Duration|Interval|Lifetime|Ttl|Grace|maxAge)$")
_POLICY = re.compile(r"(?:Auth|[aA]uthorization)$")
"""Names of policies, which look like those of secrets."""
_MERGE_KEY_TEXT = "merge keys are not part of YAML 1.2; write the keys out, or use an alias for the whole value"


class Pruned:
    """What the walk left of the document, and how its places relate to the file."""

    def __init__(self) -> None:
        self.tree: Any = {}
        self.kept: dict[Path, list[int]] = {}
        self.cuts: set[Path] = set()
        self.touched: set[Path] = set()
        self.lost_names: set[str] = set()
        self.unknown: set[Path] = set()

    def original(self, path: Path) -> Path:
        """The path in the file of a path in the pruned tree."""
        out: Path = ()
        for part in path:
            indexes = self.kept.get(out)
            out = (*out, indexes[part] if indexes is not None and isinstance(part, int) else part)
        return out

    def is_complete(self, path: Path) -> bool:
        """Whether nothing at or below this path of the pruned tree was dropped."""
        return not self.touched or self.original(path) not in self.touched

    def is_inside_unknown(self, path: Path) -> bool:
        """Whether a path of the file lies below a key that is not in the model, where nothing else matters."""
        return any(path[:length] in self.unknown for length in range(1, len(path)))

    def cut(self, path: Path) -> None:
        """Note that the value at `path` of the file was dropped; every value around it is incomplete then."""
        self.cuts.add(path)
        for length in range(len(path) + 1):
            self.touched.add(path[:length])


def walk(tree: Any, model: type[Any], findings: Findings) -> Pruned:
    """Report every structural problem of `tree` against `model` and return what can be converted."""
    pruned = Pruned()
    walker = _Walker(findings, pruned)
    result = walker.visit(tree, mi.type_info(model), ())
    pruned.tree = {} if isinstance(result, _Drop) else result
    return pruned


def bare(kind: mi.Type) -> mi.Type:
    """The type without its metadata."""
    while isinstance(kind, mi.Metadata):
        kind = kind.type
    return kind


def type_at(model: type[Any], path: Path) -> mi.Type | None:
    """The model's type at a path of the document, None where the model has nothing."""
    kinds: list[mi.Type] = [mi.type_info(model)]
    for part in path:
        below: list[mi.Type] = []
        for kind in _members(kinds):
            if isinstance(kind, mi.StructType):
                below += [field.type for field in kind.fields if field.encode_name == part]
            elif isinstance(kind, mi.DictType):
                below.append(kind.value_type)
            elif isinstance(kind, mi.ListType) and isinstance(part, int):
                below.append(kind.item_type)
        kinds = below
    members = _members(kinds)
    return mi.UnionType(tuple(members)) if members else None


def accepts(kind: mi.Type | None, value: Any) -> bool:
    """Whether a scalar of this Python type is one the model may hold there."""
    if kind is None:
        return False
    wanted = {bool: mi.BoolType, int: mi.IntType, float: mi.FloatType, str: mi.StrType}.get(type(value))
    return wanted is not None and any(isinstance(member, wanted) for member in _members([kind]))


def _members(kinds: list[mi.Type]) -> list[mi.Type]:
    out: list[mi.Type] = []
    for kind in kinds:
        plain = bare(kind)
        out += _members(list(plain.types)) if isinstance(plain, mi.UnionType) else [plain]
    return out


class _Walker:
    def __init__(self, findings: Findings, pruned: Pruned) -> None:
        self.findings = findings
        self.pruned = pruned

    def visit(self, value: Any, kind: mi.Type, path: Path, owner: str = "") -> Any:
        """The convertible part of `value`, or DROP after a problem was recorded. `path` is of the file."""
        members = _members([kind])
        if value is None and any(isinstance(member, mi.NoneType) for member in members):
            return None
        for member in members:
            if isinstance(member, mi.AnyType):
                return value
            if isinstance(member, mi.StructType) and isinstance(value, dict):
                return self._struct(value, member, path)
            if isinstance(member, mi.DictType) and isinstance(value, dict):
                return self._dict(value, member, path, owner)
            if isinstance(member, mi.ListType) and isinstance(value, list):
                return self._list(value, member, path)
        return self._scalar(value, members, path, owner)

    def _struct(self, value: dict[str, Any], kind: mi.StructType, path: Path) -> Any:
        name = kind.cls.__name__
        fields = {field.encode_name: field for field in kind.fields}
        out: dict[str, Any] = {}
        excused: set[str] = set()
        for key, item in value.items():
            below = (*path, key)
            field = fields.get(key)
            if field is None:
                excused |= self._unknown_key(key, name, fields, below)
                continue
            result = self.visit(item, field.type, below, f"{name}.{key}")
            if isinstance(result, _Drop):
                self._cut(below, item)
                if field.required or f"{name}.{key}" in VALUES:
                    excused.add("*")
            else:
                out[key] = result
        missing = [key for key, field in fields.items() if field.required and key not in out]
        for key in missing:
            if key not in value and key not in excused and "*" not in excused:
                self.findings.problem(path, f"the key `{key}` is missing; add it")
        if missing:
            self._cut(path, value)
            return DROP
        return out

    def _unknown_key(self, key: str, name: str, fields: dict[str, mi.Field], path: Path) -> set[str]:
        """Report a key the struct does not have; returns the missing keys it explains (`*` is all of them)."""
        self.pruned.cut(path)
        self.pruned.unknown.add(path)
        if key in KEYS.get(name, ()):
            self.findings.problem(path, f"`{key}` {NOT_YET}; remove it", at_key=True)
            return {"*"}
        if key == "<<":
            self.findings.problem(path, _MERGE_KEY_TEXT, at_key=True)
            return {"*"}
        known = [*fields, *KEYS.get(name, ())]
        lower = {word.lower(): word for word in known}
        near = difflib.get_close_matches(key.lower(), lower, n=1, cutoff=0.6)
        policies = fields.get("policies")
        if near:
            guess = lower[near[0]]
            self.findings.problem(path, f"unknown key `{key}`; did you mean `{guess}`?", at_key=True)
            return {guess}
        if policies is not None and key in _keys_of(policies.type):
            self.findings.problem(path, f"unknown key `{key}` here; move it under `policies`", at_key=True)
        else:
            allowed = ", ".join(sorted(fields))
            self.findings.problem(path, f"unknown key `{key}`; the keys here are {allowed}", at_key=True)
        return set()

    def _dict(self, value: dict[str, Any], kind: mi.DictType, path: Path, owner: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, item in value.items():
            result = self.visit(item, kind.value_type, (*path, key), owner)
            if isinstance(result, _Drop):
                self._cut((*path, key), item)
                self.pruned.lost_names.add(key)
            else:
                out[key] = result
        return out

    def _list(self, value: list[Any], kind: mi.ListType, path: Path) -> list[Any]:
        out: list[Any] = []
        kept: list[int] = []
        for index, item in enumerate(value):
            result = self.visit(item, kind.item_type, (*path, index))
            if isinstance(result, _Drop):
                self._cut((*path, index), item)
            else:
                out.append(result)
                kept.append(index)
        if len(kept) != len(value):
            # Keyed by the file's path: `original` translates from the root downwards, so it looks up file paths.
            self.pruned.kept[path] = kept
        return out

    def _scalar(self, value: Any, members: list[mi.Type], path: Path, owner: str) -> Any:
        if any(_fits(value, member) for member in members):
            return value
        if isinstance(value, str) and value in VALUES.get(owner, ()):
            self.findings.problem(path, f"the value `{value}` {NOT_YET}; {_wanted(members)} is")
            return DROP
        hidden = _may_be_secret(path) and not any(isinstance(member, mi.LiteralType) for member in members)
        self.findings.problem(path, _mismatch(value, members, owner, hidden))
        return DROP

    def _cut(self, path: Path, value: Any) -> None:
        self.pruned.cut(path)
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            self.pruned.lost_names.add(value["name"])


def _keys_of(kind: mi.Type) -> set[str]:
    out: set[str] = set()
    for member in _members([kind]):
        if isinstance(member, mi.StructType):
            out |= {field.encode_name for field in member.fields} | KEYS.get(member.cls.__name__, frozenset())
    return out


def _fits(value: Any, kind: mi.Type) -> bool:
    if isinstance(kind, mi.LiteralType):
        return any(type(value) is type(choice) and value == choice for choice in kind.values)
    if isinstance(kind, mi.StrType):
        return isinstance(value, str)
    if isinstance(kind, mi.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, mi.IntType) and type(value) is int:
        return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)
    return False


def _wanted(members: list[mi.Type]) -> str:
    out: list[str] = []
    for kind in members:
        if isinstance(kind, mi.StructType | mi.DictType):
            out.append("a mapping")
        elif isinstance(kind, mi.ListType):
            out.append("a list")
        elif isinstance(kind, mi.LiteralType):
            out += [f"`{choice}`" for choice in kind.values]
        elif isinstance(kind, mi.StrType):
            out.append("text")
        elif isinstance(kind, mi.BoolType):
            out.append("true or false")
        elif isinstance(kind, mi.IntType):
            limits = f" from {kind.ge} to {kind.le}" if kind.ge is not None and kind.le is not None else ""
            out.append(f"a whole number{limits}")
    return " or ".join(out)


def _may_be_secret(path: Path) -> bool:
    """Whether what stands there may be one, at a wrong place or in a wrong form: no message quotes it then."""
    own = next((part for part in reversed(path) if isinstance(part, str)), "")
    return is_secret_key(own) or any(isinstance(part, str) and is_secret_key(part) and not _POLICY.search(part) for part in path)


def _mismatch(value: Any, members: list[mi.Type], owner: str, hidden: bool = False) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and _DURATION_KEY.search(owner):
        return f"expected a duration such as 10s, got {_described(value)}; add a unit"
    text = f"expected {_wanted(members)}, got {_described(value, hidden)}"
    kinds = {type(member) for member in members}
    if isinstance(value, int | float) and mi.StrType in kinds:
        return f"{text}; put it in quotes"
    if isinstance(value, str):
        for member in members:
            if isinstance(member, mi.LiteralType):
                near = difflib.get_close_matches(value, [str(choice) for choice in member.values], n=1, cutoff=0.5)
                return f"{text}; did you mean `{near[0]}`?" if near else text
        if any(_fits(resolve_scalar(value), member) for member in members):
            return f"{text}; remove the quotes"
        if kinds & {mi.ListType}:
            return f"{text}; write it as a list, like [a, b]"
    if isinstance(value, dict) and mi.ListType in kinds:
        return f"{text}; begin each item with `- `"
    if value is None:
        return f"{text}; give a value or remove the key"
    return text


def _described(value: Any, hidden: bool = False) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if hidden and isinstance(value, int | float | str):
        return "a text" if isinstance(value, str) else "a number"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    return "a list" if isinstance(value, list) else "a mapping"
