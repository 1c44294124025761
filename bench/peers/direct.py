"""No proxy at all: the load generator talks to the backends. Shows what the rest of the bench costs."""

from collections.abc import Sequence
from pathlib import Path

from bench.harness.processes import BenchError
from bench.peers.base import Job, Peer, answers


class Direct(Peer):
    """The backends themselves."""

    name = "direct"

    def missing(self) -> str:
        """Always there."""
        return ""

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Nothing to prepare."""
        return []

    def start(self, job: Job, directory: Path, cpus: Sequence[int]) -> None:
        """Only checks that the backend answers."""
        if not answers(job.backend_port, "/"):
            raise BenchError("the backend does not answer")

    def listening_port(self, job: Job, *, stream: bool) -> int:
        """The backend that a proxy would have chosen."""
        return job.stream_port if stream else job.backend_port

    def worker_pids(self) -> list[int]:
        """None: there is no process between."""
        return []

    def control_pids(self) -> list[int]:
        """None."""
        return []
