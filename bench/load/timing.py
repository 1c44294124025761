"""What both measuring clients need: being on time, and percentiles."""

import contextlib
import ctypes
import os
from collections.abc import Iterable, Iterator

_PR_SET_TIMERSLACK = 29
SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


def be_punctual() -> bool:
    """Wake up when asked to: 1 us of timer slack instead of 50, and real-time priority if we may have it (True).

    The client is not made to wait for the end of a stranger's time slice, which would be measured as latency of the peer.
    The backend beside it needs the same priority (`punctual`): then neither preempts the other.
    """
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1000, 0, 0, 0)
    return _schedule(0, os.SCHED_FIFO, 1)


@contextlib.contextmanager
def punctual(pids: Iterable[int]) -> Iterator[None]:
    """Give processes the priority of `be_punctual` for a while; does nothing where that is not allowed."""
    raised = [pid for pid in pids if _schedule(pid, os.SCHED_FIFO, 1)]
    try:
        yield
    finally:
        for pid in raised:
            _schedule(pid, os.SCHED_OTHER, 0)


def _schedule(pid: int, policy: int, priority: int) -> bool:
    try:
        os.sched_setscheduler(pid, policy, os.sched_param(priority))
    except OSError:
        return False
    return True


def percentile(ordered: list[float], share: float) -> float:
    """Nearest rank in an ordered list; 0 if it is empty."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
