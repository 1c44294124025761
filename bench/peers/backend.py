"""The backends behind all peers: nginx with fixed answers, an MCP server (mcp/backend.c), a streaming one (load/sse_backend.py)."""

from collections.abc import Sequence
from pathlib import Path

from bench.harness import http_messages as messages
from bench.harness import procfs
from bench.harness.processes import BenchError, Child, python_module, spawn, stop, wait_until
from bench.mcp.server import Server
from bench.peers.base import answers, fill
from bench.peers.nginx import Nginx, user_line

EVENTS_PER_S = 10
_START_LIMIT_S = 10.0


class Backends:
    """All backends, running."""

    def __init__(self, fixed_port: int, stream_port: int, mcp_port: int, directory: Path, cpus: Sequence[int]) -> None:
        """Start them below `directory`, pinned to `cpus`; BenchError if one does not come up."""
        self.fixed_port = fixed_port
        self.stream_port = stream_port
        self._children: list[Child] = []
        self._start_fixed(directory / "backend", cpus)
        self._start_stream(directory / "stream-backend", cpus)
        self._mcp = Server(mcp_port, directory, cpus)
        self.mcp_port = mcp_port

    def pids(self) -> list[int]:
        """All processes, for accounting."""
        own = [pid for child in self._children for pid in (child.pid, *procfs.descendants(child.pid))]
        return own + self._mcp.pids()

    def stop(self) -> None:
        """End them."""
        self._mcp.stop()
        for child in self._children:
            stop(child)
        self._children.clear()

    def _start_fixed(self, directory: Path, cpus: Sequence[int]) -> None:
        directory.mkdir()
        program = Nginx().path()
        if not program:
            raise BenchError("the backend needs nginx (bench/install_peers.sh)")
        config = fill(
            "backend.conf.tmpl",
            directory,
            "backend.conf",
            user=user_line(),
            port=self.fixed_port,
            answer=messages.answer_body().decode(),
            kib="z" * 1024,
        )
        argv = [program, "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(config)]
        child = spawn("backend", argv, cpus, directory)
        self._children.append(child)
        wait_until(lambda: answers(self.fixed_port, "/"), _START_LIMIT_S, child, "ready")

    def _start_stream(self, directory: Path, cpus: Sequence[int]) -> None:
        directory.mkdir()
        argv = python_module("bench.load.sse_backend", "--port", self.stream_port, "--rate", EVENTS_PER_S)
        child = spawn("stream-backend", argv, cpus, directory)
        self._children.append(child)
        wait_until(lambda: answers(self.stream_port, "/"), _START_LIMIT_S, child, "ready")

