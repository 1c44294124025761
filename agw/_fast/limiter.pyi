"""What a request is charged to. C only.

Rules:
- taking is one step that never waits; what a limit does not admit is refused;
- the base admits nothing.
"""

from typing_extensions import disjoint_base

@disjoint_base
class Limit:
    """A limit. C methods: `take(key, cost, now_ns, wall_ns)` (1: admitted), `lines()` about the last take, `give_back(key)`."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> int:
        """0 rate, 1 concurrency, 2 quota."""
    @property
    def burst(self) -> int: ...
