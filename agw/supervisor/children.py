"""Child processes: forking them, knowing which is which, and deciding when a dead one comes back.

Rules:
- a child never returns into the supervisor's code: it ends in os._exit;
- respawn waits longer the faster a slot dies; too many deaths in a short time stop the instance with a reason;
- exit codes 78 (configuration) and 71 (operating system) forbid respawn: trying again cannot help.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable

from agw.supervisor.channel import Channel

BACKOFF_NS = (0, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_000_000_000, 4_000_000_000)
STEADY_NS = 10_000_000_000
"""A child that lived this long was healthy; its next death starts from no back-off."""
LOOP_DEATHS = 12
LOOP_WINDOW_NS = 30_000_000_000
FATAL_CODES = frozenset({71, 78})
IGNORED_IN_CHILD = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE)


class Child:
    """One place for a process: a worker slot or the helper."""

    def __init__(self, name: str, slot: int) -> None:
        self.name = name
        self.slot = slot
        self.pid = 0
        self.channel: Channel | None = None
        self.ready = False
        self.started_ns = 0
        self.deaths = 0
        self.respawn_at_ns = 0
        self.generation = 0
        self._beat_ns = 0
        self._excused_ns = 0

    def spawn(self, now_ns: int, body: Callable[[Channel], int], before_exec: Callable[[], None]) -> None:
        """Fork; the child runs `before_exec` (close what is not its own) and `body`, and exits with its result."""
        mine, theirs = Channel.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT):
                    signal.signal(number, signal.SIG_DFL)
                for number in IGNORED_IN_CHILD:
                    signal.signal(number, signal.SIG_IGN)
                mine.close()
                before_exec()
                code = body(theirs)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        theirs.close()
        self.pid = pid
        self.channel = mine
        self.ready = False
        self.started_ns = now_ns
        self.respawn_at_ns = 0

    def buried(self, now_ns: int) -> None:
        """The process is gone: forget it and set the time of the next try."""
        if self.channel is not None:
            self.channel.close()
        self.channel = None
        self.pid = 0
        self.ready = False
        self.deaths = 0 if now_ns - self.started_ns > STEADY_NS else self.deaths
        self.respawn_at_ns = now_ns + BACKOFF_NS[min(self.deaths, len(BACKOFF_NS) - 1)]
        self.deaths += 1

    def silence_ns(self, beat_ns: int, now_ns: int, late_ns: int) -> int:
        """How long the process has not shown that it lives.

        `late_ns`, by how much the caller itself came late to ask, does not count: whatever stopped the supervisor
        (SIGSTOP to the group, a frozen container) may have stopped everybody.
        """
        beat_ns = max(beat_ns, self.started_ns)
        if beat_ns != self._beat_ns:
            self._beat_ns, self._excused_ns = beat_ns, 0
        self._excused_ns += late_ns
        return now_ns - beat_ns - self._excused_ns

    def kill(self, number: int) -> None:
        """Send a signal, if there is a process."""
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass


class CrashLoop:
    """Counts unexpected deaths; too many in the window mean that respawning does not help."""

    def __init__(self) -> None:
        self._deaths: deque[int] = deque(maxlen=LOOP_DEATHS)

    def died(self, now_ns: int) -> bool:
        """Note a death; True when the instance should stop."""
        self._deaths.append(now_ns)
        return len(self._deaths) == LOOP_DEATHS and now_ns - self._deaths[0] < LOOP_WINDOW_NS
