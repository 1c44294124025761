"""The supervisor: spawn, reap, reload, drain, halt.

One thread, no event loop: signal handlers only wake a poll(), the loop acts. It reads the configuration, compiles it
once (so that children inherit the result), holds every listening socket, and is the only process that forks.

    signal    meaning                         signal    meaning
    TERM,INT  drain and stop; twice: at once   USR1      reopen the access log
    QUIT      stop at once                    HUP       reload the configuration
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from types import FrameType
from urllib.parse import unquote, urlsplit

import msgspec

from agw.admin import helper
from agw.config import ConfigErrors, Loaded, redacted
from agw.runtime.compile import CompileError, compile_plan
from agw.runtime.documents import Fetched
from agw.runtime.plan import Plan, ProcessPlan
from agw.runtime.plan_security import RateStorePlan
from agw.runtime.snapshot import BindKey, LabelIndex, Labels, Snapshot
from agw.shm import layout
from agw.shm.limits import FILE_NAME, QuotaFileError, SharedLimits, make_limits
from agw.supervisor.channel import Channel, ChannelClosed, Message
from agw.supervisor.children import FATAL_CODES, Child, CrashLoop
from agw.supervisor.grants import GrantDirectory
from agw.supervisor.keys import SessionKeys, with_cookie_keys
from agw.supervisor.sockets import ListenSet, SocketError, address_text, bind_plain
from agw.supervisor.systemd import Notifier, take_listen_fds
from agw.supervisor.watch import WatchedFiles
from agw.telemetry.logs import OperatorLog
from agw.worker import worker
from agw.worker.journal import make_journal
from agw.worker.logwriter import open_log

log = logging.getLogger(__name__)

CHECK_NS = 500_000_000
APPLY_NS = 15_000_000_000
"""A worker that has not taken a new configuration by then is replaced by one that starts with it."""
HALT_NS = 1_000_000_000
"""How long after the drain time a worker may still take to exit."""
RELOAD_WAIT_S = 0.2
"""How long a reload waits for a port; nothing else is done meanwhile."""
EXIT_OK, EXIT_CRASH, EXIT_OS, EXIT_CONFIG = 0, 70, 71, 78


def nothing(number: int, frame: FrameType | None) -> None:
    """Signals wake poll() through the wake-up descriptor; the handler itself has nothing to do."""


class Supervisor:
    """One running instance."""

    def __init__(self, load: Callable[[], Loaded], loaded: Loaded, workers: int, demo: socket.socket | None, operator_log: OperatorLog) -> None:
        self._load = load
        self._operator_log = operator_log
        self._notifier = Notifier(os.environ)
        self._labels = LabelIndex(Labels())
        self._document = msgspec.json.encode(redacted(loaded.document), enc_hook=str)
        self._generation = 1
        self._keys = SessionKeys(os.environ)
        self._grants = GrantDirectory(os.environ)
        self._configured = loaded.plan.process
        process = self._completed(loaded.plan, os.urandom(8).hex())
        self._plan = with_cookie_keys(msgspec.structs.replace(loaded.plan, process=process), process.session_keys)
        self._snapshot: Snapshot = compile_plan(self._plan, 1, self._labels)
        self._arena = layout.Arena(workers)
        self._arena.limits = shared_limits(self._plan, workers, os.environ)
        self._arena.publish(1, True)
        self._workers = [Child("worker", i) for i in range(workers)]
        self._helper = Child("helper", -1)
        self._journals = [make_journal(i) for i in range(workers)]
        self._crashes = CrashLoop()
        self._fetched: dict[str, Fetched] = {}
        self._exit_code: int | None = None
        self._draining_until = 0
        self._apply_by = 0
        self._reload_again = False
        self._checked_ns = 0
        self._next_watchdog = 0
        self._files = WatchedFiles(loaded.reads)
        self._next_look = 0
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        check_access_log(loaded.plan)
        process = loaded.plan.process
        self._listen = ListenSet(workers, process.backlog, take_listen_fds(os.environ), self._plan.process.instance)
        for key in self._snapshot.binds:
            self._listen.open(key)
        self._sockets = helper.HelperSockets(
            admin=bind_plain(process.admin_address), admin_auth=process.admin_auth, stats=bind_plain(process.stats_address),
            readiness=bind_plain(process.readiness_address), demo=demo,
        )

    def _completed(self, plan: Plan, instance: str) -> ProcessPlan:
        """The settings with what the supervisor adds to them. Errors: SocketError."""
        process = plan.process
        return msgspec.structs.replace(process, session_keys=self._keys.ring(process), instance=instance, grant_directory=self._grants.of(plan))

    # ------------------------------------------------------------------------------------------- the loop

    def run(self) -> int:
        """Serve until told to stop; returns the exit code."""
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, nothing)
        # Other proxies upgrade by it; without a meaning here it must not end the instance either.
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        gc.collect()
        gc.freeze()
        self._spawn_helper()
        for child in self._workers:
            self._spawn_worker(child)
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        self._checked_ns = time.monotonic_ns()
        while self._exit_code is None:
            watched = {}
            for child in (*self._workers, self._helper):
                if child.channel is not None:
                    flags = select.POLLIN | (select.POLLOUT if child.channel.pending else 0)
                    poll.register(child.channel.fileno(), flags)
                    watched[child.channel.fileno()] = child
            for fd, flags in poll.poll(self._timeout_ms()):
                if fd == self._wake_r:
                    self._on_signals()
                elif fd in watched:
                    self._on_channel(watched[fd], flags)
            for fd in watched:
                poll.unregister(fd)
            self._check(time.monotonic_ns())
        self._end()
        return self._exit_code

    def _timeout_ms(self) -> int:
        now = time.monotonic_ns()
        times = [now + CHECK_NS]
        times.extend(c.respawn_at_ns for c in (*self._workers, self._helper) if c.respawn_at_ns)
        return max(0, min(times) - now) // 1_000_000 + 1

    def _on_signals(self) -> None:
        for number in sorted(set(os.read(self._wake_r, 4096))):
            if number == signal.SIGCHLD:
                self._reap()
            elif number in (signal.SIGTERM, signal.SIGINT):
                self.drain()
            elif number == signal.SIGQUIT:
                log.info("stopping at once")
                self._exit_code = EXIT_OK
            elif number == signal.SIGHUP:
                self.reload()
            elif number == signal.SIGUSR1:
                self._broadcast(Message("reopen"))

    def _on_channel(self, child: Child, flags: int) -> None:
        if child.channel is None:
            return
        try:
            if flags & select.POLLOUT:
                child.channel.flush()
            messages = child.channel.receive() if flags & (select.POLLIN | select.POLLHUP | select.POLLERR) else []
        except ChannelClosed:
            # SIGCHLD tells the rest; a child without its channel is of no use.
            child.channel.close()
            child.channel = None
            if not self._draining_until:
                child.kill(signal.SIGKILL)
            return
        for message, _ in messages:
            if message.op == "ready":
                child.ready = True
                child.generation = message.generation
                self._maybe_ready()
            elif message.op == "applied":
                child.generation = message.generation
            elif message.op == "failed":
                log.error("a worker could not take the configuration; replacing it", extra={"worker": child.slot, "cause": message.text})
                child.kill(signal.SIGKILL)
            elif message.op == "want":
                if self._helper.channel is not None:
                    self._tell(self._helper, message)
            elif message.op == "fetched":
                self._on_fetched(message)
            elif message.op == "quit":
                self.drain()
            elif message.op == "level":
                self._operator_log.set_level(message.text)
                self._broadcast(message)

    def _on_fetched(self, message: Message) -> None:
        """News of a document: keep the good copy for those who start later, tell the workers."""
        if message.text not in {document.url for document in self._plan.documents}:
            return
        kept = msgspec.msgpack.decode(message.payload, type=Fetched).after(self._fetched.get(message.text))
        if kept is not None:
            self._fetched[message.text] = kept
        for child in self._workers:
            self._tell(child, message)

    def _check(self, now: int) -> None:
        """What depends on time: respawn, frozen workers, drain's end, watchdog."""
        if self._draining_until:
            if not any(c.pid for c in self._workers):
                self._exit_code = EXIT_OK
            elif now > self._draining_until + HALT_NS:
                for child in self._workers:
                    child.kill(signal.SIGKILL)
            return
        late = max(0, now - self._checked_ns - CHECK_NS)
        self._checked_ns = now
        limit = self._plan.process.heartbeat_timeout_ns
        fresh = True
        for child in self._workers:
            if child.respawn_at_ns and now >= child.respawn_at_ns:
                self._spawn_worker(child)
            if not child.pid:
                fresh = False
                continue
            silent = child.silence_ns(self._arena.slot(child.slot).get(layout.W_HEARTBEAT), now, late)
            if silent > limit:
                fresh = False
                log.error("worker does not answer; killing it", extra={"worker": child.slot, "pid": child.pid, "silent_ms": silent // 1_000_000})
                child.kill(signal.SIGKILL)
        if self._helper.respawn_at_ns and now >= self._helper.respawn_at_ns:
            self._spawn_helper()
        self._maybe_applied()
        if self._reload_again and not self._apply_by:
            self._reload_again = False
            self.reload()
        if self._apply_by and now > self._apply_by:
            for child in self._workers:
                if child.pid and child.generation != self._generation:
                    log.error("worker did not take the configuration in time; replacing it", extra={"worker": child.slot})
                    child.kill(signal.SIGKILL)
            self._apply_by = now + APPLY_NS
        if self._plan.process.watch_ns and now >= self._next_look:
            self._look_at_files(now)
        if self._notifier.watchdog_ns and fresh and now >= self._next_watchdog:
            self._notifier.watchdog()
            self._next_watchdog = now + self._notifier.watchdog_ns // 3

    # ------------------------------------------------------------------------------------------- children

    def _spawn_worker(self, child: Child) -> None:
        parent = os.getpid()

        def body(channel: Channel) -> int:
            lent = self._listen.lent
            listeners, hops = self._listen.keep_only_slot(child.slot)
            for key in [k for k in listeners if k not in self._snapshot.binds]:
                os.close(listeners.pop(key))
                os.close(hops.pop(key))
            return worker.main(child.slot, self._arena, self._snapshot, self._labels, listeners, hops, lent, self._journals[child.slot], channel, parent,
                               list(self._fetched.values()))

        slot = self._arena.slot(child.slot)
        for key in self._snapshot.binds:
            # Whatever its predecessor thought: this place is open.
            self._listen.open_door(key, child.slot)
        if child.deaths:
            slot.set(layout.W_RESTARTS, slot.get(layout.W_RESTARTS) + 1)
        child.generation = self._generation
        child.spawn(time.monotonic_ns(), body, lambda: self._close_in_child(child))

    def _spawn_helper(self) -> None:
        parent = os.getpid()

        def body(channel: Channel) -> int:
            document = msgspec.json.decode(self._document)
            prefix = self._plan.process.metrics_prefix
            return helper.main(self._arena, self._labels, document, self._sockets, channel, self._operator_log, prefix, parent,
                               self._plan.documents, list(self._fetched.values()))

        self._helper.spawn(time.monotonic_ns(), body, lambda: self._close_in_child(self._helper))

    def _close_in_child(self, me: Child) -> None:
        """After the fork: let go of everything that belongs to the supervisor or to siblings."""
        os.close(self._wake_r)
        os.close(self._wake_w)
        self._notifier.close()
        for child in (*self._workers, self._helper):
            if child is not me and child.channel is not None:
                child.channel.close()
        for slot, journal in enumerate(self._journals):
            if slot != me.slot:
                os.close(journal)
        if me is self._helper:
            self._listen.keep_only_slot(-1)
        else:
            self._sockets.close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in (*self._workers, self._helper):
                if child.pid == pid:
                    self._buried(child, status)

    def _buried(self, child: Child, status: int) -> None:
        now = time.monotonic_ns()
        code = os.waitstatus_to_exitcode(status)
        pid, lived = child.pid, now - child.started_ns
        child.buried(now)
        if child.slot >= 0:
            slot = self._arena.slot(child.slot)
            slot.reset_live_gauges()
            if self._arena.limits is not None:
                self._arena.limits.release(child.slot)
            slot.set(layout.W_STATE, layout.EMPTY)
            slot.set(layout.W_PID, 0)
        if self._draining_until:
            child.respawn_at_ns = 0
            return
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        log.error(f"{child.name} died", extra={"worker": child.slot, "pid": pid, "how": how, "lived_ms": lived // 1_000_000})
        if code in FATAL_CODES or self._crashes.died(now):
            log.critical("children keep dying; stopping", extra={"last": how})
            self._exit_code = EXIT_CRASH if code not in FATAL_CODES else code

    def _broadcast(self, message: Message) -> None:
        for child in (*self._workers, self._helper):
            self._tell(child, message)

    def _tell(self, child: Child, message: Message, fds: list[int] | None = None) -> None:
        if child.channel is not None:
            try:
                child.channel.send(message, fds)
            except ChannelClosed:
                child.kill(signal.SIGKILL)

    def _maybe_ready(self) -> None:
        if self._arena.phase == "starting" and all(c.ready for c in (*self._workers, self._helper)):
            self._arena.set_phase("running")
            where = self._listen.addresses()
            admin = {name: _where(s) for name, s in (("admin", self._sockets.admin), ("stats", self._sockets.stats), ("readiness", self._sockets.readiness))}
            log.info("ready", extra={"listening": where, "workers": len(self._workers), **admin})
            self._notifier.ready(f"serving on {', '.join(where)} with {len(self._workers)} workers")

    # --------------------------------------------------------------------------------------------- reload

    def reload(self) -> None:
        """Check, compile, open, publish. A configuration with a problem changes nothing.

        One at a time: asked again while workers still take the last one, it reads the file once more after that.
        """
        if self._draining_until:
            return
        if self._apply_by:
            self._reload_again = True
            return
        self._notifier.reloading()
        try:
            loaded = self._load()
            generation = self._generation + 1
            # Of the process only the session keys change before a restart (and grants find their place), of the store of limits nothing.
            completed = self._completed(loaded.plan, "")
            keys = completed.session_keys
            process = msgspec.structs.replace(self._plan.process, session_keys=keys, grant_directory=completed.grant_directory)
            plan = msgspec.structs.replace(loaded.plan, process=process, rate_store=self._plan.rate_store)
            plan = with_cookie_keys(plan, keys)
            snapshot = compile_plan(plan, generation, self._labels)
        except (ConfigErrors, CompileError, SocketError, ValueError) as error:
            self._refused(str(error.strerror if isinstance(error, SocketError) else error))
            return
        if self._snapshot.binds and not snapshot.binds:
            # An editor or a copy that truncates first shows a file like that.
            self._refused("the file configures no port; nothing would be served")
            return
        opened = []
        try:
            check_access_log(loaded.plan)
            for key in snapshot.binds:
                if key not in self._listen.sockets:
                    self._listen.open(key, RELOAD_WAIT_S)
                    opened.append(key)
        except SocketError as error:
            for key in opened:
                self._listen.close(key)
            self._refused(str(error))
            return
        if msgspec.structs.replace(loaded.plan.process, session_keys=self._configured.session_keys) != self._configured:
            log.warning("the config: section changed; it is read at start only, restart to apply it")
        if loaded.plan.access_log.enabled != self._plan.access_log.enabled:
            log.warning("frontendPolicies.accessLog.enabled is read at start only, restart to apply it")
        if loaded.plan.rate_store != self._plan.rate_store:
            log.warning("rateLimit is read at start only, restart to apply it")
        if has_quotas(loaded.plan) and not has_quotas(self._plan) and self._arena.limits is not None and not self._arena.limits.lasting:
            log.warning("the quota file is opened at start only; until then quotas end with this process")
        for problem in loaded.warnings:
            log.warning(str(problem))
        self._generation, self._plan, self._snapshot = generation, plan, snapshot
        self._files.loaded(loaded.reads)
        self._document = msgspec.json.encode(redacted(loaded.document), enc_hook=str)
        self._arena.publish(generation, True)
        for key in [k for k in self._listen.sockets if k not in snapshot.binds]:
            self._listen.shut_doors(key)
        self._publish(plan, opened)
        self._apply_by = time.monotonic_ns() + APPLY_NS
        gc.collect()
        gc.freeze()

    def _look_at_files(self, now: int) -> None:
        """Load anew when a certificate, key or secret of the configuration has changed."""
        self._next_look = now + self._plan.process.watch_ns
        changed = self._files.changed()
        if changed:
            log.info("files of the configuration have changed; loading it anew", extra={"files": changed})
            self.reload()

    def _publish(self, plan: Plan, opened: list[BindKey]) -> None:
        payload = msgspec.msgpack.encode(plan)
        labels = msgspec.msgpack.encode(self._labels.labels)
        for child in self._workers:
            fds = [table[key][child.slot].fileno() for table in (self._listen.sockets, self._listen.hops) for key in opened]
            self._tell(child, Message("config", generation=self._generation, payload=payload, labels=labels, binds=[(k.address, k.port) for k in opened]), fds)
        urls = {document.url for document in plan.documents}
        self._fetched = {url: kept for url, kept in self._fetched.items() if url in urls}
        self._tell(self._helper, Message("fetch", payload=msgspec.msgpack.encode(plan.documents)))
        self._tell(self._helper, Message("document", generation=self._generation, payload=self._document, labels=labels))

    def _refused(self, why: str) -> None:
        self._arena.publish(self._generation, False)
        log.error("reload refused; the running configuration stays", extra={"problems": why.splitlines()})
        self._notifier.ready("reload refused, see the log")

    def _maybe_applied(self) -> None:
        if self._apply_by and all(c.generation == self._generation for c in self._workers if c.pid):
            self._apply_by = 0
            for key in [k for k in self._listen.sockets if k not in self._snapshot.binds]:
                self._listen.close(key)
            where = self._listen.addresses()
            log.info("configuration applied", extra={"generation": self._generation, "listening": where})
            self._notifier.ready(f"serving on {', '.join(where)} (configuration {self._generation})")

    # ----------------------------------------------------------------------------------------------- ends

    def drain(self) -> None:
        """Stop listening, let requests finish, stop. Asked twice: stop at once."""
        if self._draining_until:
            log.info("asked again; stopping at once")
            self._exit_code = EXIT_OK
            return
        drain_ns = self._plan.process.drain_ns
        self._draining_until = time.monotonic_ns() + drain_ns
        self._arena.set_phase("draining")
        self._notifier.stopping(drain_ns / 1e9)
        log.info("draining", extra={"seconds": drain_ns / 1e9})
        for key in self._listen.sockets:
            self._listen.shut_doors(key)
        self._broadcast(Message("drain", number=self._draining_until))
        for key in list(self._listen.sockets):
            self._listen.close(key)

    def _end(self) -> None:
        """Everything that is left goes now."""
        for child in (*self._workers, self._helper):
            child.kill(signal.SIGKILL)
        for child in (*self._workers, self._helper):
            if child.pid:
                try:
                    os.waitpid(child.pid, 0)
                except ChildProcessError:
                    pass
        self._sockets.unlink()
        self._grants.close()
        log.info("stopped", extra={"code": self._exit_code})


def has_quotas(plan: Plan) -> bool:
    """Has any route a quota?"""
    return any(limit.kind == "quota" for route in plan.routes for limit in route.policies.limits)


def shared_limits(plan: Plan, workers: int, environ: Mapping[str, str]) -> SharedLimits:
    """The tables of limits. Quotas are kept in the configured file, else in the state directory once there are any.

    Errors: SocketError when the configured file cannot be used.
    """
    store = plan.rate_store
    state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    path = store.quota_file or (os.path.join(state, FILE_NAME) if state and has_quotas(plan) else "")
    if store.kind == "redis":
        return make_limits(store.max_keys, workers, key=store_hash_key(store))
    try:
        return make_limits(store.max_keys, workers, path)
    except QuotaFileError as error:
        if store.quota_file:
            raise SocketError(0, str(error)) from None
        # A state directory that cannot be written to is no reason not to serve.
        log.warning("quotas are not kept over restarts", extra={"cause": str(error)})
        return make_limits(store.max_keys, workers)


def store_hash_key(store: RateStorePlan) -> bytes:
    """16 octets: the key of hashes that machines with the same store share. Outsiders do not know it if the store has a password."""
    password = unquote(urlsplit(store.url).password or "")
    return hashlib.blake2b(f"{store.prefix}\0{password}".encode(), digest_size=16, person=b"agw limits").digest()


def check_access_log(plan: Plan) -> None:
    """Open the access log once, so that a wrong path is told at once. Errors: SocketError."""
    if plan.access_log.enabled:
        try:
            os.close(open_log(plan.access_log.path))
        except OSError as error:
            raise SocketError(error.errno, f"cannot open the access log {plan.access_log.path}: {error.strerror}") from None


def _where(sock: socket.socket | None) -> str:
    if sock is None:
        return "off"
    name = sock.getsockname()
    if isinstance(name, tuple):
        return address_text(name)
    return "unix:@" + name[1:].decode() if isinstance(name, bytes) else f"unix:{name}"
