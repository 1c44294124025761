"""Which header fields of a caller reach a target: one list, for both ways a request may go there.

Rules:
- what frames the message, belongs to the connection, or is the gateway's own to say never passes;
- what proves who the caller is to the gateway (Authorization, Cookie) is not a target's business, unless the target's
  `forwardHeaders` says so, or the backend is one target behind an open gateway: then the gateway is a pipe and
  Authorization is meant for the target. A header in which a route's policies look for credentials is never a target's;
- everything else passes as it came, in its order.

Source: RFC 9110 section 7.6.1; MCP 2026-07-28, "Security Best Practices" (token passthrough); reference section 2.8, trap 21.
"""

from __future__ import annotations

from functools import lru_cache

from agw._fast.policy import Choice, HeaderEdits, header_line
from agw.mcp.target import Target, header_lines
from agw.mcp.transport import Headers

OWN = (
    "host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer",
    "upgrade", "expect", "http2-settings", "proxy-authorization", "accept", "accept-encoding", "origin", "referer", "forwarded", "last-event-id",
    "mcp-session-id", "mcp-protocol-version", "mcp-method", "mcp-name", "agw-hop", "agw-peer", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
)
CREDENTIALS = ("authorization", "cookie")

_own = frozenset(name.encode() for name in OWN)
_credentials = frozenset(name.encode() for name in CREDENTIALS)

# On the compiled path the body, its framing and its media types stay as they are, and the version was compared.
_RELAY = ("mcp-session-id", "mcp-name", "origin", "referer", "accept-encoding", "last-event-id")
_answer = HeaderEdits((
    "mcp-session-id", "set-cookie", "www-authenticate", "access-control-allow-origin", "access-control-allow-credentials",
    "access-control-expose-headers", "alt-svc", "strict-transport-security", "clear-site-data"), [], [])
"""What a target says of itself as an origin; answers of the service have none of it either."""


def passing(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The caller's fields that may go to a target, credentials included: see `for_target`."""
    return [(name, value) for name, value in headers if name not in _own and not name.startswith(b"mcp-param-")]


def withheld(target: Target, *, pipe: bool) -> frozenset[bytes]:
    """The credentials this target does not get."""
    listed = {name.encode() for name in target.plan.forward_headers}
    return frozenset(name for name in _credentials if name not in listed and not (pipe and name == b"authorization"))


def for_target(target: Target, headers: Headers, *, pipe: bool) -> Headers:
    """What `passing` left, without the credentials this target does not get, and without what the plan sets or removes."""
    kept_back = withheld(target, pipe=pipe)
    if target.plan.headers is not None:
        ops = target.plan.headers
        kept_back |= {name.lower().encode() for name in (*ops.remove, *(name for name, _ in ops.set))}
    return [(name, value) for name, value in headers if name not in kept_back]


@lru_cache(maxsize=256)
def _relay_edits(kept_back: frozenset[bytes]) -> HeaderEdits:
    """Shared by all sessions: only the lines differ."""
    return HeaderEdits((*_RELAY, *sorted(name.decode("latin-1") for name in kept_back)), [], [])


def relay_choice(target: Target, more: Headers, *, pipe: bool, credentials: frozenset[bytes] = frozenset()) -> Choice:
    """A request goes to `target` on the compiled path, with these fields more and without those that are `credentials` for the gateway."""
    assert target.cluster is not None
    plan = target.cluster.plan
    auth = target.auth
    constant = None if auth is None else auth.presenting.constant
    fixed = constant is not None and not constant.query and not constant.cookie
    fields = [*header_lines(target.plan.headers), *more]
    lines = b"".join(header_line(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)
    kept_back = withheld(target, pipe=pipe) | credentials
    if target.plan.headers is not None:
        kept_back |= {name.lower().encode() for name in (*target.plan.headers.remove, *(name for name, _ in target.plan.headers.set))}
    bare = None
    if auth is not None:
        # What everybody's requests get is put in here, once; the rest is asked for with each.
        kept_back |= auth.places.headers
        lines = b"".join(line + b"\r\n" for line in lines.split(b"\r\n")[:-1] if line.partition(b":")[0].lower() not in auth.places.headers)
        lines += constant.lines if constant is not None and fixed else b""
        bare = (frozenset[bytes](), auth.places.cookies) if auth.places.queries or auth.places.cookies else None
    edits = _relay_edits(kept_back)
    return Choice(
        target.cluster, 1, request_edits=edits.derived(lines), response_edits=_answer, host=plan.authority.encode() or b"localhost", host_mode=0,
        host_part=None, path=plan.path.encode() or b"/", path_prefix=None, redirect=None,
        response_timeout_ns=target.plan.method_timeouts.get("tools/call", target.plan.timeout_ns), target=target.index,
        auth=None if fixed else auth, bare=bare)
