"""A child process with three pipes, driven by the worker's event loop. Octets only: framing and JSON-RPC are in `stdio`.

Rules:
- no shell; the command, arguments, environment and directory come from the plan and never from a client;
- a child leads a session and process group of its own, and the whole group is killed when its leader has ended;
- a child does not outlive the worker: the kernel kills it (PR_SET_PDEATHSIG), and its standard input ends. What it
  started itself gets only the latter;
- nothing blocks the loop: pipes are non-blocking, output is read a chunk per turn, the write queue is bounded;
- standard error is always drained; a bounded number of bounded lines reaches the log, at level debug;
- stopping: end of input, wait, SIGTERM to the group, wait, SIGKILL, reap.

Why not asyncio's subprocesses: uvloop forks the whole worker and runs Python in the copy before exec, which is unsafe
here because the worker has threads (access log, name look-ups); and it takes over SIGCHLD. `subprocess.Popen` without
preexec_fn uses vfork, and a pidfd tells the end of a child without any signal. What must happen between fork and exec
(death signal, signal dispositions) is done after exec by a one-line launcher, which then becomes the command; measured
at 11 ms of CPU in the child, where servers need 200 to 3,000 ms to start.

Source: MCP basic protocol, "Transports", stdio; prctl(2), pidfd_open(2), PEP 538.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from agw._fast import process as kernel

log = logging.getLogger(__name__)

READ_BYTES: Final = 64 * 1024
DRAIN_READS: Final = 64
"""Chunks read at most from a pipe whose child has ended: a pipe holds 1 MiB at most, but an heir may go on writing."""
FLUSH_BYTES: Final = 256 * 1024
"""Written at most in one turn of the loop; a child that reads as fast as we write must not hold it."""
MAX_QUEUED: Final = 4096
STDERR_LINE_BYTES: Final = 1024
STDERR_LINES_PER_S: Final = 20
EXIT_POLL_S: Final = 0.05
LINGER_S: Final = 0.2
"""Between the end of output and its consequences: the exit status, the better reason, usually follows at once."""
KILL_WAIT_S: Final = 5.0

WITHHELD: Final = frozenset({"SESSION_KEY", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"})
"""Variables of the gateway's own environment that no child inherits: a secret, and what systemd meant for us."""

_LAUNCHER: Final = """
import sys, _signal, posix
sys.path.append(sys.argv[1])
from agw._fast.process import set_parent_death_signal
set_parent_death_signal(9)
if posix.getppid() != int(sys.argv[2]):
    posix._exit(1)
for number in range(1, 32):
    if number not in (9, 19):
        _signal.signal(number, _signal.SIG_DFL)
_signal.pthread_sigmask(_signal.SIG_SETMASK, ())
posix.environ.pop(b"LC_CTYPE", None)
if sys.argv[3]:
    posix.environ[b"LC_CTYPE"] = sys.argv[3][1:]
try:
    posix.execve(sys.argv[4], sys.argv[5:], posix.environ)
except OSError as error:
    posix.write(2, b"cannot be executed: " + error.strerror.encode() + bytes([10]))
    posix._exit(126)
"""
# The worker ignores signals (SIGHUP, SIGUSR1...), which exec would pass on. LC_CTYPE may have been changed by the launcher's
# interpreter (PEP 538); the command gets what it was meant to get.

_ROOT: Final = str(Path(kernel.__file__).resolve().parents[2])


class Command(Protocol):
    """What to start: fields of a stdio target's plan."""

    @property
    def cmd(self) -> str: ...
    @property
    def args(self) -> Sequence[str]: ...
    @property
    def env(self) -> Mapping[str, str]: ...
    @property
    def clear_env(self) -> bool: ...
    @property
    def cwd(self) -> str: ...


def environment(command: Command) -> dict[str, str]:
    """The child's environment: the gateway's without `WITHHELD`, or nothing (`clear_env`), and then `env`."""
    inherited = {} if command.clear_env else {name: value for name, value in os.environ.items() if name not in WITHHELD}
    return {**inherited, **command.env}


def spawn(command: Command) -> subprocess.Popen[bytes]:
    """Start it. Call from the main thread: the kernel ties the death signal to the thread that forked.

    Errors: OSError (not found or not executable in the child's PATH, no such directory, no descriptors or processes left);
    ValueError (a NUL in an argument or variable).
    """
    env = environment(command)
    ctype = "=" + env["LC_CTYPE"] if "LC_CTYPE" in env else ""
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, _ROOT, str(os.getpid()), ctype, _executable(command, env)]
    return subprocess.Popen(
        [*launcher, command.cmd, *command.args], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env,
        cwd=command.cwd or None, start_new_session=True,
    )


def _executable(command: Command, env: Mapping[str, str]) -> str:
    """The file to execute; a name with a slash is relative to `cwd`, any other is looked for in the child's PATH."""
    name = os.path.abspath(os.path.join(command.cwd, command.cmd)) if "/" in command.cmd else command.cmd
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    if found is None:
        raise FileNotFoundError(f"{command.cmd} is not an executable file")
    return os.path.abspath(found)


class Outgoing:
    """One message in the write queue. `begun`: the child may have seen a part; `done`: all of it is in the pipe, and so
    `waiter`, if set, has its result."""

    __slots__ = ("begun", "data", "done", "offset", "waiter")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.offset = 0
        self.begun = False
        self.done = False
        self.waiter: asyncio.Future[None] | None = None


class QueueFull(Exception):
    """The child does not read and the write queue is at its bound."""


class Child:
    """One running process.

    `on_output(chunk)` gets standard output. `on_lost(reason)` comes once, when it is of no use any more (ended, closed its
    output or its input) and not stopped by us; all output that was readable has been delivered by then. No output comes
    after the loss or a `stop`. `on_gone()` comes once, after it was reaped. None of them is called from inside a call
    into this class.
    Errors: the constructor raises what `spawn` raises.
    """

    def __init__(
        self, name: str, command: Command, *, on_output: Callable[[bytes], None], on_lost: Callable[[str], None], on_gone: Callable[[], None],
        grace_s: float, max_queue_bytes: int,
    ) -> None:
        self._popen = spawn(command)
        assert self._popen.stdin and self._popen.stdout and self._popen.stderr
        self.name = name
        self.pid = self._popen.pid
        self.started = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self.lost = False
        self._on_output = on_output
        self._on_lost = on_lost
        self._on_gone = on_gone
        self._grace_s = grace_s
        self._max_queue_bytes = max_queue_bytes
        self._queue: deque[Outgoing] = deque()
        self._queued_bytes = 0
        self._writing = False
        self._stopping: asyncio.Task[None] | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._stderr = StderrLog(name, self.pid)
        self._pipes = {"in": self._popen.stdin, "out": self._popen.stdout, "err": self._popen.stderr}
        for pipe in self._pipes.values():
            os.set_blocking(pipe.fileno(), False)
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:  # no descriptor left, or a kernel without them: ask from time to time
            self._pidfd = -1
            self._loop.call_later(EXIT_POLL_S, self._look)
        else:
            self._loop.add_reader(self._pidfd, self._look)
        self._loop.add_reader(self._popen.stdout.fileno(), self._on_readable)
        self._loop.add_reader(self._popen.stderr.fileno(), self._on_stderr)

    # ------------------------------------------------------------------------------------------------------- writing

    def write(self, data: bytes) -> Outgoing:
        """Queue whole lines. An unfinished item's `waiter` may be set; it stays open when the child is lost.

        Errors: QueueFull; one message always fits into an empty queue, whatever its size.
        """
        if self._queue and (self._queued_bytes + len(data) > self._max_queue_bytes or len(self._queue) >= MAX_QUEUED):
            raise QueueFull
        item = Outgoing(data)
        self._queue.append(item)
        self._queued_bytes += len(data)
        if not self._writing:
            self._flush()
        return item

    def withdraw(self, item: Outgoing) -> bool:
        """Take a message back; False when the child may have seen a part, and then the rest of it is written, too."""
        if not item.begun and item in self._queue:
            self._queue.remove(item)
            self._queued_bytes -= len(item.data)
        return not item.begun

    def _flush(self) -> None:
        pipe = self._pipes.get("in")
        budget = FLUSH_BYTES
        try:
            while self._queue and pipe is not None and budget > 0:
                item = self._queue[0]
                written = os.write(pipe.fileno(), memoryview(item.data)[item.offset : item.offset + budget])
                item.begun = True
                item.offset += written
                budget -= written
                if item.offset == len(item.data):
                    item.done = True
                    self._queued_bytes -= len(item.data)
                    self._queue.popleft()
                    if item.waiter is not None and not item.waiter.done():
                        item.waiter.set_result(None)
        except BlockingIOError:
            pass
        except OSError:
            self._end_input()
            self._loop.call_soon(self._lose, "closed its standard input")
            return
        self._watch_input(bool(self._queue) and pipe is not None)

    def _watch_input(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            fd = self._pipes["in"].fileno()
            if wanted:
                self._loop.add_writer(fd, self._flush)
            else:
                self._loop.remove_writer(fd)

    def _end_input(self) -> None:
        """Close the child's standard input; what is queued stays unsent."""
        if "in" in self._pipes:
            self._watch_input(False)
            self._pipes.pop("in").close()

    # ------------------------------------------------------------------------------------------------------- reading

    def _read(self, name: str) -> bytes | None:
        """The next chunk; b"" at the end, None when there is nothing now."""
        pipe = self._pipes.get(name)
        if pipe is None:
            return b""
        try:
            return os.read(pipe.fileno(), READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _close_pipe(self, name: str) -> None:
        pipe = self._pipes.pop(name, None)
        if pipe is not None:
            self._loop.remove_reader(pipe.fileno())
            pipe.close()

    def _on_readable(self) -> None:
        chunk = self._read("out")
        if chunk:
            if not self.lost:
                self._on_output(chunk)
        elif chunk is not None:
            self._close_pipe("out")
            self._linger = self._loop.call_later(LINGER_S, self._lose, "closed its standard output")

    def _on_stderr(self) -> None:
        chunk = self._read("err")
        if chunk:
            self._stderr.feed(chunk)
        elif chunk is not None:
            self._close_pipe("err")

    # ----------------------------------------------------------------------------------------------------------- end

    def stop(self) -> asyncio.Task[None]:
        """End it in good order; done when it is reaped, after two grace times and `KILL_WAIT_S` at most."""
        if self._stopping is None:
            self.lost = True
            self._stopping = self._loop.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        self._end_input()
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if await self._gone_within(self._grace_s):
                    return
                self._signal_group(number)
            if not await self._gone_within(KILL_WAIT_S):
                log.error("a killed stdio target does not end", extra={"target": self.name, "child": self.pid})
        finally:
            if not self.gone.done():
                self._signal_group(signal.SIGKILL)

    async def _gone_within(self, seconds: float) -> bool:
        await asyncio.wait({self.gone}, timeout=seconds)
        return self.gone.done()

    def _signal_group(self, number: int) -> None:
        """Only while the child is not reaped: so long nobody else can have its number."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def _lose(self, reason: str) -> None:
        if not self.lost:
            for _ in range(DRAIN_READS):
                if not (chunk := self._read("out")):
                    break
                self._on_output(chunk)
            self.lost = True
            self._on_lost(reason)
            if not self.gone.done():
                self.stop()

    def _look(self) -> None:
        """Has it ended? Its heirs are killed before it is reaped, while the group's number cannot be anybody else's."""
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                if self._pidfd < 0:
                    self._loop.call_later(EXIT_POLL_S, self._look)
                return
            self._signal_group(signal.SIGKILL)
        except ChildProcessError:
            pass  # somebody else reaped it; the number may be in use again
        code = self._popen.wait()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        if self._linger is not None:
            self._linger.cancel()
        self.gone.set_result(None)
        self._lose(f"killed by signal {-code}" if code < 0 else f"exit code {code}")
        self._on_stderr()
        self._end_input()
        self._close_pipe("out")
        self._close_pipe("err")
        self._stderr.close()
        self._queue.clear()
        self._on_gone()


class StderrLog:
    """Puts standard error into the log: lines cut at `STDERR_LINE_BYTES`, `STDERR_LINES_PER_S` of them, the rest counted."""

    def __init__(self, name: str, pid: int) -> None:
        self._extra = {"target": name, "child": pid}
        self._part = b""
        self._second = self._left = 0
        self.suppressed = 0

    def feed(self, chunk: bytes) -> None:
        """Octets of standard error, in order."""
        if not log.isEnabledFor(logging.DEBUG):
            return
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._left = second, STDERR_LINES_PER_S
            self._tell_suppressed()
        first, *lines = chunk.split(b"\n", self._left)
        self._part = (self._part + first)[:STDERR_LINE_BYTES]
        for line in lines:
            self._tell(self._part)
            self._part = line[:STDERR_LINE_BYTES]
        self._left -= len(lines)
        if not self._left:
            self.suppressed += (lines[-1] if lines else first).count(b"\n")
            self._part = b""

    def close(self) -> None:
        """The end: what is left without a line break is a line, too."""
        if self._part:
            self._tell(self._part)
        self._tell_suppressed()

    def _tell(self, line: bytes) -> None:
        log.debug("stderr: %s", line.decode(errors="replace").rstrip(), extra=self._extra)

    def _tell_suppressed(self) -> None:
        if self.suppressed:
            log.debug("stderr: %d lines more were left out", self.suppressed, extra=self._extra)
            self.suppressed = 0
