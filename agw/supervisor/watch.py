"""Files that a configuration was made of - certificates, keys, key sets, secrets - and whether they have changed since.

Rules:
- a change counts when two looks in a row found the same: what is being written is left alone;
- one that is gone is waited for: whoever replaces files may do so in two steps;
- a state is reported once, whatever came of it: a bad certificate is told in the log once, not at every look.

The configuration file itself is not watched: what an editor saves halfway is no order to reload.
"""

from __future__ import annotations

from collections.abc import Mapping

from agw.runtime.stamp import Stamp, stamp_at


class WatchedFiles:
    """What was read by the last load that succeeded, and what was seen since."""

    def __init__(self, reads: Mapping[str, Stamp]) -> None:
        self._known: dict[str, Stamp] = dict(reads)
        self._seen: dict[str, Stamp | None] = {}

    def loaded(self, reads: Mapping[str, Stamp]) -> None:
        """A load succeeded with these."""
        self._known = dict(reads)
        self._seen.clear()

    def changed(self) -> list[str]:
        """Look at all of them: the paths whose change counts now."""
        settled: list[str] = []
        for path, known in self._known.items():
            now = stamp_at(path)
            if now is None or now == known:
                self._seen.pop(path, None)
            elif self._seen.get(path) != now:
                self._seen[path] = now
            else:
                settled.append(path)
        for path in settled:
            found = self._seen.pop(path)
            assert found is not None
            self._known[path] = found
        return settled
