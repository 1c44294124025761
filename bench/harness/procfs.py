"""What /proc says about processes and CPUs: time used, memory held, descent.

Sources: proc(5). CPU time in total comes from schedstat (nanoseconds, per thread), the split into user and kernel
from stat (ticks, scaled by the kernel so that their sum is exact to a tick). Functions skip processes that are gone.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU seconds of a set of processes since their start."""

    user_s: float
    system_s: float
    exact_s: float

    def since(self, start: "CpuTime") -> "CpuTime":
        """What was used between `start` and this snapshot, with the split scaled to the exact total."""
        user, system = self.user_s - start.user_s, self.system_s - start.system_s
        exact = self.exact_s - start.exact_s
        ticks = user + system
        if ticks <= 0 or exact <= 0:
            return CpuTime(user, system, max(exact, ticks))
        return CpuTime(user * exact / ticks, system * exact / ticks, exact)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes held by a set of processes."""

    pss: int
    private: int
    rss: int


def cpu_time(pids: Iterable[int]) -> CpuTime:
    """Sum over `pids`, all threads included."""
    user = system = 0
    exact_ns = 0
    for pid in pids:
        fields = _stat_fields(pid)
        if fields:
            user += int(fields[11])
            system += int(fields[12])
        for task in _entries(PROC / str(pid) / "task"):
            exact_ns += int((_read(PROC / str(pid) / "task" / task / "schedstat") or "0").split()[0])
    ticks = (user + system) / TICKS_PER_S
    exact = exact_ns / 1e9
    # Threads that ended are in stat but no longer in schedstat; a kernel without schedstat reports 0. Then ticks it is.
    if exact < ticks - 0.05:
        exact = ticks
    return CpuTime(user / TICKS_PER_S, system / TICKS_PER_S, exact)


def memory(pids: Iterable[int]) -> Memory:
    """Sum over `pids` from smaps_rollup."""
    totals = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0, "Rss": 0}
    for pid in pids:
        for line in (_read(PROC / str(pid) / "smaps_rollup") or "").splitlines():
            name, _, rest = line.partition(":")
            if name in totals:
                totals[name] += int(rest.split()[0]) * 1024
    return Memory(totals["Pss"], totals["Private_Clean"] + totals["Private_Dirty"], totals["Rss"])


def cpu_busy_s(cpus: Iterable[int]) -> float:
    """Seconds the given CPUs were not idle since boot, whoever used them (stolen time included)."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    busy = 0
    for line in (_read(PROC / "stat") or "").splitlines():
        name, *fields = line.split()
        if name in wanted:
            ticks = [int(field) for field in fields[:8]]  # user nice system idle iowait irq softirq steal
            busy += sum(ticks) - ticks[3] - ticks[4]
    return busy / TICKS_PER_S


def descendants(pid: int) -> list[int]:
    """All living descendants of `pid`, nearest first."""
    parents: dict[int, list[int]] = {}
    for entry in _entries(PROC):
        if entry.isdigit():
            fields = _stat_fields(int(entry))
            if fields:
                parents.setdefault(int(fields[1]), []).append(int(entry))
    found = list(parents.get(pid, []))
    for child in found:  # grows while it is walked
        found.extend(parents.get(child, []))
    return found


def comm(pid: int) -> str:
    """Command name of a process, empty if it is gone."""
    return (_read(PROC / str(pid) / "comm") or "").strip()


def session(pid: int) -> int:
    """Session id of a process, 0 if it is gone."""
    fields = _stat_fields(pid)
    return int(fields[3]) if fields else 0


def exists(pid: int) -> bool:
    """True while there is such a process, zombies excluded."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] != "Z"


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from `state` (field 3) on; the name before may contain anything, even ')'."""
    text = _read(PROC / str(pid) / "stat")
    return text.rpartition(")")[2].split() if text else []


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return None


def _entries(path: Path) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
