"""Host and path to route index. Built once per snapshot, in steps; immutable afterwards.

Precedence, first difference decides:
1. listener with the most specific hostname (exact, then `*.` with the longest suffix, then none);
2. route hostname, likewise; a request that matches nothing under one hostname tries the next less specific one;
3. exact path;
4. prefix or regex with the longer text in octets (trailing slashes of a prefix do not count, "/" counts one);
5. a match that names a method;
6. more header conditions; 7. more query conditions; 8. order in the file.

A prefix stands for whole path segments: `/a` takes `/a`, `/a/` and `/a/b`, never `/ab`. A regex must match the whole path;
regexes are RE2's (`agw._fast.patterns`): linear in what clients send. Hosts are compared without port and one final dot, in
lower case; paths after normalisation (`http1.normalised_path`), octet by octet.
A wildcard hostname stands for one or more whole labels.

Cost: one hash per host label and per path segment that exists in the table, whatever the number of routes; regexes are
tried one by one in order of length, because nothing else can be done with them.
"""

from collections.abc import Generator, Sequence
from typing import Literal, Self

from typing_extensions import disjoint_base

_Test = tuple[str, Literal["exact", "regex"], str]
"""(name, kind, value). Headers: any case, or `:authority`, `:method`; all values of a field joined by `, `. Query: the
first value of a parameter counts, percent-decoded."""

_Row = tuple[Literal["exact", "prefix", "regex"], str, str, list[_Test], list[_Test], int]
"""(path kind, path, method or "", header conditions, query conditions, value to return)."""

_Listener = tuple[str, object, dict[str, list[_Row]]]
"""(hostname, id, rows by route hostname). Hostnames are lower case: "" for any, exact, or `*.suffix`."""

@disjoint_base
class Router:
    """The tables of one bind. C method: `route(head, buf, path, n, listener)`.

    Errors: re.error for a pattern that does not compile.
    """

    def __init__(self, listeners: list[_Listener]) -> None: ...
    @staticmethod
    def build_steps(listeners: Sequence[_Listener]) -> Generator[None, None, Router]:
        """As the constructor, in steps of about a millisecond; the generator's value is the Router."""

    def fill(self, listeners: Sequence[_Listener]) -> Generator[None]:
        """Build in steps; only before the router is used. Callers want `build_steps`."""

    @property
    def listener_ids(self) -> list[object]:
        """The ids of the listeners, by index."""

    def match_request(self, head: bytes) -> tuple[int, int]:
        """Route a whole request head, as the data path would: (index of the listener, value of the row).

        -1 for the listener: none has this host; -1 for the row: no route matches.
        Errors: ValueError for a head that cannot be framed or a path that cannot be normalised.
        """

@disjoint_base
class PathTable:
    """All rows under one hostname: a hash for exact paths, a trie of segments for prefixes, a list for regexes."""

    def __init__(self) -> None: ...
    def fill(self, rows: list[_Row]) -> Generator[None]:
        """Build in steps, once. Errors: re.error."""

    def add_candidate(self, row: _Row, rank: int) -> None:
        """Part of `fill`."""

@disjoint_base
class HostTable:
    """Hostname to value. C method: `next_match(host, n, state)`, most specific first."""

    def __init__(self, hosts: dict[str, int]) -> None:
        """Values must not be negative."""

    def lookup(self, host: str) -> list[int]:
        """All values that match, most specific first. `host` is lower case, without port."""

@disjoint_base
class ByteMap:
    """(parent, octets) to a non-negative integer; open addressing, never more than half full. C methods: `add`, `find`."""

    def __new__(cls, expected: int) -> Self:
        """Room for `expected` entries."""

@disjoint_base
class Condition:
    """Header and query conditions of one row. C method: `holds(head, buf)`."""

    def __init__(self, headers: Sequence[_Test], query: Sequence[_Test]) -> None: ...
    @staticmethod
    def matcher(kind: Literal["exact", "regex"], value: str) -> tuple[bytes, None] | tuple[None, object]:
        """(octets, None) or (None, compiled pattern)."""
