"""A load program that is talked to line by line: counters are read when its measured window begins and ends."""

import select
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.harness import processes
from bench.harness.processes import BenchError


class Dialogue:
    """A load program that is talked to line by line."""

    def __init__(self, argv: Sequence[str], cpus: Sequence[int], directory: Path) -> None:
        """Start it on `cpus`; its standard error goes into `directory`."""
        log = directory / "dialogue.log"
        with log.open("wb") as errors:
            popen = subprocess.Popen(
                processes.command(argv, cpus),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # select() must see what has not been read
                start_new_session=True,
            )
        self._child = processes.adopt(processes.Child(argv[-1], popen, log))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def line(self, timeout_s: float) -> str:
        """The next line of its output."""
        assert self._child.popen.stdout is not None
        ready, _, _ = select.select([self._child.popen.stdout], [], [], timeout_s)
        text = self._child.popen.stdout.readline().decode().strip() if ready else ""
        if not text:
            raise BenchError(f"load program gave up or was too slow: {self._child.log_tail()}")
        return text

    def expect(self, word: str, timeout_s: float) -> None:
        """Wait for a line that begins with `word`."""
        if not (text := self.line(timeout_s)).startswith(word):
            raise BenchError(f"load program said {text!r}, not {word}")

    def ask(self, timeout_s: float) -> str:
        """Send an empty line and return the answer."""
        assert self._child.popen.stdin is not None
        self._child.popen.stdin.write(b"\n")
        self._child.popen.stdin.flush()
        return self.line(timeout_s)

    def close(self) -> None:
        """End it."""
        processes.stop(self._child)
