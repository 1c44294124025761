"""Parked calls: requests of modern callers that wait at a legacy target for answers of the caller.

A legacy target asks while it works; a modern caller can only be asked between two requests. So the call is left where it is,
its questions go out as `input_required` with a sealed pointer, and the retry picks the call up again.

Rules:
- the pointer is sealed and bound to principal, method and params: nobody else's retry, and no other call, finds the call;
- a parked call has a time to live; when that is over, or the worker ends, the target is told that it is cancelled;
- a retry without (all) answers gets the same questions again; progress between rounds is dropped;
- the pointer names worker and life, so that other workers pass the retry on.

Source: MCP 2026-07-28, "Multi Round-Trip Requests"; reference section 3.1.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import msgspec

from agw.mcp import errors
from agw.mcp.bridge import capabilities, rounds
from agw.mcp.ladder import has_capability
from agw.mcp.message import Members, Message
from agw.mcp.peer import LegacyPeer, Sink
from agw.mcp.seal import KeyRing
from agw.mcp.target import Target
from agw.mcp.transport import Headers
from agw.runtime.origin import Stream

if TYPE_CHECKING:
    from agw.mcp.farm import Farm, Pooled

TTL_S = 600.0
MAX_PARKED = 4096
GATHER_S = 0.02
"""How long further questions of the same moment are waited for, so that one round asks them all."""

_PURPOSE = b"mcp parked call 1"
_WRAPPED = b"mcp state 1"
_OWNED = b"mcp state of a caller 1"
MAX_STATE = 65_536


class _Pointer(msgspec.Struct, array_like=True, frozen=True):
    instance: bytes
    slot: int
    ident: bytes


class ParkingSink:
    """What a parked call's target says; forwarded to whoever waits for it at the moment."""

    def __init__(self, parked: Parked) -> None:
        self.parked = parked
        self.target: Target | None = None
        self.begun: Stream | None = None
        self.listener: Sink | None = None

    def notification(self, note: Message) -> None:
        if self.listener is not None:
            self.listener.notification(note)

    def server_request(self, peer: LegacyPeer, ask: Message) -> None:
        self.parked.asked(peer, ask)

    def gap(self, retry_ms: int | None) -> None:
        """The target's polling is dealt with by the transport."""

    def streamed(self) -> None:
        """How a legacy target frames its answer is no business of a modern caller, who wants statuses (404, 400) with errors."""


class Parked:
    """One call at a legacy target, from its start to its result."""

    def __init__(self, farm: Farm, pooled: Pooled, method: str, params: bytes | None, declared: Members, principal: bytes) -> None:
        self.farm = farm
        self.pooled = pooled
        self.method = method
        self.declared = declared
        self.principal = principal
        self.digest = rounds.digest(method, params)
        self.ident = os.urandom(16)
        self.expires = time.monotonic() + TTL_S
        self.questions: list[tuple[str, Message]] = []
        self.task: asyncio.Task[bytes] | None = None
        self._sink = ParkingSink(self)
        self._something = asyncio.Event()
        self._count = 0
        self._flight: bytes = b""

    def start(self, params: bytes | None, ident: bytes, headers: Headers, timeout_s: float | None) -> None:
        """Send the call; its outcome is awaited in steps."""
        peer = self.pooled.peer
        before = set(peer.flights)
        self.task = asyncio.get_running_loop().create_task(
            peer.request(self.method, params, ident, self._sink, headers=headers, timeout_s=timeout_s))
        self.task.add_done_callback(lambda _: self._ended(before))

    def _ended(self, before: set[bytes]) -> None:
        self.farm.give_back(self.pooled)
        self._something.set()

    def asked(self, peer: LegacyPeer, ask: Message) -> None:
        """A question of the target."""
        kind = capabilities.needed(ask.method or "", ask.params)
        if kind is None or not has_capability(kind, self.declared) or len(self.questions) >= rounds.MAX_QUESTIONS:
            asyncio.get_running_loop().create_task(peer.send(rounds.refusal(ask, declared=False)))
            return
        self._count += 1
        self.questions.append((f"q{self._count}", ask))
        self._something.set()

    def answer(self, responses: Members | None) -> None:
        """What the caller's retry brings."""
        ready, missing = rounds.answers(self.questions, responses)
        self.questions = [(key, ask) for key, ask in self.questions if key in missing]
        for raw in ready:
            asyncio.get_running_loop().create_task(self.pooled.peer.send(raw))
        if not self.questions and self.task is not None and not self.task.done():
            self._something.clear()

    async def step(self, sink: Sink | None) -> bytes | list[tuple[str, Message]]:
        """Wait for the result or for questions. Errors: those of the call."""
        assert self.task is not None
        self._sink.listener = sink
        try:
            if not self.questions:
                await self._something.wait()
            if self.task.done():
                return self.task.result()
            await asyncio.sleep(GATHER_S)
            return list(self.questions)
        finally:
            self._sink.listener = None

    async def abandon(self) -> None:
        """Nobody will ask for the result: tell the target."""
        if self.task is None or self.task.done():
            return
        peer = self.pooled.peer
        for flight in list(peer.flights.values()):
            if flight.sink is self._sink:
                await peer.cancel(flight.ident)
        self.task.cancel()


class Parking:
    """The parked calls of one worker."""

    def __init__(self, ring: KeyRing, instance: bytes, slot: int) -> None:
        self._ring = ring
        self._instance = instance
        self._slot = slot
        self._calls: dict[bytes, Parked] = {}

    def park(self, parked: Parked) -> str:
        """Keep a call; the requestState for its caller. Errors: RpcError when there are too many."""
        if len(self._calls) >= MAX_PARKED and parked.ident not in self._calls:
            raise errors.RpcError(errors.INTERNAL, "too many calls wait for their callers", status=503, reason="sessions")
        self._calls[parked.ident] = parked
        parked.expires = time.monotonic() + TTL_S
        pointer = msgspec.msgpack.encode(_Pointer(self._instance, self._slot, parked.ident))
        return self._ring.seal(_PURPOSE, pointer, parked.principal).decode("ascii")

    def _open(self, state: str, principal: bytes, purpose: bytes = _PURPOSE) -> _Pointer | None:
        if not state.isascii() or len(state) > MAX_STATE:
            return None
        payload = self._ring.open(purpose, state.encode("ascii"), principal)
        return None if payload is None else msgspec.msgpack.decode(payload, type=_Pointer)

    def __len__(self) -> int:
        return len(self._calls)

    def wrap(self, state: str, principal: bytes) -> str:
        """A state that only a process of this worker understands, naming the worker."""
        payload = msgspec.msgpack.encode(_Pointer(self._instance, self._slot, state.encode("utf-8", "surrogatepass")))
        return self._ring.seal(_WRAPPED, payload, principal).decode("ascii")

    def unwrap(self, state: str, principal: bytes) -> str | None:
        """The state in it; None for one that was not wrapped."""
        pointer = self._open(state, principal, _WRAPPED)
        return None if pointer is None else pointer.ident.decode("utf-8", "surrogatepass")

    def own(self, state: str, principal: bytes) -> str:
        """A target's state that only this caller may bring back, to whichever worker.

        Errors: RpcError for one that is too long.
        """
        try:
            return self._ring.seal(_OWNED, state.encode("utf-8", "surrogatepass"), principal).decode("ascii")
        except ValueError:
            raise errors.RpcError(errors.INTERNAL, "the target's requestState is too long", status=502, reason="upstream") from None

    def disown(self, state: str, principal: bytes) -> str | None:
        """The state in it; None for one that is not this caller's."""
        if not state.isascii() or len(state) > MAX_STATE:
            return None
        payload = self._ring.open(_OWNED, state.encode("ascii"), principal)
        return None if payload is None else payload.decode("utf-8", "surrogatepass")

    def holds(self, state: str, principal: bytes) -> bool:
        """Does it point to a call that is, or was, parked for this caller?"""
        return self._open(state, principal) is not None

    def home(self, state: str, principal: bytes) -> int | None:
        """The slot of the worker that holds the call (or the process), when it is another one of this life of the gateway."""
        pointer = self._open(state, principal) or self._open(state, principal, _WRAPPED)
        if pointer is None or pointer.instance != self._instance or pointer.slot == self._slot:
            return None
        return pointer.slot

    def claim(self, state: str, principal: bytes, method: str, params: bytes | None) -> Parked | None:
        """The call a retry belongs to, taken out; None for what is unknown, expired, or another call."""
        pointer = self._open(state, principal)
        if pointer is None or pointer.instance != self._instance:
            return None
        parked = self._calls.get(pointer.ident)
        if parked is None or parked.digest != rounds.digest(method, params) or parked.principal != principal:
            return None
        return self._calls.pop(pointer.ident)

    async def sweep(self, now: float) -> None:
        """Cancel what nobody came back for."""
        for parked in [parked for parked in self._calls.values() if parked.expires < now]:
            del self._calls[parked.ident]
            await parked.abandon()

    async def close(self) -> None:
        """The worker ends."""
        await self.sweep(float("inf"))
