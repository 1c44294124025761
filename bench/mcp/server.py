"""The MCP server behind every peer: backend.c, compiled with CC (cc) where it is used."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.harness.processes import BenchError, Child, spawn, stop, wait_until
from bench.peers.base import answers

_SOURCE = Path(__file__).resolve().parent / "backend.c"


class Server:
    """backend.c, compiled and running."""

    def __init__(self, port: int, directory: Path, cpus: Sequence[int]) -> None:
        """Compile, start, wait until it answers. Errors: BenchError."""
        program = directory / "mcp-backend"
        compiler = os.environ.get("CC", "cc")
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(_SOURCE)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"backend.c does not compile: {done.stderr[-300:]}")
        self.port = port
        self._child: Child = spawn("mcp-backend", [str(program), str(port)], cpus, directory)
        wait_until(lambda: answers(port, "/"), 10.0, self._child, "ready")

    def pids(self) -> list[int]:
        """Its process."""
        return [self._child.pid]

    def stop(self) -> None:
        """End it."""
        stop(self._child)
