"""The octets of an OpenAPI document, JSON or YAML, as plain values.

Rules:
- limits before work: size, nesting and the number of values, aliases counted as what they expand to;
- a YAML document is built from parser events with a stack of our own, so nesting costs memory and never the C stack;
- scalars follow the YAML 1.2 core schema; keys are always text (`200:` is "200"); duplicate keys are refused; merge keys
  (`<<`) are honoured because documents in the wild use them;
- values may be shared (aliases), so nobody changes what `read` returned.
"""

from __future__ import annotations

import re
from typing import Any

import orjson
import yaml
from yaml._yaml import CParser

MAX_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 200
MAX_NODES = 2_000_000

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?[0-9]{1,40}")
_BASED = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}(?:\.[0-9]{0,40})?)(?:[eE][-+]?[0-9]{1,3})?")
_MERGE = "<<"


class DocumentError(ValueError):
    """A document that cannot be used. The text says why and where; it may quote names of the document."""


def read(text: bytes) -> Any:
    """The value of a JSON or YAML text; what begins with `{` is JSON.

    Errors: DocumentError.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"larger than {MAX_BYTES >> 20} MiB")
    text = text.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip()[:1] != b"{":
        return _read_yaml(text)
    # Every value but the first follows one of these, so this bounds what the decoder will make.
    if text.count(b",") + text.count(b"{") + text.count(b"[") > MAX_NODES:
        raise DocumentError(f"more than {MAX_NODES} values")
    try:
        tree = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"not JSON: line {error.lineno}, column {error.colno}") from None
    _check_depth(tree)
    return tree


def _check_depth(tree: Any) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                deeper.extend(child for child in value.values() if isinstance(child, (dict, list)))
            elif isinstance(value, list):
                deeper.extend(child for child in value if isinstance(child, (dict, list)))
        if not deeper:
            return
        level = deeper
    raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")


class _Open:
    """A collection under construction."""

    __slots__ = ("anchor", "height", "key", "merge", "nodes", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.merge: Any = None
        self.nodes = 1
        self.height = 1


class _Builder:
    """Parser events to values. An anchor is usable once its value is complete, so no value can hold itself."""

    def __init__(self) -> None:
        self.root: Any = None
        self.made = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int, int]] = {}

    def begin(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
            raise DocumentError("a key is not text")
        self._stack.append(_Open(value, anchor))
        if len(self._stack) > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")

    def end(self) -> None:
        done = self._stack.pop()
        if done.merge is not None and isinstance(done.value, dict):
            for source in done.merge if isinstance(done.merge, list) else [done.merge]:
                if not isinstance(source, dict):
                    raise DocumentError("a merge key without a mapping")
                for key, value in source.items():
                    done.value.setdefault(key, value)
        self._put(done.value, done.nodes, done.height, done.anchor)

    def scalar(self, event: yaml.ScalarEvent) -> None:
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            if event.anchor:
                self._anchors[event.anchor] = (event.value, 1, 0)
            self._take_key(top, event.value)
        else:
            self._put(_resolve(event.value) if event.implicit[0] else event.value, 1, 0, event.anchor)

    def alias(self, anchor: str | None) -> None:
        if anchor is None or anchor not in self._anchors:
            raise DocumentError("an alias of an anchor that is unknown or still open")
        value, nodes, height = self._anchors[anchor]
        top = self._stack[-1] if self._stack else None
        if top is not None and isinstance(top.value, dict) and top.key is None:
            if not isinstance(value, str):
                raise DocumentError("a key is not text")
            self._take_key(top, value)
        else:
            self._put(value, nodes, height, None)

    def _take_key(self, top: _Open, key: str) -> None:
        if key in top.value:
            raise DocumentError(f"the key {key[:100]!r} occurs twice")
        top.key = key

    def _put(self, value: Any, nodes: int, height: int, anchor: str | None) -> None:
        self.made += 1
        if anchor:
            self._anchors[anchor] = (value, nodes, height)
        if not self._stack:
            self.root = value
            return
        top = self._stack[-1]
        top.nodes += nodes
        top.height = max(top.height, height + 1)
        # `nodes` counts what a value expands to, `made` what is there: open collections are not in their parents yet.
        if top.nodes > MAX_NODES or self.made > MAX_NODES:
            raise DocumentError(f"more than {MAX_NODES} values")
        if len(self._stack) + height > MAX_DEPTH:
            raise DocumentError(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(top.value, list):
            top.value.append(value)
        elif top.key == _MERGE:
            top.merge = value
            top.key = None
        else:
            assert top.key is not None
            top.value[top.key] = value
            top.key = None


def _read_yaml(text: bytes) -> Any:
    parser = CParser(text)
    builder = _Builder()
    documents = 0
    try:
        while True:
            event = parser.get_event()
            match event:
                case yaml.ScalarEvent():
                    builder.scalar(event)
                case yaml.MappingStartEvent():
                    builder.begin({}, event.anchor)
                case yaml.SequenceStartEvent():
                    builder.begin([], event.anchor)
                case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                    builder.end()
                case yaml.AliasEvent():
                    builder.alias(event.anchor)
                case yaml.DocumentStartEvent():
                    documents += 1
                    if documents > 1:
                        raise DocumentError("more than one YAML document")
                case yaml.StreamEndEvent():
                    return builder.root
                case _:
                    pass
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f": line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise DocumentError(f"not YAML{place}") from None


def _resolve(text: str) -> Any:
    """A plain scalar in the core schema; infinities and NaN, which JSON lacks, stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _BASED.fullmatch(text):
        return int(text[2:], 8 if text[1] == "o" else 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
