"""A worker: the process that serves. Forked by the supervisor with its sockets, its slot and a compiled snapshot.

Rules:
- the loop runs control, timers and name look-ups; requests run in the reactor, which the loop polls as one descriptor;
- a new snapshot is compiled in small steps between loop turns and then swapped at once;
- draining: take what is queued, stop listening, let requests finish, close what is idle, cut at the deadline;
- the supervisor's end (of the process or of the channel) starts a drain.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Generator
from typing import TYPE_CHECKING

import msgspec
import uvloop

from agw._fast import process
from agw._fast.acceptor import Acceptor
from agw._fast.accesslog import AccessLog
from agw._fast.arena import Slot
from agw._fast.exchange import Context
from agw._fast.reactor import Reactor
from agw.runtime.compile import compile_steps
from agw.runtime.documents import Fetched
from agw.runtime.plan import AccessLogPlan, Plan
from agw.runtime.snapshot import BindKey, LabelIndex, Labels, Snapshot
from agw.shm import layout
from agw.supervisor.channel import Channel, ChannelClosed, Message
from agw.worker.hop import Hops
from agw.worker.journal import Journal
from agw.worker.logwriter import LogWriter
from agw.worker.resolver import Resolver
from agw.worker.security import WorkerSecurity

if TYPE_CHECKING:
    from agw.security.limits import Limits
    from agw.worker.mcp import McpHost

log = logging.getLogger(__name__)

TICK_S = 0.1
LEAVE_GATES_S = 30.0
STEP_BUDGET_S = 0.004
RESOLVE_S = 2.0
DEAD_NS = 2_000_000_000
"""A worker that has shown no sign of life for so long holds up nobody's drain."""
QUIET_S = 0.05
"""How long a listener whose door is shut (SYNs dropped) may still complete half-open connections."""


class Worker:
    """Everything one worker process owns."""

    def __init__(
        self, index: int, arena: layout.Arena, snapshot: Snapshot, labels: LabelIndex, listeners: dict[BindKey, int],
        hops: dict[BindKey, int], lent: frozenset[BindKey], journal: int, channel: Channel, parent: int, documents: list[Fetched],
    ) -> None:
        self.index = index
        self.workers = len(arena.slots_in_use)
        self.siblings = [slot for i, slot in enumerate(arena.slots_in_use) if i != index]
        self.lent = lent
        self.parent = parent
        self.slot = arena.slot(index)
        self.limits = arena.limits.as_worker(index) if arena.limits is not None else None
        self._books: Limits | None = None
        self.snapshot = snapshot
        self.labels = labels
        self.channel = channel
        self.loop = uvloop.new_event_loop()
        asyncio.set_event_loop(self.loop)
        plan = snapshot.plan
        self.writer = LogWriter(plan.access_log.path, self.slot) if plan.access_log.enabled else None
        self.reactor = Reactor(self.slot, self.report)
        self.reactor.wake = self.loop.call_soon
        self.context = Context(self.reactor, self.slot, AccessLog(self.writer.put if self.writer else None), int.from_bytes(os.urandom(8), "big"))
        self.resolver = Resolver(self.loop)
        self.security = WorkerSecurity(self.context, self._want, documents)
        self.acceptors: dict[BindKey, Acceptor] = {}
        self.retired: list[Acceptor] = []
        self.started = False
        self.draining = False
        self.deadline_ns = 0
        self.expected_tick = time.monotonic_ns()
        self.ticks = 0
        self.refresher: asyncio.Task[None] | None = None
        self.reloading: asyncio.Task[None] | None = None
        self.pending: tuple[Message, list[int]] | None = None
        self.mcp: McpHost | None = None
        self._adopt(snapshot, listeners)
        self.hops = Hops(self.context, plan.process.instance, index)
        self.hop_fds = hops
        self.journal = Journal(journal)

    # -------------------------------------------------------------------------------------------- life

    def run(self) -> int:
        """Serve until drained or stopped; returns the exit code."""
        self.slot.set(layout.W_GENERATION, self.snapshot.generation)
        self.loop.add_reader(self.reactor.fileno(), self.reactor.on_readable)
        self.loop.add_reader(self.channel.fileno(), self._on_channel)
        self.loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        self._tick()
        self.loop.run_until_complete(self._start())
        gc.collect()
        gc.freeze()
        self.loop.run_forever()
        if self.mcp is not None:
            self.loop.run_until_complete(self.mcp.close())
        self.loop.run_until_complete(self.security.close())
        if self.writer is not None:
            self.context.log.flush()
            self.writer.close()
        return 0

    async def _start(self) -> None:
        await self.resolver.prepare(self.snapshot.clusters.values(), RESOLVE_S)
        self._equip(self.snapshot)
        self._adopt_mcp(self.snapshot)
        for acceptor in self.acceptors.values():
            acceptor.start()
        self.hops.adopt(self.snapshot.binds, self.hop_fds)
        self._keep_fresh()
        self.started = True
        self._take_pending()
        self.slot.set(layout.W_STATE, layout.READY)
        self._say(Message("ready", generation=self.snapshot.generation))

    def report(self, error: BaseException) -> None:
        """The error boundary of the data path: counted there, told here."""
        log.error("internal error in an exchange; its connection was closed", exc_info=error)

    def _say(self, message: Message) -> None:
        try:
            self.channel.send(message)
        except ChannelClosed:
            self._orphaned()

    def _want(self, url: str) -> None:
        self._say(Message("want", text=url))

    def _tick(self) -> None:
        now = time.monotonic_ns()
        self.slot.set(layout.W_HEARTBEAT, now)
        self.slot.set_lag(max(0, now - self.expected_tick))
        self.reactor.tick()
        self.ticks += 1
        if self.ticks % 5 == 0:
            self.context.refresh_date()
            self.context.trim()
            if self.writer is not None:
                self.context.log.flush()
            for acceptor in self.acceptors.values():
                if acceptor.paused:
                    acceptor.set_paused(False)
        for cluster in self.snapshot.clusters.values():
            if cluster.waiting_count():
                cluster.expire_waiters()
            if cluster.tls is not None and (problem := cluster.take_problem()):
                log.warning("no TLS connection to a backend", extra={"backend": cluster.plan.name, "problem": problem})
        if self.mcp is not None:
            self.mcp.tick()
        self.retired = [a for a in self.retired if a.connection_count()]
        self.hops.tick()
        if self.draining and self._drained(now):
            return
        self.expected_tick = time.monotonic_ns() + int(TICK_S * 1e9)
        self.loop.call_later(TICK_S, self._tick)

    # -------------------------------------------------------------------------------------------- control

    def _on_channel(self) -> None:
        try:
            messages = self.channel.receive()
        except ChannelClosed:
            self._orphaned()
            return
        for message, fds in messages:
            if message.op == "config":
                self.pending = (message, fds)
                self._take_pending()
            elif message.op == "fetched":
                self.security.documents.take(msgspec.msgpack.decode(message.payload, type=Fetched))
            elif message.op == "drain":
                self.drain(message.number)
            elif message.op == "stop":
                os._exit(0)
            elif message.op == "reopen" and self.writer is not None:
                self.context.log.flush()
                self.writer.reopen()
            elif message.op == "level":
                logging.getLogger("agw").setLevel(message.text.upper())

    def _on_sigterm(self) -> None:
        """The kernel sends it when the supervisor died. A worker alone does not stop: its share of the connections
        would wait in its queue meanwhile."""
        if os.getppid() == self.parent:
            log.warning("SIGTERM for a worker has no effect; send it to the supervisor", extra={"worker": self.index, "supervisor": self.parent})
        else:
            self._orphaned()

    def _orphaned(self) -> None:
        """The supervisor is gone: stop listening, finish, leave."""
        if not self.draining:
            self.loop.remove_reader(self.channel.fileno())
            for key, acceptor in self.acceptors.items():
                if key not in self.lent:
                    acceptor.shut_door()
            self.drain(time.monotonic_ns() + self.snapshot.plan.process.drain_ns)

    # -------------------------------------------------------------------------------------------- reload

    def _take_pending(self) -> None:
        if self.started and self.reloading is None and self.pending is not None:
            self.reloading = self.loop.create_task(self._reload())

    async def _reload(self) -> None:
        while self.pending is not None:
            message, fds = self.pending
            self.pending = None
            try:
                await self._apply(message, fds)
            except Exception as error:
                log.exception("reload failed")
                self._say(Message("failed", generation=message.generation, text=str(error)))
        self.reloading = None

    async def _apply(self, message: Message, fds: list[int]) -> None:
        if len(fds) < 2 * len(message.binds):
            # The kernel drops what does not fit into the table of descriptors.
            self._say(Message("failed", generation=message.generation, text="no descriptors left for the new listeners"))
            return
        gc.disable()
        plan = msgspec.msgpack.decode(message.payload, type=Plan)
        self.labels = LabelIndex(msgspec.msgpack.decode(message.labels, type=Labels))
        await asyncio.sleep(0)
        snapshot = await self._in_steps(compile_steps(plan, message.generation, self.labels, self.snapshot))
        for cluster in snapshot.clusters.values():
            cluster.attach(self.reactor)
        await self.resolver.prepare(snapshot.clusters.values(), RESOLVE_S)
        if self.draining:
            # Too late for new listeners and routes; what runs goes on as it began.
            for fd in fds:
                os.close(fd)
            return
        old = self.snapshot
        self.snapshot = snapshot
        self._equip(snapshot)
        self._adopt_mcp(snapshot)
        keys = [BindKey(*where) for where in message.binds]
        opened = dict(zip(keys, fds, strict=False))
        self._adopt(snapshot, opened)
        self.hops.adopt(snapshot.binds, dict(zip(keys, fds[len(keys) :], strict=True)))
        for key in opened:
            self.acceptors[key].start()
        for name, gate in old.gates.items():
            if name not in snapshot.gates:
                # Whoever waits at it has been answered by then (keeper.WAIT_S).
                self.loop.call_later(LEAVE_GATES_S, gate.keeper.close)
        for identity, cluster in old.clusters.items():
            if identity not in snapshot.clusters:
                cluster.retire()
        self._keep_fresh()
        if self.writer is not None and snapshot.plan.access_log.path != old.plan.access_log.path:
            self.context.log.flush()
            self.writer.reopen(snapshot.plan.access_log.path)
        self.slot.set(layout.W_GENERATION, snapshot.generation)
        self._say(Message("applied", generation=snapshot.generation))
        gc.freeze()
        gc.enable()

    async def _in_steps(self, steps: Generator[None, None, Snapshot]) -> Snapshot:
        """Run a compile without ever holding the loop for longer than a few milliseconds."""
        until = time.monotonic() + STEP_BUDGET_S
        while True:
            try:
                next(steps)
            except StopIteration as done:
                snapshot: Snapshot = done.value
                return snapshot
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + STEP_BUDGET_S

    def _adopt(self, snapshot: Snapshot, opened: dict[BindKey, int]) -> None:
        """Point acceptors at the snapshot's binds; those without one retire."""
        for cluster in snapshot.clusters.values():
            cluster.attach(self.reactor)
            cluster.revive()
        for key, bind in snapshot.binds.items():
            self.context.adopt(bind.http)
            acceptor = self.acceptors.get(key)
            if acceptor is not None:
                acceptor.switch(bind)
            elif key in opened:
                self.acceptors[key] = Acceptor(self.context, opened[key], bind)
        for key in [k for k in self.acceptors if k not in snapshot.binds]:
            acceptor = self.acceptors.pop(key)
            acceptor.set_paused(False)
            acceptor.take_waiting()
            acceptor.stop_accepting()
            acceptor.drain()
            self.retired.append(acceptor)

    def _equip(self, snapshot: Snapshot) -> None:
        """Give the gates and credentials of a snapshot whom they ask; nothing of it has been requested yet."""
        self._detail(snapshot.plan.access_log)
        self.context.admits = None if snapshot.plan.network_rules is None else self.security.network(snapshot.plan.network_rules)
        new = [gate for gate in snapshot.gates.values() if gate.keeper is None]
        host = self.security.attach(snapshot)
        if new:
            from agw.security.keeper import Keeper

            for gate in new:
                gate.keeper = Keeper(gate, gate.plan, host, self._limits_for(snapshot))
        unattached = [auth for auth in snapshot.auths.values() if auth.presenting is None]
        if unattached:
            from agw.security.upstream.presenting import Presenting

            for auth in unattached:
                auth.presenting = Presenting(auth.plan, host)
        if self._books is not None:
            self._books.keep_only(limit for gate in snapshot.gates.values() for limit in gate.plan.limits)

    def _detail(self, plan: AccessLogPlan) -> None:
        """What the access log has besides the usual."""
        found = None
        if plan.add or plan.filter or plan.remove:
            from agw.security.log_details import LogDetails

            found = LogDetails(plan)
        access = self.context.log
        access.details, access.shape, access.looks = found, found.shape if found is not None else None, found is not None and found.looks

    def _limits_for(self, snapshot: Snapshot) -> Limits | None:
        """What the limits of this worker are kept in; made with the first limit."""
        if self._books is None and self.limits is not None and any(gate.plan.limits for gate in snapshot.gates.values()):
            from agw.security import cel
            from agw.security.limits import Limits

            store = None
            if snapshot.plan.rate_store.kind == "redis":
                from agw.security.redis_store import RedisStore

                store = RedisStore(snapshot.plan.rate_store)
                self.security.spawn(store.run())
            self._books = Limits(self.limits, cel.compile, None if store is None else store.leases)
        return self._books

    def _adopt_mcp(self, snapshot: Snapshot) -> None:
        """Give MCP backends their services; the package is loaded when there is the first."""
        if self.mcp is None:
            if not snapshot.endpoints:
                return
            from agw.worker.mcp import McpHost

            process = snapshot.plan.process
            self.mcp = McpHost(self.context, self.index, self.workers, bytes.fromhex(process.instance), self.hops, self.journal)
        self.mcp.adopt(snapshot.endpoints, [bytes.fromhex(key) for key in snapshot.plan.process.session_keys], list(snapshot.binds))

    def _keep_fresh(self) -> None:
        if self.refresher is not None:
            self.refresher.cancel()
        interval = self.snapshot.plan.process.dns_refresh_ns
        self.refresher = self.loop.create_task(self.resolver.keep_fresh(self.snapshot.clusters.values(), interval))

    # -------------------------------------------------------------------------------------------- drain

    def drain(self, deadline_ns: int) -> None:
        """Finish and leave. The listeners' doors are shut already; what is in their queues is served."""
        if self.draining:
            return
        self.draining = True
        self.deadline_ns = deadline_ns
        self.slot.set(layout.W_STATE, layout.DRAINING)
        self.context.drain()
        if self.mcp is not None:
            self.mcp.drain()
        self.loop.call_later(QUIET_S, self._stop_listening)

    def _stop_listening(self) -> None:
        for key, acceptor in list(self.acceptors.items()):
            acceptor.set_paused(False)
            acceptor.take_waiting()
            acceptor.drain()
            if acceptor.paused and acceptor.connection_count() and time.monotonic_ns() < self.deadline_ns:
                # Out of descriptors: what drains gives some back.
                continue
            acceptor.stop_accepting()
            self.retired.append(self.acceptors.pop(key))
        if self.acceptors:
            self.loop.call_later(QUIET_S, self._stop_listening)

    def _drained(self, now: int) -> bool:
        if self.acceptors:
            return False
        if self.retired and now < self.deadline_ns:
            return False
        self.slot.set(layout.W_SETTLED, 1)
        if now < self.deadline_ns and not all(settled(slot, now) for slot in self.siblings):
            # Another worker still has clients, and their sessions may be here.
            return False
        self.hops.close()
        cut = sum(acceptor.cut() for acceptor in self.retired)
        if cut:
            log.warning("drain time is over; connections cut", extra={"connections": cut, "worker": self.index})
        self.loop.stop()
        return True


def settled(slot: Slot, now: int) -> bool:
    """Has the worker of a slot no client left? A dead one has not, whether or not anybody buried it."""
    return slot.get(layout.W_STATE) == layout.EMPTY or slot.get(layout.W_SETTLED) == 1 or now - slot.get(layout.W_HEARTBEAT) > DEAD_NS


def main(
    index: int, arena: layout.Arena, snapshot: Snapshot, labels: LabelIndex, listeners: dict[BindKey, int], hops: dict[BindKey, int],
    lent: frozenset[BindKey], journal: int, channel: Channel, parent: int, documents: list[Fetched],
) -> int:
    """The worker's life after the fork; returns its exit code.

    `listeners` are for clients, `hops` for other workers; `lent` names the listeners that outlive this instance;
    `journal` is the slot's memory of its sessions; `documents` are the copies that the supervisor keeps.
    """
    process.set_name(b"agw-worker")
    process.set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        return 0
    slot = arena.slot(index)
    slot.reset_live_gauges()
    slot.recall_tools()
    if arena.limits is not None:
        # What its predecessor held, if nobody has taken it back yet.
        arena.limits.release(index)
    slot.set(layout.W_PID, os.getpid())
    slot.set(layout.W_STARTED, time.monotonic_ns())
    slot.set(layout.W_HEARTBEAT, time.monotonic_ns())
    slot.set(layout.W_SETTLED, 0)
    slot.set(layout.W_STATE, layout.STARTING)
    if snapshot.plan.process.pin_cpus:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {allowed[index % len(allowed)]})
    try:
        return Worker(index, arena, snapshot, labels, listeners, hops, lent, journal, channel, parent, documents).run()
    except Exception:
        log.exception("worker failed")
        return 1
    finally:
        sys.stderr.flush()
