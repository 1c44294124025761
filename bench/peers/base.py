"""What the benchmark asks of every peer: write a configuration for a job, start, say when ready, name the processes,
stop.

Rules: a peer renders everything below one temporary directory, listens on 127.0.0.1 only, and does the same job as the
others: HTTP/1.1 with keep-alive on both sides, a pool towards the backend, X-Forwarded-For, -Proto and -Host added.
Must not know: scenarios and load programs.
"""

import os
import shutil
import string
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness import http_messages, procfs
from bench.harness.processes import BenchError, Child, spawn, stop, wait_until

# Paths that lead to the streaming backend; everything else leads to the fixed one.
STREAM_PATHS = ("/events", "/mcp-stream")
_TEMPLATES = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Job:
    """What one peer process has to do, whatever its kind."""

    port: int
    backend_port: int
    stream_port: int
    status_port: int  # readiness; agw only
    stats_port: int  # metrics; agw only
    workers: int = 1
    routes: int = 0
    access_log: bool = False

    @property
    def route_paths(self) -> list[str]:
        """Path prefixes of the extra routes, all to the fixed backend."""
        return [f"/r{number:05d}" for number in range(self.routes)]


class ConfigTemplate(string.Template):
    """string.Template with `@` in place of `$`, which nginx, HAProxy and Envoy use themselves."""

    delimiter = "@"


class Peer(ABC):
    """One proxy; also the state of its one running instance."""

    name = ""
    binary = ""
    start_limit_s = 15.0

    def __init__(self) -> None:
        """Not running."""
        self._child: Child | None = None

    @abstractmethod
    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Write the configuration into `directory` and return the command line."""

    def missing(self) -> str:
        """Why this peer cannot run here; empty if it can."""
        return "" if self.path() else f"{self.binary} is not installed (bench/install_peers.sh)"

    def path(self) -> str:
        """Path of the program, empty if absent."""
        return shutil.which(self.binary, path=_search_path()) or ""

    def version(self) -> str:
        """Version text for the report."""
        return ""

    def start(self, job: Job, directory: Path, cpus: Sequence[int]) -> None:
        """Start on `cpus`; returns when a request went through to the backend. BenchError if that does not happen."""
        argv = self.prepare(job, directory)
        self._child = spawn(self.name, argv, cpus, directory)
        wait_until(lambda: self.is_ready(job), self.start_limit_s, self._child, "ready")

    def is_ready(self, job: Job) -> bool:
        """True once GET / answers 200 through the peer."""
        return answers(job.port, "/")

    def stop(self) -> None:
        """End it; does nothing if it does not run."""
        if self._child is not None:
            stop(self._child)
            self._child = None

    def access_log(self, directory: Path) -> Path:
        """Where the access log goes when it is on."""
        return directory / "access.log"

    def listening_port(self, job: Job, *, stream: bool) -> int:
        """Where clients connect."""
        return job.port

    def worker_pids(self) -> list[int]:
        """Processes that carry requests; their CPU and memory are what is reported."""
        return [self._running().pid]

    def control_pids(self) -> list[int]:
        """The other processes (masters, supervisors, helpers); reported apart."""
        everything = [self._running().pid, *procfs.descendants(self._running().pid)]
        workers = set(self.worker_pids())
        return [pid for pid in everything if pid not in workers]

    def _running(self) -> Child:
        if self._child is None or not self._child.is_running():
            tail = self._child.log_tail() if self._child else ""
            raise BenchError(f"{self.name} is not running {tail}")
        return self._child


def fill(template: str, directory: Path, target: str, **values: object) -> Path:
    """Render bench/peers/<template> to <directory>/<target> and return its path."""
    text = ConfigTemplate((_TEMPLATES / template).read_text()).substitute(values)
    path = directory / target
    path.write_text(text)
    return path


def answers(port: int, path: str) -> bool:
    """True if GET `path` on 127.0.0.1:`port` answers 200."""
    try:
        with http_messages.connect(port) as sock:
            return http_messages.exchange(sock, http_messages.render("GET", path, port)).status == 200
    except (OSError, ValueError, IndexError):
        return False


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
