"""Policies under conditions: the first whose condition is true is asked, and no other.

Rules:
- a condition that cannot be evaluated counts as true: what should be asked is asked, and nobody slips past by an accident;
- a request for which no condition is true passes; what is chosen depends on more than the credentials, so the gate asks anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from agw.security import cel
from agw.security.contract import Found, Request, Step, Verdict
from agw.security.facts import Facts


class Conditional:
    """The step. Errors: CelError for a condition that cannot be compiled."""

    def __init__(self, entries: Sequence[tuple[str, Step]]) -> None:
        """(condition, step); a condition "" is always true."""
        self._entries = [(cel.compile(text, "http") if text else None, step) for text, step in entries]

    def choose(self, request: Request, found: Found) -> Step | None:
        """The first whose condition holds."""
        found.lasting = False
        facts = Facts(request, found.claims)
        for condition, step in self._entries:
            if condition is None or condition.evaluate(facts) is not False:
                return step
        return None

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Ask it."""
        step = self.choose(request, found)
        return None if step is None else step.check(request, found)

    def close(self) -> None:
        """Close all of them."""
        for _, step in self._entries:
            close = getattr(step, "close", None)
            if close is not None:
                close()
