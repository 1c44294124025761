"""Which CPU does what.

Rules: the peer has its cores to itself; the load generator and the backend stay off them. With two cores load and
backend share the second one; from three on each has its own. Nothing here pins anything, it only decides; see
processes.spawn.
"""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cores:
    """CPU numbers by role."""

    peer: tuple[int, ...]
    load: tuple[int, ...]
    backend: tuple[int, ...]

    def describe(self) -> str:
        """One line for the report."""
        names = {"peer": self.peer, "load generator": self.load, "backend": self.backend}
        return ", ".join(f"{role} on CPU {_join(cpus)}" for role, cpus in names.items())


def available() -> tuple[int, ...]:
    """CPUs this process may use, in order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def assign(workers: int = 1, *, share: bool = False) -> Cores | None:
    """Cores for a peer with `workers` workers; None when there are not enough and `share` does not allow overlap."""
    cpus = available()
    if len(cpus) >= workers + 2:
        return Cores(cpus[:workers], (cpus[workers],), (cpus[workers + 1],))
    if len(cpus) == workers + 1 and workers == 1:
        return Cores(cpus[:1], cpus[1:], cpus[1:])
    if workers == 1:
        return Cores(cpus, cpus, cpus)  # a single CPU: everything shares it, and the report says so
    return Cores(cpus[:workers], cpus, cpus) if share and len(cpus) >= workers else None


def _join(cpus: tuple[int, ...]) -> str:
    return ",".join(str(cpu) for cpu in cpus)
