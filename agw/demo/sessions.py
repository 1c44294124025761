"""Sessions of the legacy protocol versions: who is connected, what runs for them, when they end. No HTTP.

Bounds: `max_sessions` at a time, MAX_CALLS calls and MAX_STREAMS open GET streams per session; a session without
request, call or stream for `idle_ns` is gone. Expired sessions are dropped when one is looked for or made, oldest
first, so no timer runs. Ids carry 128 random bits and are never taken from a client.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable

from agw.demo.jsonrpc import Id

MAX_CALLS = 32
MAX_STREAMS = 8


class Session:
    """One client's session. `calls` maps the ids of running requests to their tasks; `ended` stops its streams."""

    def __init__(self, id: str, version: str, now_ns: int) -> None:
        self.id = id
        self.version = version
        self.used_ns = now_ns
        self.calls: dict[Id, asyncio.Task[None]] = {}
        self.streams = 0
        self.ended = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """True while a call runs or a stream is open: then it does not expire."""
        return bool(self.calls or self.streams)

    def end(self) -> None:
        """Cancel what runs and close what is open."""
        self.ended.set()
        for task in list(self.calls.values()):
            task.cancel()


class SessionTable:
    """All sessions, least recently used first. `now_ns` is a monotonic clock."""

    def __init__(self, *, now_ns: Callable[[], int], max_sessions: int, idle_ns: int) -> None:
        self._now_ns = now_ns
        self._max_sessions = max_sessions
        self._idle_ns = idle_ns
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, version: str) -> Session | None:
        """A new session for a negotiated version, or None if there are too many."""
        self._expire()
        if len(self._sessions) >= self._max_sessions:
            return None
        session = Session(secrets.token_hex(16), version, self._now_ns())
        self._sessions[session.id] = session
        return session

    def find(self, id: str) -> Session | None:
        """The session, now used; None if it is unknown or expired, which look the same."""
        self._expire()
        session = self._sessions.get(id)
        if session is not None:
            self.touch(session)
        return session

    def touch(self, session: Session) -> None:
        """Restart the idle time; also called when a stream or call ends."""
        session.used_ns = self._now_ns()
        if session.id in self._sessions:
            self._sessions.move_to_end(session.id)

    def end(self, session: Session) -> None:
        """Forget the session and stop what belongs to it."""
        self._sessions.pop(session.id, None)
        session.end()

    def end_all(self) -> None:
        """Forget all sessions."""
        for session in list(self._sessions.values()):
            self.end(session)

    def _expire(self) -> None:
        now_ns = self._now_ns()
        while self._sessions:
            session = next(iter(self._sessions.values()))
            if now_ns - session.used_ns < self._idle_ns:
                return
            if session.is_busy:
                self.touch(session)
            else:
                self.end(session)
