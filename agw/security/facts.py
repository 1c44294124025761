"""What expressions may know of a request or message, made only as far as they ask.

Rules:
- a value that is not known is left out: to name it is an evaluation error, `has()` of it is false;
- what a tool's target says of it (`annotations`) is known where the tool was listed, in lists and calls alike; a tool without any has `{}`;
- values are made anew for every decision from what the request, the identity and the message say; the arguments of a tool are parsed only for
  an expression that looks at them, and refused (left out) when they are too large, too deep, or name a member twice;
- text of a head is read octet by octet (Latin-1), the path as UTF-8; repeated headers are joined by commas (RFC 9110 section 5.3);
- addresses, claims and names come from the gateway, never from headers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from agw.security.cel_functions import safe, strict_json
from agw.security.cel_names import ENVIRONMENT, KINDS
from agw.security.contract import McpFacts, Request

ADDRESS = frozenset(("source.address", "source.rawAddress"))
"""Variables that a gate which tells addresses apart shows again."""

_MISSING: Any = object()
_CLAIMS = ("jwt", "apiKey", "extauthz")
_LABELS = {"proxy.bind": 0, "proxy.gateway": 1, "proxy.listener": 2, "proxy.route": 3}
_HIDDEN = frozenset(("mcp.methodName", "mcp.tool.arguments"))
_ENVIRONMENT = {name: os.environ.get(key, "") for name, key in ENVIRONMENT.items()}


class Facts:
    """The facts of one decision.

    `claims` are the roots an identity has (`Found.claims`); `listing` hides what is not known while a list is filtered: the method and the
    arguments of a call to come. `extra` are variables by name that are known otherwise (`source.port`, `response.*`).
    """

    __slots__ = ("_now", "claims", "extra", "listing", "mcp", "request", "started")

    def __init__(
        self,
        request: Request | None = None,
        claims: Mapping[str, Any] | None = None,
        mcp: McpFacts | None = None,
        *,
        listing: bool = False,
        extra: Mapping[str, Any] | None = None,
        started: float = 0.0,
    ) -> None:
        """`started` is when the request came, in seconds of time.time(); 0 is now."""
        self.request = request
        self.claims: Mapping[str, Any] = claims or {}
        self.mcp = mcp
        self.listing = listing
        self.extra: Mapping[str, Any] = extra or {}
        self.started = started
        self._now: datetime | None = None

    @property
    def now(self) -> datetime:
        """The time of the decision, the same for all of its expressions."""
        if self._now is None:
            self._now = datetime.now(UTC)
        return self._now

    def data(self, names: Iterable[str], members: Mapping[str, frozenset[str] | None]) -> dict[str, Any]:
        """Values by variable; see `cel.Values`. Never raises."""
        out: dict[str, Any] = {}
        for name in names:
            try:
                value = self._presence(name[4:]) if name.startswith("has_") else self._value(name, members.get(name))
            except (ValueError, TypeError, KeyError, AttributeError):
                continue
            if value is not _MISSING and not (type(value) is str and "\0" in value):  # see `safe`
                out[name] = value
        return out

    def _presence(self, name: str) -> Any:
        if self.listing and name in _HIDDEN:
            return _MISSING
        if name in ("jwt", "apiKey", "extauthz", "basicAuth"):
            return bool(self.claims.get(name))
        parts = name.split(".")
        if parts[0] == "mcp" and len(parts) == 2 and parts[1] in KINDS:
            return self.mcp is not None and self.mcp.kind == parts[1]
        if name in ("request", "proxy", "env", "source", "source.identity", "mcp", "response"):
            if name == "source.identity":
                return self._presence("source.identity.trustDomain")
            return {"request": self.request, "mcp": self.mcp, "proxy": getattr(self.request, "labels", None)}.get(name, name) is not None
        try:
            return self._value(name, frozenset()) not in (_MISSING, "")
        except (KeyError, AttributeError):
            return False
        except ValueError:
            if name.startswith("source."):
                return False
            raise  # something is there, but no expression can use it

    def _value(self, name: str, wanted: frozenset[str] | None) -> Any:
        if self.extra and name in self.extra:
            return _narrowed(self.extra[name], wanted)
        if name in _CLAIMS:
            return _narrowed(self.claims.get(name) or {}, wanted)
        root, _, rest = name.partition(".")
        if root == "mcp":
            return self._mcp(rest, wanted)
        if root == "request":
            return self._request(rest, wanted)
        if root == "source":
            return self._source(rest)
        if name == "basicAuth.username":
            return safe(self.claims["basicAuth"]["username"])
        if name == "now":
            return self.now
        if root == "env":
            return _ENVIRONMENT[name]
        if root == "proxy":
            return getattr(self.request, "labels")[_LABELS[name]]  # noqa: B009 - only requests of the data path have labels
        return _MISSING

    def _mcp(self, name: str, wanted: frozenset[str] | None) -> Any:
        mcp = self.mcp
        if mcp is None:
            return _MISSING
        kind, _, field = name.partition(".")
        if field == "name":
            return safe(mcp.name) if kind == mcp.kind else _MISSING
        if name == "methodName":
            return _MISSING if self.listing else safe(mcp.method)
        if name == "sessionId":
            return safe(mcp.session) if mcp.session else _MISSING
        if kind != mcp.kind:
            return _MISSING
        if field == "target":
            return safe(mcp.target)
        if field == "annotations":
            return _MISSING if mcp.tool is None else _only(strict_json(mcp.tool).get("annotations", {}), wanted)
        if self.listing:
            return _MISSING
        arguments = strict_json(mcp.arguments) if mcp.arguments else {}
        if arguments is None:
            arguments = {}
        return _only(arguments, wanted)

    def _source(self, name: str) -> Any:
        source = self.claims.get("source") or {}
        if name in ("address", "rawAddress"):
            return safe(source[name]) if name in source else self._peer()
        if name.startswith("identity."):
            found = source.get("identity") or _spiffe(source.get("spiffeId", ""))
            return safe(found[name[9:]])
        value = source[name]
        return safe(list(value) if name == "subjectAltNames" else str(value))

    def _peer(self) -> Any:
        return _MISSING if self.request is None else self.request.peer.decode("ascii")

    def _request(self, name: str, wanted: frozenset[str] | None) -> Any:
        request = self.request
        if request is None:
            return _MISSING
        return _REQUEST[name](self, request, wanted)


def _narrowed(value: Any, wanted: frozenset[str] | None) -> Any:
    if not isinstance(value, dict):  # claims come from JSON
        return safe(value)
    return safe(value if wanted is None else {name: value[name] for name in wanted if name in value})


def _only(value: Any, wanted: frozenset[str] | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("there is something, and no object")
    return value if wanted is None else {name: value[name] for name in wanted if name in value}


def _spiffe(uri: str) -> dict[str, str]:
    """The parts of spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT. Errors: ValueError."""
    parts = uri.removeprefix("spiffe://").split("/")
    if not uri.startswith("spiffe://") or len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
        raise ValueError("no such identity")
    return {"trustDomain": parts[0], "namespace": parts[2], "serviceAccount": parts[4]}


def shows_peer(request: Request) -> bool:
    """Does the gate tell addresses apart, so that a decision by address may be remembered?"""
    return bool(getattr(getattr(request, "gate", None), "by_peer", False))


def host(request: Request) -> str:
    """The host as the client says it, in lower case, without the port and a final dot; "" without Host."""
    value = b"".join(request.values(b"host")[:1]).decode("latin-1").lower()
    name = value[: value.find("]") + 1] if value.startswith("[") else value.partition(":")[0]
    return name.removesuffix(".")


def _path(request: Request) -> str:
    return request.path.decode("utf-8", "replace")


def _path_and_query(request: Request) -> str:
    return _path(request) + ("" if request.query is None else "?" + request.query.decode("utf-8", "replace"))


def _headers(request: Request, wanted: frozenset[str] | None) -> dict[str, str]:
    out: dict[str, str] = {}
    for raw, value in request.headers:
        name = raw.decode("latin-1")
        if wanted is None or name in wanted:
            text = value.decode("latin-1")
            out[name] = f"{out[name]}{'; ' if name == 'cookie' else ', '}{text}" if name in out else text
    return out


def _scheme(request: Request) -> str:
    return "https" if request.secure else "http"


def _uri(request: Request) -> str:
    return f"{_scheme(request)}://{b''.join(request.values(b'host')[:1]).decode('latin-1').lower()}{_path_and_query(request)}"


_REQUEST: dict[str, Callable[[Facts, Request, frozenset[str] | None], Any]] = {
    "method": lambda _, request, __: request.method,
    "path": lambda _, request, __: _path(request),
    "pathAndQuery": lambda _, request, __: _path_and_query(request),
    "host": lambda _, request, __: host(request),
    "scheme": lambda _, request, __: _scheme(request),
    "uri": lambda _, request, __: _uri(request),
    "headers": lambda _, request, wanted: _headers(request, wanted),
    "endTime": lambda facts, _, __: facts.now,
    "startTime": lambda facts, _, __: datetime.fromtimestamp(facts.started, UTC) if facts.started else facts.now,
}
