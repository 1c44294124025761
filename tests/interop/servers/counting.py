"""How many calls were cancelled, counted over all processes of a server: a gateway may run several of a program.

The file in the environment variable COUNT_FILE has an octet per cancelled call; without it the count is this process's.
"""

from __future__ import annotations

import os
from pathlib import Path

_here = 0


def one_more() -> None:
    """A call was cancelled."""
    global _here
    _here += 1
    if name := os.environ.get("COUNT_FILE"):
        with open(name, "ab") as file:
            file.write(b".")


def so_far() -> int:
    """The count."""
    name = os.environ.get("COUNT_FILE")
    if name is None:
        return _here
    path = Path(name)
    return path.stat().st_size if path.exists() else 0
