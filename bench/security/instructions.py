"""Instructions in user mode of one process: what CPU time says too noisily.

By perf where the machine counts them (not in most virtual machines); else by valgrind's callgrind, around the whole gateway. Callgrind is
switched on and off from outside: counting.c, preloaded, does it between two turns of the worker's loop.
"""

import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.harness import processes
from bench.harness.cores import available
from bench.harness.processes import BenchError

_SOURCE = Path(__file__).resolve().parent / "counting.c"
_EVENT = "instructions:u"
_ON, _OFF = signal.SIGRTMIN + 5, signal.SIGRTMIN + 6
_SETTLE_S = 0.3
_END_S = 60.0


@functools.cache
def tool() -> str:
    """perf, callgrind, or "" when neither works here."""
    if shutil.which("perf"):
        done = subprocess.run(["perf", "stat", "-x,", "-e", _EVENT, "true"], capture_output=True, text=True, timeout=20, check=False)
        if re.search(rf"^\d+,.*{_EVENT}", done.stderr, re.MULTILINE):
            return "perf"
    return "callgrind" if shutil.which("valgrind") and Path("/usr/include/valgrind/callgrind.h").exists() else ""


def missing() -> str:
    """Why nothing can be counted here; "" if it can."""
    return "" if tool() else "neither perf counts instructions here nor is valgrind installed"


def around(directory: Path) -> list[str]:
    """What stands before the command of a gateway whose workers are counted. Errors: BenchError."""
    if tool() != "callgrind":
        return []
    library = directory / "counting.so"
    compiler = os.environ.get("CC", "cc")
    done = subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"counting.c does not compile: {done.stderr[-300:]}")
    return [
        "env", f"LD_PRELOAD={library}", "PYTHONHASHSEED=0",
        "valgrind", "--tool=callgrind", "--trace-children=yes", "--instr-atstart=no", f"--callgrind-out-file={directory}/callgrind.%p",
    ]  # fmt: skip


def count(pid: int, supervisor: int, directory: Path, work: Callable[[], object]) -> float:
    """Instructions of the process during `work`, which must leave the worker something to do at its end. With callgrind the gateway has ended
    afterwards. Errors: BenchError."""
    if tool() == "perf":
        return _by_perf(pid, directory, work)
    os.kill(pid, _ON)
    time.sleep(_SETTLE_S)
    work()
    os.kill(pid, _OFF)
    time.sleep(_SETTLE_S)
    work()  # in the first turn of the loop it is switched off
    os.kill(supervisor, signal.SIGTERM)
    report = directory / f"callgrind.{pid}"
    end = time.monotonic() + _END_S
    while time.monotonic() < end:
        found = re.search(r"^totals: (\d+)", report.read_text() if report.exists() else "", re.MULTILINE)
        if found:
            return float(found.group(1))
        time.sleep(0.1)
    raise BenchError("callgrind wrote no report")


def _by_perf(pid: int, directory: Path, work: Callable[[], object]) -> float:
    report = directory / "instructions.txt"
    argv: Sequence[str] = ["perf", "stat", "-x,", "-o", str(report), "-e", _EVENT, "-p", str(pid)]
    child = processes.spawn("perf", argv, available(), directory)
    time.sleep(_SETTLE_S)
    work()
    child.popen.send_signal(signal.SIGINT)
    child.popen.wait(_END_S)
    found = re.search(rf"^(\d+),.*{_EVENT}", report.read_text(), re.MULTILINE)
    if found is None:
        raise BenchError("perf counted no instructions")
    return float(found.group(1))
