"""Counting the system calls of running processes, with perf where it may trace, else with strace.

perf (tracepoint raw_syscalls:sys_enter) costs little; strace stops the process at every call, so only the count
divided by the requests of the same window means anything, never the speed of that window. Neither runs while CPU or
latency is measured.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from bench.harness.cores import available
from bench.harness.processes import BenchError, Child, adopt, command, stop

_PERF_EVENT = "raw_syscalls:sys_enter"
_ATTACH_S = 0.3
_END_S = 10.0


@cache
def tool() -> str | None:
    """Name of the tool in use, None if neither works here; BENCH_SYSCALLS=perf or strace decides otherwise."""
    if chosen := os.environ.get("BENCH_SYSCALLS"):
        return chosen if shutil.which(chosen) else None
    if shutil.which("perf"):
        trial = ["perf", "stat", "-x,", "-e", _PERF_EVENT, "true"]
        done = subprocess.run(trial, capture_output=True, text=True, timeout=_END_S, check=False)
        if done.returncode == 0 and re.search(rf"^\d+,.*{_PERF_EVENT}", done.stderr, re.MULTILINE):
            return "perf"
    return "strace" if shutil.which("strace") else None


class Counter:
    """Counts the calls of `pids` (all their threads) between `start` and `stop`."""

    def __init__(self, pids: Sequence[int], directory: Path) -> None:
        """Nothing runs yet; the tool's report goes into `directory`."""
        self._pids = ",".join(str(pid) for pid in pids)
        self._report = directory / "syscalls.txt"
        self._child: Child | None = None

    def start(self) -> None:
        """Attach; returns once the tool had time to do so."""
        report = str(self._report)
        if tool() == "perf":
            argv = ["perf", "stat", "-x,", "-o", report, "-e", _PERF_EVENT, "-p", self._pids]
        elif tool() == "strace":
            argv = ["strace", "-c", "-f", "-o", report, "-p", self._pids]
        else:
            raise BenchError("no tool to count system calls (perf or strace)")
        log = self._report.with_suffix(".log")
        with log.open("wb") as sink:
            pinned = command(argv, available())
            popen = subprocess.Popen(pinned, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True)
        self._child = adopt(Child(argv[0], popen, log))
        time.sleep(_ATTACH_S)

    def stop(self) -> int:
        """Detach and return the number of calls."""
        if self._child is None:
            raise BenchError("system call counter was not started")
        child, self._child = self._child, None
        try:
            child.popen.send_signal(signal.SIGINT)
            child.popen.wait(_END_S)
            text = self._report.read_text() if self._report.exists() else ""
        except subprocess.TimeoutExpired:
            raise BenchError(f"{child.name} did not end") from None
        finally:
            stop(child)
        return _parse(text)


def _parse(text: str) -> int:
    """The count in a report of either tool."""
    match = re.search(rf"^(\d+),.*{_PERF_EVENT}", text, re.MULTILINE)
    if match is None:  # strace: "100.00  0.049558  12  3918  [errors]  total"
        match = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?total$", text, re.MULTILINE)
    if match is None:
        raise BenchError(f"no system call count in: {text[-200:]!r}")
    return int(match.group(1))
