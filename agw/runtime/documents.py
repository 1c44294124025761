"""Fetched documents on their way from the helper process over the supervisor to the workers.

Rules:
- the URL of the plan is a document's name everywhere;
- the helper reports every attempt that ended, and at once what it puts off; the supervisor keeps the newest good copy of each;
- a version depends on the content only, so it is the same in every process and after every restart.
"""

from __future__ import annotations

import hashlib
from typing import Literal
from urllib.parse import urlsplit

import msgspec

COOLDOWN_S = 30.0
"""A document that is wanted is fetched at most once in this time, whoever wants it and however often."""

Outcome = Literal["changed", "same", "failed", "later"]


class Fetched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of an attempt to fetch a document, and a kept copy.

    outcome: `changed` (with body, version, etag), `same` (the kept copy is good for longer), `failed`, or `later`: wanted
    inside the cool-down. Times are CLOCK_MONOTONIC: `fetched_ns` is when it was last known to be good, `fresh_ns` how long.
    """

    url: str
    outcome: Outcome
    body: bytes = b""
    version: int = 0
    etag: str = ""
    fetched_ns: int = 0
    fresh_ns: int = 0

    def after(self, kept: Fetched | None) -> Fetched | None:
        """The copy to keep when this is the news and `kept` was kept so far."""
        if self.outcome == "changed":
            return self
        if self.outcome == "same" and kept is not None:
            return msgspec.structs.replace(kept, fetched_ns=self.fetched_ns, fresh_ns=self.fresh_ns, etag=self.etag)
        return kept


def version_of(body: bytes) -> int:
    """The version of a content: 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(body).digest()[:8], "big") >> 1


def shown(url: str) -> str:
    """A URL for logs and labels: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "invalid"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
