"""What a configuration adds to the access log and takes off it: fields computed by expressions, a filter, names to remove.

Rules:
- an expression is compiled once; a field whose expression has no value, or only null, is left out, never the request and never the line;
- fields that depend on nothing but the identity are computed once per identity and kept with it;
- a filter that is false leaves the line out, and so does one about a tool, prompt, resource or task when the request named none of it; a filter
  that cannot be evaluated for another reason keeps the line: what should be seen is not lost by accident;
- header fields that hold credentials are shown as `<redacted>`; a query that may hold one is not shown at all;
- a field is at most MAX_VALUE long, those of a line together MAX_ADDED; what is too long is cut when it is text, else left out.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson

from agw._fast.logview import LogView, view
from agw.runtime.plan import AccessLogPlan
from agw.security import cel
from agw.security.cel import EvaluationError, Expression
from agw.security.cel_names import KINDS
from agw.security.contract import McpFacts
from agw.security.facts import Facts

if TYPE_CHECKING:
    from agw._fast.exchange import Exchange
    from agw._fast.gate import Identity

log = logging.getLogger(__name__)

MAX_VALUE: Final = 1024
"""Characters of text, or of other values as JSON."""
MAX_ADDED: Final = 8192
"""Octets of all fields of a line."""
REDACTED: Final = "<redacted>"
HIDDEN: Final = frozenset(
    (b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key", b"x-auth-token", b"mcp-session-id")
)
"""Header fields that hold credentials wherever they appear."""
OWN: Final = frozenset((
    "scope", "gateway", "listener", "route_rule", "route", "endpoint", "src.addr", "http.method", "http.host", "http.path", "http.version", "http.status",
    "protocol", "mcp.method.name", "mcp.target", "gen_ai.tool.name", "gen_ai.prompt.name", "mcp.resource.uri", "mcp.resource.type", "mcp.error.code",
    "mcp.tool.is_error", "mcp.era", "mcp.protocol.version", "mcp.session.id", "mcp.fanout", "jwt.sub", "jwt.client_id", "basicAuth.username",
    "apiKey.name", "source.spiffeId", "source.subject", "retry.attempt", "error", "reason", "duration",
))  # fmt: skip
"""Fields a line may have without being asked; `time` stands first and always."""

_LOOKS = frozenset(("head", "headers", "session", "arguments", "response"))
_THINGS = tuple(f"mcp.{kind}" for kind in KINDS)


class LogDetails:
    """`AccessLog.details` for one configuration. `looks` and `shape` are the log's other two settings."""

    def __init__(self, plan: AccessLogPlan) -> None:
        made = [(_member(name), cel.compile(text, "log")) for name, text in plan.add.items()]
        self._lasting = [item for item in made if item[1].needs <= {"identity"}]
        self._fresh = [item for item in made if not item[1].needs <= {"identity"}]
        self._filter = cel.compile(plan.filter, "log") if plan.filter else None
        asked = [expression for _, expression in self._fresh] + ([self._filter] if self._filter is not None else [])
        self._asks = bool(asked)
        self._names, self._members = cel.merged(asked)
        self.looks = any(expression.needs & _LOOKS for expression in asked)
        taken_off = frozenset(plan.remove) | (OWN & plan.add.keys())
        self.shape: Callable[[bytes], bytes] | None = _without(taken_off - {"time"}) if taken_off - {"time"} else None
        self._lasting_names = cel.merged(expression for _, expression in self._lasting)
        self._nobody = self._made({})

    def __call__(self, who: Identity | None, exchange: Exchange) -> bytes | None:
        """The members of a line, each after a comma; None: there is to be no line. Never raises."""
        try:
            if not self._asks:
                return self._of(who)
            seen = view(exchange)
            bound = cel.activation("log", _facts(seen, who).data(self._names, self._members))
            if self._filter is not None and _left_out(self._filter.value(bound)):
                return None
            lasting = self._of(who)
            return lasting + _joined(self._fresh, bound, MAX_ADDED - len(lasting))
        except Exception:
            log.exception("fields of the access log")
            return b""

    def _of(self, who: Identity | None) -> bytes:
        """The lasting fields."""
        if who is None:
            return self._nobody
        kept = who.extra.get("log")
        if kept is None or kept[0] is not self:
            kept = who.extra["log"] = (self, self._made(who.claims))
        fields: bytes = kept[1]
        return fields

    def _made(self, claims: dict[str, Any]) -> bytes:
        return _joined(self._lasting, cel.activation("log", Facts(None, claims).data(*self._lasting_names)), MAX_ADDED)


def _left_out(result: Any) -> bool:
    return result.missing.startswith(_THINGS) if isinstance(result, EvaluationError) else result is False


def _facts(seen: LogView, who: Identity | None) -> Facts:
    """What expressions know of a finished request."""
    hidden = HIDDEN | frozenset(seen.credentials)
    name = seen.name
    if seen.target:
        for separator in ("_", "+"):
            name = name.removeprefix(seen.target + separator)
    mcp = McpFacts(seen.rpc, seen.kind, seen.target, name, seen.name, "", _arguments(seen.params)) if seen.rpc else None
    extra: dict[str, Any] = {"response.code": seen.status, "response.headers": _answer(seen.answer, hidden)}
    if seen.backend:
        extra["backend"] = {"name": seen.backend, "protocol": seen.protocol}
    return Facts(_Shown(seen, hidden), who.claims if who is not None else None, mcp, extra=extra, started=seen.started_ns / 1e9)


class _Shown:
    """The head of a request without credentials (`contract.Request`)."""

    def __init__(self, seen: LogView, hidden: frozenset[bytes]) -> None:
        self.method = seen.method
        self.path = seen.path
        self.query = None if seen.elsewhere else seen.query
        self.headers = [(name, REDACTED.encode() if name in hidden else value) for name, value in seen.headers]
        self.peer = seen.peer
        self.secure = seen.secure
        self.certificate: bytes | None = None
        self.hopped = seen.hopped
        self.labels = seen.labels

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
        return [value for key, value in self.headers if key == name]


def _answer(fields: list[tuple[bytes, bytes]], hidden: frozenset[bytes]) -> dict[str, str]:
    out: dict[str, str] = {}
    for name, value in fields:
        key = name.decode("latin-1")
        text = REDACTED if name in hidden else value.decode("latin-1")
        out[key] = f"{out[key]}, {text}" if key in out else text
    return out


def _arguments(params: bytes | None) -> bytes | None:
    """The arguments within the parameters of a call, JSON. `{}` when there are none."""
    if not params or len(params) > 65_536:
        return None
    try:
        found = json.loads(params)
    except (ValueError, RecursionError):
        return None
    arguments = found.get("arguments") if isinstance(found, dict) else None
    return None if arguments is None else json.dumps(arguments).encode()


def _member(name: str) -> bytes:
    return b"," + json.dumps(name).replace("\x7f", "\\u007f").encode() + b":"


def _joined(fields: list[tuple[bytes, Expression]], bound: cel.Bound, room: int) -> bytes:
    """The members that have a value, as long as there is room."""
    parts: list[bytes] = []
    for name, expression in fields:
        value = _written(expression.value(bound))
        room -= len(name) + len(value)
        if value and room >= 0:
            parts.append(name + value)
    return b"".join(parts)


def _written(value: Any) -> bytes:
    """A value as JSON, in ASCII; b"" for what is left out."""
    if value is None or isinstance(value, EvaluationError):
        return b""
    if isinstance(value, datetime):
        value = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    elif isinstance(value, timedelta):
        value = f"{value.total_seconds():.6f}s"
    elif isinstance(value, (bytes, bytearray)):
        value = bytes(value).hex()
    if isinstance(value, str):
        value = value[:MAX_VALUE]
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"), default=str)
    except (ValueError, RecursionError):
        return b""
    if not isinstance(value, str) and len(text) > MAX_VALUE:
        return b""
    return text.replace("\x7f", "\\u007f").encode("ascii")


def _without(names: frozenset[str]) -> Callable[[bytes], bytes]:
    """Takes members off a line that lacks its closing brace."""

    def shape(line: bytes) -> bytes:
        found = orjson.loads(line + b"}")
        return orjson.dumps({name: value for name, value in found.items() if name not in names})[:-1].replace(b"\x7f", b"\\u007f")

    return shape
