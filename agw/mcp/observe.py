"""What is told about a request besides its answer: counters by target and tool, and fields of the access log.

Rules:
- a request that is being served has one Observation; whatever works for it finds it through the context of its task, so
  that nobody has to pass it on. Work for nobody (sweeps, streams of changes) has none, and nothing is told;
- a tool's name becomes a label only after its target has answered for it, or has listed it: callers choose names;
- nothing here fails a request, and nothing is remembered beyond it.

Source: reference section 2.9; `_fast.outcome` for the classes of errors.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING

import orjson

from agw._fast.arena import Slot
from agw._fast.call import Call
from agw._fast.methods import RPC_METHODS
from agw._fast.outcome import UPSTREAM_OUTCOMES, classify
from agw.mcp.transport import TransportError

if TYPE_CHECKING:
    from agw.mcp.target import Target

METHOD_NUMBERS = {name: number for number, (name, _) in enumerate(RPC_METHODS)}
OUTCOME_NUMBERS = {name: number for number, name in enumerate(UPSTREAM_OUTCOMES)}
SILENT = frozenset({"subscriptions/listen"})
"""Methods whose answer says how long somebody listened, not how long a target took."""
FANOUT_BYTES = 4096
"""Octets of timings in one record of the access log."""


class Observation:
    """One served request. `label` is the number of its target in the counters, `tool` that of its tool (0: none yet)."""

    __slots__ = ("_name", "_said", "_target", "call", "label", "slot", "timings", "tool")

    def __init__(self, call: Call, slot: Slot, label: int) -> None:
        self.call = call
        self.slot = slot
        self.label = label
        self.tool = 0
        self.timings: dict[str, float | str] = {}
        self._target: Target | None = None
        self._name = b""
        self._said = False

    def routed(self, target: Target, tool: str | None) -> None:
        """The target, and its own name of the tool that is called."""
        self.label = target.label
        self._target = target
        self.call.note(target.label, target.name.encode())
        if tool is not None:
            self._name = tool.encode("utf-8", "replace")
            self.tool = self.slot.find_tool(target.label, self._name)
            self.call.note_tool(self.tool)

    def exists(self) -> None:
        """There is such a tool: it may have a label."""
        if self._name and not self.tool:
            self.tool = self.slot.learn_tool(self.label, self._name)
            self.call.note_tool(self.tool)

    def answered(self, result: bytes) -> None:
        """The target's result."""
        if self._name and not self.tool:
            outcome, _, unknown = classify(result, True)
            if outcome <= 1 and not unknown:
                self.exists()

    def timed(self, target: str, taken: float | str) -> None:
        """What a target took: milliseconds, added up, or the word for why there was no answer."""
        before = self.timings.get(target)
        self.timings[target] = before + taken if isinstance(before, float) and isinstance(taken, float) else taken

    def conclude(self) -> None:
        """The answer is about to go out: the record gets what is known now. Once."""
        if not self._said and len(self.timings) > 1 and self.call.logged:
            self.call.note_fields(fanout(self.timings))
        self._said = True


def fanout(timings: dict[str, float | str]) -> bytes:
    """The field of the access log, as many targets as fit."""
    parts: list[bytes] = []
    room = FANOUT_BYTES
    for name, taken in timings.items():
        part = orjson.dumps(name) + b":" + orjson.dumps(round(taken, 3) if isinstance(taken, float) else taken)
        room -= len(part) + 1
        if room < 0:
            break
        parts.append(part)
    return b',"mcp.fanout":{%b}' % b",".join(parts)


def session_fields(uuid: bytes, version: str) -> bytes:
    """What the access log says of a session's requests: the beginning of its uuid, never its id. An empty uuid: there is no session."""
    ident = b"" if not any(uuid) else b',"mcp.session.id":"%b"' % uuid[:4].hex().encode()
    return ident + b',"mcp.era":"legacy","mcp.protocol.version":' + orjson.dumps(version)


def modern_fields(version: str) -> bytes:
    """The same for a modern request."""
    return b',"mcp.era":"modern","mcp.protocol.version":' + orjson.dumps(version)


_current: ContextVar[Observation | None] = ContextVar("observation", default=None)


def begin(observation: Observation) -> None:
    """The task that runs now, and what it starts, works for this request."""
    _current.set(observation)


def current() -> Observation | None:
    """The request that is worked for."""
    return _current.get()


def mark(target: str, word: str) -> None:
    """A target's part was not waited for, or failed: say why, unless its transport has."""
    found = _current.get()
    if found is not None and found.timings.get(target, "cancelled") == "cancelled":
        found.timed(target, word)


class Timing:
    """Around one request to a target: from sending to the response. `reply` is set to the response message.

    `patience`: the time-out around it, to tell one that was not answered in time from one that was given up.
    """

    __slots__ = ("_began", "_method", "_patience", "_target", "reply")

    def __init__(self, target: Target, method: str, patience: asyncio.Timeout | None = None) -> None:
        self._target = target
        self._method = method
        self._patience = patience
        self._began = 0
        self.reply = b""

    def __enter__(self) -> Timing:
        self._began = time.perf_counter_ns()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        taken = time.perf_counter_ns() - self._began
        if error is None:
            outcome = "error" if classify(self.reply, False)[0] else "ok"
        elif isinstance(error, TransportError):
            if error.kind == "credential":
                # Nothing was sent.
                return
            outcome = error.kind
        elif isinstance(error, asyncio.CancelledError):
            outcome = "timeout" if self._patience is not None and self._patience.expired() else "cancelled"
        else:
            return
        target = self._target
        target.seen(outcome)
        if self._method in SILENT:
            return
        if target.slot is not None:
            target.slot.observe_upstream(target.label, METHOD_NUMBERS.get(self._method, 0), OUTCOME_NUMBERS[outcome], taken)
        found = _current.get()
        if found is not None:
            found.timed(target.name, taken / 1e6 if outcome in ("ok", "error") else outcome)
