"""Resource URIs of several targets behind one endpoint: rewritten so that they name their target, or routed by knowledge.

Rewritten (`Uris`, when names carry prefixes):
- `scheme:rest` becomes `target+scheme:rest`, still a URI (RFC 3986 scheme characters); the target's own text comes back
  octet for octet; schemes are case-insensitive, so target ids are compared that way;
- `ui://rest` becomes `ui://target+rest`, because hosts recognise apps by that scheme;
- `http:` and `https:` stay: clients may fetch them themselves;
- a template gets the same literal prefix, so it stays a template of RFC 6570 and expands to URIs that split again.

Known (`UriOwners`, for everything that was not rewritten): what targets list decides before what results only mentioned,
so that no target draws another's resources to itself by linking to them.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice

from agw.mcp.federation.templates import Template, compile_template

_UI = "ui://"
_DELIMITER = re.compile(r"[/?#:]+")
_MAX_DEPTH = 32
"""How many delimiters of a URI count when prefixes are compared."""


def _plain(uri: str) -> bool:
    """True for what is never rewritten."""
    return uri[:5].lower() == "http:" or uri[:6].lower() == "https:"


class Uris:
    """Public URIs of a backend's targets, by index in configuration order. `prefixed` False leaves all URIs alone."""

    def __init__(self, targets: Sequence[str], prefixed: bool) -> None:
        self.prefixed = prefixed
        self.targets = tuple(targets)
        self._index = {name.lower(): index for index, name in enumerate(self.targets)}

    def public(self, target: int, uri: str) -> str:
        """The URI, or URI template, that clients see."""
        if not self.prefixed or _plain(uri):
            return uri
        name = self.targets[target]
        if uri[:5].lower() == _UI:
            return f"{uri[:5]}{name}+{uri[5:]}"
        return f"{name}+{uri}"

    def split(self, public: str) -> tuple[int, str] | None:
        """Target and own URI (or template) of a public one; None when it names no target."""
        if not self.prefixed:
            return None
        scheme = public[:5] if public[:5].lower() == _UI else ""
        name, plus, rest = public[len(scheme) :].partition("+")
        target = self._index.get(name.lower()) if plus else None
        return None if target is None else (target, scheme + rest)


def _ancestors(uri: str) -> list[str]:
    """The URI's prefixes that end at one of its first delimiters, longest first: `a:b/c?d` gives all of it, `a:b/c?`, `a:b/`, `a:`."""
    ends = [found.end() for found in islice(_DELIMITER.finditer(uri), _MAX_DEPTH)]
    return [uri, *(uri[:end] for end in reversed(ends))]


class UriOwners:
    """Which target a plain URI belongs to.

    In this order: listed as it is; matches a listed template; was linked to in a result (bounded, oldest forgotten); the
    longest prefix, cut at a delimiter, that only one target's listed URIs have; the only target with any resources.
    Within one step the first target in configuration order wins.
    """

    def __init__(self, targets: int, max_links: int = 4096) -> None:
        self._exact: list[frozenset[str] | set[str]] = [frozenset()] * targets
        self._templates: list[list[tuple[str, Template]]] = [[] for _ in range(targets)]
        self._links: OrderedDict[str, int] = OrderedDict()
        self._max_links = max_links
        self._owners: dict[str, int] | None = None
        self._prefixes: dict[str, int] | None = None

    def learn(self, target: int, uris: Iterable[str] | None = None, templates: Iterable[str] | None = None) -> None:
        """What the target lists now, replacing what it listed before; None leaves that half alone."""
        if uris is not None:
            self._exact[target] = set(uris)
            self._owners = self._prefixes = None
        if templates is not None:
            compiled = ((text, compile_template(text)) for text in templates)
            self._templates[target] = [(text, template) for text, template in compiled if template is not None]
            self._prefixes = None

    def saw(self, target: int, uri: str) -> None:
        """A result of the target linked to the URI."""
        known = self._links.pop(uri, target)
        self._links[uri] = min(known, target)
        if len(self._links) > self._max_links:
            self._links.popitem(last=False)

    def owner(self, uri: str) -> int | None:
        """The target to ask for the URI."""
        if self._owners is None:
            self._owners = {}
            for target, uris in enumerate(self._exact):
                for each in uris:
                    self._owners.setdefault(each, target)
        found = self._owners.get(uri)
        if found is None:
            found = self.template_owner(uri)
        if found is None:
            found = self._links.get(uri)
        if found is None:
            found = self._by_prefix(uri)
        if found is None:
            having = [target for target in range(len(self._exact)) if self._exact[target] or self._templates[target]]
            found = having[0] if len(having) == 1 else None
        return found

    def template_owner(self, uri: str) -> int | None:
        """The first target with a template that is this very text, or that the URI matches."""
        for target, templates in enumerate(self._templates):
            if any(text == uri or template.matches(uri) for text, template in templates):
                return target
        return None

    def _by_prefix(self, uri: str) -> int | None:
        if self._prefixes is None:
            self._prefixes = {}
            for target, uris in enumerate(self._exact):
                for each in (*uris, *(template.literal for _, template in self._templates[target])):
                    for prefix in _ancestors(each):
                        bits = self._prefixes.get(prefix, 0)
                        if bits >> target & 1:
                            break  # this prefix and so all shorter ones are entered already
                        self._prefixes[prefix] = bits | 1 << target
        for prefix in _ancestors(uri):
            bits = self._prefixes.get(prefix, 0)
            if bits:
                return bits.bit_length() - 1 if bits & (bits - 1) == 0 else None
        return None
