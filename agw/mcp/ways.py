"""What the compiled path may do without the service: filled in here, as the service learns it.

Rules:
- nothing is entered before the service has done the same thing once itself;
- only targets over HTTP, in an era they speak, in sessions whose upstream id is known;
- what may have changed (a session opened anew, lists, a reload) is taken out first and learned again.

See `_fast.calls`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from agw._fast.calls import CallSession, CallTable
from agw.mcp.headers import relay_choice
from agw.mcp.peer import LegacyPeer
from agw.mcp.target import Target
from agw.runtime.endpoint import McpEndpoint

if TYPE_CHECKING:
    from agw.mcp.legacy_session import LegacySession
    from agw.mcp.view import View


class Ways:
    """The call table of one service."""

    def __init__(self, view: View, guarded: bool) -> None:
        self.view = view
        self.pipe = view.is_plain
        self.table = CallTable(len(view.targets), view.is_plain, guarded, not view.is_plain)
        self.lend(view.endpoint)

    def lend(self, endpoint: McpEndpoint) -> None:
        """Let the routes of a snapshot use the table."""
        for choice in endpoint.choices:
            choice.set_table(self.table)

    def open(self, session: LegacySession) -> None:
        """A session exists; its targets are entered as they are used."""
        if session.view is self.view:
            logs = session.log_fields if self.view.service.host.context.log.enabled else b""
            self.table.sessions[session.token] = CallSession([None] * len(self.view.targets), _raw(session.hello.version), logs, session.principal)

    def close(self, token: bytes) -> None:
        """The session is over, or nobody knows any more what its upstream sessions are."""
        self.table.sessions.pop(token, None)

    def last_used(self, token: bytes) -> float:
        """When the compiled path last served the session, monotonic seconds; 0 for never."""
        known = self.table.sessions.get(token)
        return 0.0 if known is None else known.used_ns / 1e9

    def is_under_way(self, token: bytes, ident: bytes) -> bool:
        """Is a request with this id under way there?"""
        known = self.table.sessions.get(token)
        return known is not None and ident in known.flights

    def give_up(self, token: bytes, ident: bytes) -> int | None:
        """End a request under way there without a response; the number of its target, None when it is not there."""
        known = self.table.sessions.get(token)
        flight = None if known is None else known.flights.get(ident)
        return None if flight is None else flight.give_up()

    def used_session(self, session: LegacySession, peer: LegacyPeer) -> None:
        """A call went through this peer of the session: the next one may go without us."""
        target = peer.target
        known = self.table.sessions.get(session.token)
        if known is None or target.plan.kind != "http" or known.choices[target.index] is not None or not peer.is_open:
            return
        more = [] if peer.sid is None else [(b"mcp-session-id", peer.sid)]
        known.choices[target.index] = relay_choice(target, more, pipe=self.pipe, credentials=self.view.endpoint.credentials)

    def lost(self, session: LegacySession, target: Target) -> None:
        """The upstream session was opened anew."""
        known = self.table.sessions.get(session.token)
        if known is not None:
            known.choices[target.index] = None

    def used_modern(self, target: Target) -> None:
        """A modern call went to the target."""
        if self.view.service.virtual:
            # Modern requests do not say which view they are for but by their path, which the table does not know.
            return
        if target.plan.kind == "http" and self.table.modern[target.index] is None:
            self.table.modern[target.index] = relay_choice(target, (), pipe=self.pipe, credentials=self.view.endpoint.credentials)

    def forget_modern(self, target: Target) -> None:
        """The target may not speak the modern era any more."""
        self.table.modern[target.index] = None

    def learn_tool(self, view: View, public: str, target: Target, own: str, *, modern: bool) -> None:
        """A tool's name leads there. Names that JSON would escape are left to the service."""
        if view is not self.view:
            # A virtual server has names of its own.
            return
        raw, inner = public.encode("utf-8", "surrogatepass"), own.encode("utf-8", "surrogatepass")
        if _plain(raw) and _plain(inner):
            self.table.learn_tool(raw, target.index, inner, modern)

    def forget_tools(self) -> None:
        """Lists changed: names may lead elsewhere."""
        self.table.forget_tools()


def _plain(raw: bytes) -> bool:
    return all(32 <= octet < 127 and octet not in b'"\\' for octet in raw)


@lru_cache(maxsize=16)
def _raw(version: str) -> bytes:
    # One object for all sessions: the compiled path compares it in every call.
    return version.encode()
