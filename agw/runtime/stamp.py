"""The state of a file, by which a change is told without reading it."""

from __future__ import annotations

import os
from typing import NamedTuple


class Stamp(NamedTuple):
    """When it was written, how long it is, and which file it is."""

    mtime_ns: int
    size: int
    inode: int
    device: int


def stamp_of(found: os.stat_result) -> Stamp:
    """The state `os.stat` or `os.fstat` told."""
    return Stamp(found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)


def stamp_at(path: str) -> Stamp | None:
    """The state of the file at a path; None when there is none, or it cannot be asked about."""
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return None
