"""`default(expression, value)` and `coalesce(expression, ...)`: functions that may be given what cannot be evaluated.

The library evaluates arguments before it calls a function, so these calls are taken out of the text: each becomes a variable whose value is
worked out before the rest, from arguments that are expressions of their own.

Rules:
- `default` gives its first argument unless that is null or names what is not there (a variable, a member); `coalesce` gives the first that can be
  evaluated at all and is not null; the last argument may be null;
- a variable that is there and cannot be used (arguments with a name twice, a claim with a NUL) is no reason to take another value: the whole
  expression cannot be evaluated then, or a malformed request would choose the default;
- arguments keep their place, so faults are told by line and column of the whole text; they cannot use variables of macros around them.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

MOST: Final = 16
"""Such calls in one expression, those within arguments included."""
PREFIX: Final = "agw_d"

STRING: Final = (
    r"[bB]?[rR][bB]?(?:\"\"\"(?:.|\n)*?\"\"\"|'''(?:.|\n)*?'''|\"[^\"\n]*\"|'[^'\n]*')"
    r"|[bB]?(?:\"\"\"(?:\\(?:.|\n)|[^\\])*?\"\"\"|'''(?:\\(?:.|\n)|[^\\])*?'''|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*')"
)
"""A string or bytes constant of CEL: raw ones end at the next quote, others know escapes."""
_CALL = re.compile(r"(?<![\w.])(default|coalesce)\(")
_SKIPPED = re.compile(rf"(?<!\w)(?:{STRING})|//[^\n]*")


class Taken(NamedTuple):
    """A call that was taken out. `arguments` are texts as long as the whole, blank elsewhere; `takes_any`: any failure is passed over."""

    variable: str
    arguments: tuple[str, ...]
    takes_any: bool


class Malformed(Exception):
    """The text cannot be taken apart. `at` is the offset of what is wrong."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


def take_out(text: str) -> tuple[str, list[Taken]]:
    """The text with its outermost calls replaced, of the same length, and what was replaced. Errors: Malformed."""
    if "default(" not in text and "coalesce(" not in text:
        return text, []
    code = _SKIPPED.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    calls = list(_CALL.finditer(code))
    if len(calls) > MOST:
        raise Malformed(f"at most {MOST} calls of default() and coalesce() in one expression", calls[MOST].start())
    taken: list[Taken] = []
    at = 0
    while (found := _CALL.search(code, at)) is not None:
        ends = _ends(code, found.end())
        if ends is None:
            break  # the library says what is wrong
        start, end = found.start(), ends[-1] + 1
        begins = [found.end(), *(place + 1 for place in ends[:-1])]
        arguments = tuple(_alone(text, begin, stop) for begin, stop in zip(begins, ends, strict=True))
        if found[1] == "default" and len(arguments) != 2:
            raise Malformed("default() takes an expression and the value to use when it cannot be evaluated", start)
        variable = f"{PREFIX}{len(taken)}"
        taken.append(Taken(variable, arguments, found[1] == "coalesce"))
        blank = variable + re.sub(r"[^\n]", " ", text[start + len(variable) : end])
        text = text[:start] + blank + text[end:]
        code = code[:start] + blank + code[end:]
        at = end
    return text, taken


def _ends(code: str, at: int) -> list[int] | None:
    """Offsets of the commas between arguments and of the closing parenthesis; None when it is missing."""
    depth = 0
    out: list[int] = []
    for place in range(at, len(code)):
        char = code[place]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            if depth == 0:
                return [*out, place] if char == ")" else None
            depth -= 1
        elif char == "," and depth == 0:
            out.append(place)
    return None


def _alone(text: str, begin: int, end: int) -> str:
    return re.sub(r"[^\n]", " ", text[:begin]) + text[begin:end] + re.sub(r"[^\n]", " ", text[end:])
