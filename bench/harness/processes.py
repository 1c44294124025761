"""Starting and ending every process of the benchmark.

Rules: each child gets its own session (so one signal ends it with all its descendants), is pinned by taskset, and
dies with the harness: through `stop`, through atexit, or, if the harness is killed outright, through PR_SET_PDEATHSIG
(setpriv). Only processes started here are ever signalled.
"""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from bench.harness import procfs

STOP_GRACE_S = 3.0
_ROOT = Path(__file__).resolve().parents[2]
_live: list["Child"] = []


class BenchError(Exception):
    """A run that could not be measured; its text goes into the report."""


@dataclass(frozen=True, slots=True, eq=False)
class Child:
    """One started process, leader of its own session."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Process id; also the id of its session and process group."""
        return self.popen.pid

    def is_running(self) -> bool:
        """True until the process has been reaped."""
        return self.popen.poll() is None

    def log_tail(self, limit: int = 600) -> str:
        """The end of what it wrote, for error messages."""
        try:
            return self.log.read_bytes()[-limit:].decode("utf-8", "replace").strip()
        except OSError:
            return ""


def command(argv: Sequence[str], cpus: Sequence[int]) -> list[str]:
    """`argv` pinned to `cpus` and bound to the life of this process."""
    pinned = ["taskset", "-c", ",".join(str(cpu) for cpu in cpus), *argv]
    return ["setpriv", "--pdeathsig", "TERM", *pinned] if shutil.which("setpriv") else pinned


def python_module(module: str, *args: object) -> list[str]:
    """Command line of one of our own load programs; PYTHONPATH is set for it alone, agw must not see it."""
    return ["env", f"PYTHONPATH={_ROOT}", sys.executable, "-m", module, *(str(arg) for arg in args)]


def spawn(name: str, argv: Sequence[str], cpus: Sequence[int], directory: Path) -> Child:
    """Start a long-running process; its output goes to <directory>/<name>.log."""
    log = directory / f"{name}.log"
    with log.open("wb") as sink:
        popen = subprocess.Popen(
            command(argv, cpus),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=True,
        )
    return adopt(Child(name, popen, log))


def adopt(child: Child) -> Child:
    """Register a child so that it is ended with the harness."""
    _live.append(child)
    return child


def run(argv: Sequence[str], cpus: Sequence[int], timeout_s: float, directory: Path) -> str:
    """Run a load program to its end and return its standard output; BenchError on failure or overrun."""
    name = argv[argv.index("-m") + 1] if "-m" in argv else Path(argv[0]).name
    log = directory / f"{name}.stderr"
    with log.open("wb") as errors:
        popen = subprocess.Popen(
            command(argv, cpus), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        )
    child = adopt(Child(name, popen, log))
    try:
        out, _ = popen.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} did not end within {timeout_s:.0f} s") from None
    finally:
        stop(child)
    if popen.returncode != 0:
        last = child.log_tail().rpartition("\n")[2]  # of a traceback, the line that says what happened
        raise BenchError(f"{name} ended with {popen.returncode}: {last}")
    return out.decode("utf-8", "replace")


def stop(child: Child) -> None:
    """End a child and all its descendants: TERM, a bounded wait, then KILL."""
    family = [child.pid, *procfs.descendants(child.pid)]
    if child.is_running():
        _signal_group(child.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.popen.wait(STOP_GRACE_S)
    _signal_group(child.pid, signal.SIGKILL)
    for pid in family[1:]:  # a descendant that left the session; orphans of ours only, the list was taken above
        if procfs.exists(pid) and procfs.session(pid) in family:
            _signal(pid, signal.SIGKILL)
    child.popen.wait()
    if child in _live:
        _live.remove(child)


def stop_all() -> None:
    """End everything still running, newest first."""
    for child in reversed(_live.copy()):
        stop(child)


def end_on_signals() -> None:
    """Make Ctrl-C, TERM and HUP unwind normally, so that `stop_all` runs."""

    def unwind(number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, unwind)
    atexit.register(stop_all)


def wait_until(condition: Callable[[], bool], timeout_s: float, child: Child, what: str) -> None:
    """Poll `condition()` until true; BenchError when the child dies or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not child.is_running():
            raise BenchError(f"{child.name} ended with {child.popen.returncode} while {what}: {child.log_tail()}")
        if condition():
            return
        time.sleep(0.02)
    raise BenchError(f"{child.name}: not {what} within {timeout_s:.0f} s: {child.log_tail()}")


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
