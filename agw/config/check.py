"""Checks that look at more than one value: choices, references, names, ports, and routes that hide each other.

Rules kept here:
- a check reports and goes on; it never raises and never changes the configuration;
- what the structural walk dropped is not missing: `Context.is_complete` and `Context.is_lost` say what may be reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

from agw.config.problem import Findings, Path, path_text
from agw.config.values import quoted
from agw.runtime.stamp import Stamp

if TYPE_CHECKING:
    from agw.config.outside import Outside
    from agw.config.walk import Pruned


_NAMED_LISTS: frozenset[Path] = frozenset((("gateways",), ("routes",), ("backends",), ("binds",)))


class Context:
    """What every step of building the plan shares: where findings go, and what the file had that was dropped.

    `base` is the directory of the configuration file; `files` holds what was read of others, by name, and `reads` the
    state of each then, by path; `outside` collects the services and documents that policies name.
    """

    outside: Outside

    def __init__(self, findings: Findings, environ: Mapping[str, str], pruned: Pruned | None = None, base: str = "") -> None:
        self.findings = findings
        self.environ = environ
        self.pruned = pruned
        self.base = base
        self.files: dict[str, str] = {}
        self.reads: dict[str, Stamp] = {}

    def is_complete(self, path: Path) -> bool:
        """Whether nothing below `path` was dropped as structurally wrong."""
        return self.pruned is None or self.pruned.is_complete(path)

    def is_lost(self, name: str) -> bool:
        """Whether something of this name was in the file and dropped, or may have been in a list that was."""
        if self.pruned is None:
            return False
        return name in self.pruned.lost_names or not self.pruned.cuts.isdisjoint(_NAMED_LISTS)

    def shown(self, path: Path) -> str:
        """A path as text, for messages that mention a second place."""
        return path_text(path if self.pruned is None else self.pruned.original(path))

    def choice(self, struct: msgspec.Struct, path: Path, fields: tuple[str, ...]) -> str | None:
        """The one attribute of `fields` that is set; anything but exactly one is a problem."""
        given = [name for name in fields if getattr(struct, name) is not None]
        if len(given) == 1:
            return given[0]
        keys = ", ".join(f"`{_camel(name)}`" for name in fields)
        if given:
            clash = " and ".join(f"`{_camel(name)}`" for name in given)
            self.findings.problem(path, f"{clash} exclude each other; keep one of {keys}")
        elif self.is_complete(path):
            self.findings.problem(path, f"nothing chosen; give one of {keys}" if len(fields) > 1 else f"give {keys}")
        return None

    def unknown(self, path: Path, what: str, name: str, known: Iterable[str]) -> None:
        """Report a reference to something that does not exist, with the nearest name that does."""
        if self.is_lost(name):
            return
        import difflib  # only files with a wrong reference pay for it

        names = list(known)
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
        if near:
            hint = f"did you mean `{near[0]}`?"
        elif names:
            hint = f"there are {', '.join(f'`{item}`' for item in names[:8])}"
        else:
            hint = f"the file has no {what}; add one"
        self.findings.problem(path, f"no {what} is named {quoted(name)}; {hint}")


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


class Names:
    """Names that must be unique in their scope."""

    def __init__(self, context: Context, what: str) -> None:
        self.context = context
        self.what = what
        self.seen: dict[object, Path] = {}

    def claim(self, key: object, shown: str, path: Path) -> bool:
        """Take a name; a second claim of the same key is a problem."""
        first = self.seen.setdefault(key, path)
        if first is path:
            return True
        where = self.context.shown(first)
        self.context.findings.problem(path, f"the {self.what} {quoted(shown)} already exists at {where}; rename one")
        return False


class Ports:
    """Sockets that must not overlap: those of gateways and binds, and agw's own addresses.

    The kernel would not say so itself: with SO_REUSEPORT two listeners silently share a port.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.claimed: dict[int, list[tuple[str, str]]] = {}

    def claim(self, address: str, port: int, owner: str, path: Path) -> None:
        """Take a port; port 0 never clashes, and an empty or unspecified address clashes with every address."""
        if port == 0:
            return
        others = self.claimed.setdefault(port, [])
        for other, other_owner in others:
            if address == other or _is_any(address) or _is_any(other):
                self.context.findings.problem(
                    path, f"port {port} is already used by {other_owner}; choose another port"
                )
                break
        others.append((address, owner))

    def claim_service(self, address: str, owner: str, path: Path) -> None:
        """Take the port of an `ip:port` address; `off` and unix sockets have none."""
        if address != "off" and not address.startswith("unix:"):
            host, _, port = address.rpartition(":")
            self.claim(host.removeprefix("[").removesuffix("]"), int(port), owner, path)


def _is_any(address: str) -> bool:
    return address in ("", "0.0.0.0", "::")


MatchKey = tuple[str, str, str, tuple[object, ...], tuple[object, ...]]


class Reach:
    """Which matches of a listener are taken; a later route with the same match is never reached."""

    def __init__(self) -> None:
        self.taken: dict[tuple[str, MatchKey], Path] = {}

    def note(self, hostnames: list[str], keys: list[MatchKey], path: Path) -> dict[int, Path]:
        """Take the matches; returns the path of the route before it for every match whose names are all taken."""
        hidden: dict[int, Path] = {}
        for index, key in enumerate(keys):
            first: Path | None = None
            free = False
            for hostname in hostnames or ("",):
                before = self.taken.setdefault((hostname, key), path)
                if before is path:
                    free = True
                else:
                    first = before
            if not free and first is not None:
                hidden[index] = first
        return hidden


def hostnames_meet(listener: str, route: str) -> bool:
    """Whether a request can match both patterns; "" is any name, `*.suffix` any name below the suffix."""
    if not listener or not route or listener == route:
        return True
    if listener.startswith("*."):
        if route.startswith("*."):
            return route.endswith(listener[1:]) or listener.endswith(route[1:])
        return route.endswith(listener[1:]) and len(route) > len(listener) - 1
    return route.startswith("*.") and listener.endswith(route[1:]) and len(listener) > len(route) - 1
