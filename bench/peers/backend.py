"""The two backends behind all peers: nginx with fixed answers, and the streaming one (load/sse_backend.py)."""

import json
from collections.abc import Sequence
from pathlib import Path

from bench.harness import http_messages as messages
from bench.harness import procfs
from bench.harness.processes import BenchError, Child, python_module, spawn, stop, wait_until
from bench.peers.base import answers, fill
from bench.peers.nginx import Nginx, user_line

EVENTS_PER_S = 10
_START_LIMIT_S = 10.0


class Backends:
    """Both backends, running."""

    def __init__(self, fixed_port: int, stream_port: int, directory: Path, cpus: Sequence[int]) -> None:
        """Start both below `directory`, pinned to `cpus`; BenchError if one does not come up."""
        self.fixed_port = fixed_port
        self.stream_port = stream_port
        self._children: list[Child] = []
        self._start_fixed(directory / "backend", cpus)
        self._start_stream(directory / "stream-backend", cpus)

    def pids(self) -> list[int]:
        """All processes of both, for accounting."""
        return [pid for child in self._children for pid in (child.pid, *procfs.descendants(child.pid))]

    def stop(self) -> None:
        """End both."""
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
            modern_version=messages.MODERN_VERSION,
            answer=messages.answer_body().decode(),
            modern_answer=messages.answer_body(modern=True).decode(),
            initialized=_INITIALIZED,
            discovered=_DISCOVERED,
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


_INITIALIZED = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "result": {
            "protocolVersion": messages.LEGACY_VERSION,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "bench", "version": "1"},
        },
    }
)
_DISCOVERED = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "result": {
            "resultType": "complete",
            "supportedVersions": [messages.MODERN_VERSION],
            "capabilities": {"tools": {}},
            "ttlMs": 0,
            "cacheScope": "private",
        },
    }
)
