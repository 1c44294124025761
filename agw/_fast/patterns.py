"""Regular expressions of routes: matched with what clients send, so in time linear in it.

Rules:
- RE2 matches, and no pattern makes it slow; what cannot be matched that way (back-references, look-around, possessive quantifiers) is refused when the
  configuration is loaded;
- a compiled pattern has MAX_MEMORY, and a pattern that needs more is refused;
- octets are matched, not characters: `.` is one octet, `\\w` and `\\d` are ASCII;
- the library is imported with the first pattern.

Source: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, Protocol

MAX_MEMORY: Final = 1_048_576
"""Octets of a compiled pattern and its automaton."""
INSTALL: Final = "regular expressions need the package google-re2, which cannot be imported here; install it: pip install google-re2"


class Pattern(Protocol):
    """A compiled pattern."""

    def fullmatch(self, octets: bytes) -> object | None:
        """Whether it matches all of them: None when not."""


@lru_cache(maxsize=4096)
def compiled(text: str) -> Pattern:
    """The pattern. Errors: ValueError with the library's words, or INSTALL."""
    found: Pattern = _compiled(text.encode("utf-8", "surrogatepass"), False)
    return found


@lru_cache(maxsize=256)
def of_text(text: str) -> Any:
    """The same for Unicode text: `search(text)` gives a match as Python's `re` does, or None. Errors: ValueError."""
    return _compiled(text, True)


def _compiled(text: bytes | str, unicode: bool) -> Any:
    library, options = _library(unicode)
    try:
        return library.compile(text, options)
    except library.error as error:
        said = error.args[0] if error.args else error
        raise ValueError(said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)) from None


@lru_cache(maxsize=2)
def _library(unicode: bool) -> tuple[Any, Any]:
    try:
        import re2  # type: ignore[import-untyped, unused-ignore]  # the package has no types; where it is not installed mypy is silent
    except ImportError:
        raise ValueError(INSTALL) from None
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    options.encoding = re2.Options.Encoding.UTF8 if unicode else re2.Options.Encoding.LATIN1
    return re2, options
