"""nginx: the yardstick of the report."""

import os
import re
import subprocess
from pathlib import Path

from bench.harness import procfs
from bench.peers.base import Job, Peer, fill

# Idle connections kept to the backend. 1,024 rather than the customary 256, so that 512 clients cause no reconnects:
# the other peers have no such limit.
_POOL = 1024


class Nginx(Peer):
    """nginx with a master and N workers."""

    name = "nginx"
    binary = "nginx"
    start_limit_s = 30.0

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """One location per extra route; access log, when on, as JSON through a 64 KiB buffer flushed each second."""
        config = fill(
            "nginx.conf.tmpl",
            directory,
            "nginx.conf",
            user=user_line(),
            workers=job.workers,
            port=job.port,
            backend_port=job.backend_port,
            stream_port=job.stream_port,
            pool=_POOL,
            access_log="access.log json buffer=64k flush=1s" if job.access_log else "off",
            routes="\n".join(f"        location {path}/ {{ proxy_pass http://app; }}" for path in job.route_paths),
        )
        return [self.path(), "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(config)]

    def version(self) -> str:
        """As `nginx -v` prints it."""
        done = subprocess.run([self.path(), "-v"], capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"nginx/(\S+)", done.stderr)
        return found.group(1) if found else ""

    def worker_pids(self) -> list[int]:
        """Children of the master."""
        return procfs.descendants(self._running().pid)


def user_line() -> str:
    """Run the workers as root when we are root: they must reach the private temporary directory."""
    return "user root;" if os.geteuid() == 0 else ""
