"""Values of `extAuthz` that are expressions: text constants are known here, everything else is compiled by who knows CEL.

Rules:
- an expression is compiled once; one that fails at run time raises `ValueFailure`, and the caller decides what that means;
- what an expression gives becomes text in one way: text as it is, octets as they are, the rest as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from agw.security.contract import Found, Request

Evaluate = Callable[[Request, Found, Mapping[str, Any]], Any]
"""(request, what is known, further roots such as `response`) -> the value. Any exception means that there is none."""

Compile = Callable[[str, str], Evaluate]
"""(CEL text, phase) -> its evaluation. Phase `http` knows the request head, `response` also the service's answer. Errors: ValueError."""

_CONSTANT = re.compile(r"""\s*(?:"([^"\\\r\n]*)"|'([^'\\\r\n]*)')\s*""")


class ValueFailure(Exception):
    """An expression gave no value for this request. The text names the expression's place, never a value."""


def constant(expression: str) -> str | None:
    """The text of a constant such as `"/check"`, None for every other expression."""
    match = _CONSTANT.fullmatch(expression)
    return None if match is None else match[1] if match[1] is not None else match[2]


class Value:
    """One expression."""

    __slots__ = ("_evaluate", "_fixed", "_where")

    def __init__(self, expression: str, where: str, compile: Compile | None, phase: str = "http") -> None:
        """Errors: ValueError when it is no constant and cannot be compiled."""
        self._where = where
        self._fixed = constant(expression)
        self._evaluate: Evaluate | None = None
        if self._fixed is None:
            if compile is None:
                raise ValueError(f"{where}: only text constants are possible here")
            self._evaluate = compile(expression, phase)

    def __call__(self, request: Request, found: Found, roots: Mapping[str, Any]) -> Any:
        """The value as CEL gives it. Errors: ValueFailure."""
        if self._evaluate is None:
            return self._fixed
        try:
            return self._evaluate(request, found, roots)
        except Exception as error:
            raise ValueFailure(f"{self._where}: {type(error).__name__}") from None

    def octets(self, request: Request, found: Found, roots: Mapping[str, Any]) -> bytes:
        """The value as it goes on the wire. Errors: ValueFailure."""
        value = self(request, found, roots)
        if isinstance(value, str):
            return value.encode("utf-8", "surrogatepass")
        if isinstance(value, bytes):
            return value
        try:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
        except (TypeError, ValueError):
            raise ValueFailure(f"{self._where}: no text") from None


def optional(expression: str, where: str, compile: Compile | None, phase: str = "http") -> Value | None:
    """The value of an expression that may be absent ("")."""
    return Value(expression, where, compile, phase) if expression else None
