"""agw itself: `agw serve -f FILE --workers N` from the repository's .venv, or the program named by AGW_BIN."""

import os
import shlex
import subprocess
from pathlib import Path

from bench.harness import procfs
from bench.harness.processes import BenchError
from bench.peers.base import Job, Peer, answers, fill

_ROOT = Path(__file__).resolve().parents[2]
_WORKER, _HELPER = "agw-worker", "agw-helper"  # command names the processes give themselves


class Agw(Peer):
    """A supervisor with N workers and one helper process."""

    name = "agw"
    start_limit_s = 60.0  # 10,000 routes have to be compiled

    def missing(self) -> str:
        """AGW_BIN or .venv/bin/agw must be there."""
        return "" if self.path() else "agw is absent (make build, or set AGW_BIN)"

    def path(self) -> str:
        """The first word of the command."""
        command = self._command()
        return command[0] if os.access(command[0], os.X_OK) else ""

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """One route per extra path; agw writes its access log, when on, from a thread and drops lines it cannot keep up with."""
        plain = f'{{host: "127.0.0.1:{job.backend_port}"}}'
        config = fill(
            "agw.yaml.tmpl",
            directory,
            "agw.yaml",
            port=job.port,
            backend_port=job.backend_port,
            stream_port=job.stream_port,
            status_port=job.status_port,
            stats_port=job.stats_port,
            access_log=str(job.access_log).lower(),
            log_path=self.access_log(directory),
            routes="\n".join(
                f"- {{name: {path[1:]}, matches: [{{path: {{pathPrefix: {path}}}}}], backends: [{plain}]}}"
                for path in job.route_paths
            ),
        )
        return [*self._command(), "serve", "-f", str(config), "--workers", str(job.workers)]

    def is_ready(self, job: Job) -> bool:
        """Its readiness address says so, and a request goes through."""
        return answers(job.status_port, "/healthz/ready") and super().is_ready(job)

    def version(self) -> str:
        """As `agw version` prints it, empty if it does not."""
        argv = [*self._command(), "version"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip().removeprefix("agw ") if done.returncode == 0 else ""

    def worker_pids(self) -> list[int]:
        """Descendants named agw-worker; from a build that does not name them, all but supervisor and helper."""
        family = procfs.descendants(self._running().pid)
        names = {pid: procfs.comm(pid) for pid in family}
        workers = [pid for pid, name in names.items() if name == _WORKER]
        workers = workers or [pid for pid, name in names.items() if name != _HELPER]
        if not workers:
            raise BenchError("agw has no worker processes")
        return workers

    @staticmethod
    def _command() -> list[str]:
        return shlex.split(os.environ.get("AGW_BIN", "")) or [str(_ROOT / ".venv" / "bin" / "agw")]
