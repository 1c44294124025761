"""RFC 6570 templates, matched backwards: could this URI be an expansion of that template?

The answer decides where a request goes, so it errs on the side of yes: an undefined variable, values a client did not
escape and exploded lists all match. It is linear in the URI for a given template: all positions of the template are
tracked at once in the bits of one integer, so no template of a target can make the gateway backtrack.

Source: RFC 6570, sections 2 and 3.2 (levels 1 to 4).
"""

from __future__ import annotations

import re
from urllib.parse import quote

MAX_TEMPLATE = 2048
"""Longest template looked at, in characters; longer ones match nothing."""
MAX_URI = 8192
"""Longest URI looked at, in characters."""

_PARTS = re.compile(r"\{([^{}]*)\}|([^{}]+)|([{}])")
_EXPRESSION = re.compile(r"([+#./;?&]?)([A-Za-z0-9_.%,*:-]+)")

_STOPS = {"": "/?#", ".": "/?#", "/": "?#", ";": "/?#", "?": "#", "&": "#", "+": "", "#": ""}
"""By operator: the characters that cannot be part of the expansion."""


def _ascii(text: str) -> str:
    """Literals outside ASCII are expanded in percent encoding (RFC 6570, 3.1); URIs may come either way."""
    return text if text.isascii() else quote(text, safe="%:/?#[]@!$&'()*+,;=-._~{} \"<>\\^`|")


class Template:
    """One compiled template. `literal`: the text before its first expression."""

    __slots__ = ("_accept", "_any", "_leads", "_literals", "_loops", "_skips", "_stops", "literal")

    def __init__(self, parts: list[tuple[bool, str]]) -> None:
        """`parts`: (is expression, literal text or operator). State n means: the first n elements are matched."""
        self.literal = parts[0][1] if parts and not parts[0][0] else ""
        self._literals: dict[str, int] = {}
        self._leads: dict[str, int] = {}
        self._loops = self._skips = 0
        self._stops = dict.fromkeys("/?#", 0)
        state = 0
        for expression, text in parts:
            if not expression:
                for character in text:
                    self._literals[character] = self._literals.get(character, 0) | 1 << state
                    state += 1
                continue
            if text not in ("", "+"):  # the operator's own character comes first, if anything comes
                self._leads[text] = self._leads.get(text, 0) | 1 << state
                self._skips |= 1 << state
                state += 1
            self._loops |= 1 << state
            for character in _STOPS[text]:
                self._stops[character] |= 1 << state
            state += 1
        self._accept = 1 << state

    def matches(self, uri: str) -> bool:
        """True when the URI may be an expansion. Cost: proportional to the URI's length."""
        uri = _ascii(uri)
        if len(uri) > MAX_URI or not uri.startswith(_ascii(self.literal)):
            return False
        states = self._closure(1)
        for character in uri:
            loops = states & self._loops & ~self._stops.get(character, 0)
            moved = states & (self._literals.get(character, 0) | self._leads.get(character, 0))
            states = self._closure(loops | moved << 1)
            if not states:
                return False
        return bool(states & self._accept)

    def _closure(self, states: int) -> int:
        """Add what is reached without a character: past a loop, past an expression that expands to nothing."""
        while True:
            more = states | (states & self._loops) << 1 | (states & self._skips) << 2
            if more == states:
                return states
            states = more


def compile_template(text: str) -> Template | None:
    """A template to match with; None when it is too long or no RFC 6570 template."""
    if len(text) > MAX_TEMPLATE:
        return None
    parts: list[tuple[bool, str]] = []
    for found in _PARTS.finditer(text):
        expression, literal, stray = found.groups()
        if stray is not None:
            return None
        if literal is not None:
            parts.append((False, _ascii(literal)))
            continue
        operator = _EXPRESSION.fullmatch(expression)
        if operator is None:
            return None
        parts.append((True, operator[1]))
    return Template(parts)
