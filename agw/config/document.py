"""YAML bytes to plain Python values, with every value's place still to be found.

Rules kept here:
- YAML 1.2 core schema only: `no`, `22:22`, `012`, `1_000` and dates mean what they look like, and nothing runs;
- limits before work: file size, nesting (the C composer recurses, so it is stopped there), aliases and what they
  expand to; a document that breaks one is refused, not truncated;
- places are computed when somebody asks (`Source.locate`), because a good file never asks;
- keys are always text; a duplicate key is a problem, and so is a merge key (`<<` is not part of YAML 1.2).
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml
from yaml._yaml import CParser

from agw.config.problem import Finding, Path

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 64
MAX_ALIASES = 1000
MAX_ALIAS_NODES = 100_000

# Tags given by the composer hook; compared by identity, so an explicit `!!str` takes the slow branch of `_scalar`.
_TEXT = "text"
_PLAIN = "plain"
_COLLECTION = "collection"

_TYPED_START = frozenset("0123456789+-.~nNtTfF") | {""}
_WORDS: dict[str, bool | float | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_NUMBER = re.compile(
    r"(?P<int>[-+]?[0-9]{1,40})|0o(?P<oct>[0-7]{1,40})|0x(?P<hex>[0-9a-fA-F]{1,40})"
    r"|(?P<float>[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?)"
)
_EXPLICIT = "tag:yaml.org,2002:"


class DocumentError(Exception):
    """The bytes are no usable YAML document; carries the one finding that says why."""

    def __init__(self, text: str, line: int = 1, column: int = 1) -> None:
        super().__init__(text)
        self.finding = Finding((), text, place=(line, column))


def resolve_scalar(text: str) -> Any:
    """What a plain scalar means in the core schema: None, bool, int, float, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.fullmatch(text)
    if match is None:
        return text
    kind = match.lastgroup
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    return int(match[kind or 0], 8 if kind == "oct" else 16)


class _Composer(CParser):
    """The C composer with the resolver hooks it calls for every node reduced to the core schema."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] and value[:1] in _TYPED_START else _TEXT
        return _COLLECTION

    def descend_resolver(self, parent: yaml.Node | None, index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = parent.start_mark if parent is not None else None
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels; flatten it", line, column)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class Source(msgspec.Struct):
    """A document that was read: its plain values and the nodes that know the places."""

    filename: str
    tree: Any
    root: yaml.Node | None
    findings: list[Finding]

    def locate(self, path: Path, at_key: bool = False) -> tuple[int, int]:
        """Line and column (from 1) of the value at `path`, or of its nearest ancestor that is in the file."""
        node = self.root
        mark = None
        for part in path:
            child: yaml.Node | None = None
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if key.value == part:
                        child, mark = value, key.start_mark
                        break
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                child = node.value[part]
                mark = child.start_mark if child is not None else None
            if child is None:
                at_key = False
                break
            node = child
        if node is None:
            return 1, 1
        if mark is None or not at_key:
            mark = node.start_mark
        return mark.line + 1, mark.column + 1


def read(data: bytes, filename: str) -> Source:
    """Parse one document. Raises DocumentError when nothing can be made of it."""
    text = _decode(data)
    try:
        root = _Composer(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        where = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise DocumentError(f"not valid YAML: {what}", *where) from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {' '.join(str(error).split())}") from None
    if root is None:
        return Source(filename, {}, None, [])
    if "*" in text and "&" in text:
        _check_aliases(root)
    builder = _Builder()
    tree = builder.build(root)
    return Source(filename, tree, root, builder.findings(root))


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES // 1024 // 1024} MiB; split the configuration")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - (before.rfind(b"\n") + 1) + 1
        raise DocumentError("not UTF-8; save the file as UTF-8", line, column) from None


class _Builder:
    """Turns nodes into values, noting what the core schema has no value for."""

    def __init__(self) -> None:
        self.defects: list[tuple[yaml.Node, str]] = []

    def build(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        # One loop with the frequent cases in line: this runs once per mapping of a file of 10,000 routes.
        out: dict[str, Any] = {}
        for key, value in node.value:
            tag = value.tag
            if tag is _TEXT:
                out[key.value] = value.value
            elif key.__class__ is not yaml.ScalarNode:
                self.defects.append((key, "a key must be text; quote it or write it as one word"))
            elif tag is _PLAIN:
                out[key.value] = resolve_scalar(value.value)
            else:
                out[key.value] = self.build(value)
        if node.tag is not _COLLECTION and node.tag != _EXPLICIT + "map":
            self.defects.append((node, f"the tag {node.tag} is not supported; remove it"))
        if len(out) != len(node.value):
            self._note_duplicates(node)
        return out

    def _sequence(self, node: yaml.SequenceNode) -> list[Any]:
        if node.tag is not _COLLECTION and node.tag != _EXPLICIT + "seq":
            self.defects.append((node, f"the tag {node.tag} is not supported; remove it"))
        return [item.value if item.tag is _TEXT else self.build(item) for item in node.value]

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        if node.tag is _TEXT or node.tag == _EXPLICIT + "str":
            return text
        value = resolve_scalar(text)
        if node.tag is _PLAIN:
            return value
        wanted = {"int": int, "float": float, "bool": bool, "null": type(None)}.get(node.tag.removeprefix(_EXPLICIT))
        if wanted is None:
            self.defects.append((node, f"the tag {node.tag} is not supported; remove it"))
        elif type(value) is not wanted and not (wanted is float and type(value) is int):
            self.defects.append((node, f"the value does not fit its tag {node.tag}; remove the tag"))
        return value

    def _note_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.__class__ is not yaml.ScalarNode:
                continue
            if key.value in seen:
                self.defects.append(
                    (key, f"the key `{key.value}` was already given in line {seen[key.value]}; keep one of them")
                )
            else:
                seen[key.value] = key.start_mark.line + 1

    def findings(self, root: yaml.Node) -> list[Finding]:
        """The defects with their paths; searched only now, because a good file has none."""
        if not self.defects:
            return []
        wanted = {id(node) for node, _ in self.defects}
        paths: dict[int, Path] = {}
        _find_paths(root, (), wanted, paths)
        return [
            Finding(paths.get(id(node), ()), text, place=(node.start_mark.line + 1, node.start_mark.column + 1))
            for node, text in self.defects
        ]


def _find_paths(node: yaml.Node, path: Path, wanted: set[int], out: dict[int, Path]) -> None:
    if id(node) in wanted:
        out.setdefault(id(node), path)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            scalar = isinstance(key, yaml.ScalarNode)
            below = (*path, key.value) if scalar else path
            if id(key) in wanted:
                out.setdefault(id(key), below)
            _find_paths(value, below, wanted, out)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _find_paths(item, (*path, index), wanted, out)


def _check_aliases(root: yaml.Node) -> None:
    """Refuse recursive aliases, too many of them, and trees that grow or deepen too much when expanded.

    An anchor stands before its aliases, so every aliased node is measured once and the walk is linear.
    """
    measured: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()
    totals = [0, 0]

    def measure(node: yaml.Node) -> tuple[int, int]:
        known = measured.get(id(node))
        if known is not None:
            totals[0] += 1
            totals[1] += known[0]
            if totals[0] > MAX_ALIASES:
                raise _at(node, f"more than {MAX_ALIASES} aliases; write the values out")
            return known
        if id(node) in open_nodes:
            raise _at(node, "the alias contains itself; write the value out")
        if isinstance(node, yaml.ScalarNode):
            result = (1, 1)
        else:
            open_nodes.add(id(node))
            size, depth = 1, 0
            for item in node.value:
                for child in item if isinstance(item, tuple) else (item,):
                    child_size, child_depth = measure(child)
                    size += child_size
                    depth = max(depth, child_depth)
            open_nodes.discard(id(node))
            result = (size, depth + 1)
        if totals[1] > MAX_ALIAS_NODES or result[0] > 10_000_000:
            raise _at(node, f"the aliases expand to more than {MAX_ALIAS_NODES} values; write them out")
        if result[1] > MAX_DEPTH:
            raise _at(node, f"nested deeper than {MAX_DEPTH} levels; flatten it")
        measured[id(node)] = result
        return result

    measure(root)


def _at(node: yaml.Node, text: str) -> DocumentError:
    return DocumentError(text, node.start_mark.line + 1, node.start_mark.column + 1)
