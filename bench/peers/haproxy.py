"""HAProxy."""

import re
import subprocess
from pathlib import Path

from bench.harness.processes import BenchError
from bench.peers.base import STREAM_PATHS, Job, Peer, fill

# HAProxy does not buffer log lines: one write per request is what it costs in earnest.
_LOG_FORMAT = (
    r"""'{"time":"%T","client":"%ci","method":"%HM","path":"%HU","protocol":"%HV","status":%ST,"bytes":%B,"""
    r""""duration":%Ta,"host":"%[capture.req.hdr(0)]","backend":"%b","server":"%s"}'"""
)


class HAProxy(Peer):
    """HAProxy in one process with N threads."""

    name = "haproxy"
    binary = "haproxy"

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Access log, when on, as JSON to standard output, which is a file."""
        if job.routes:
            raise BenchError("many routes are compared with nginx only")
        config = fill(
            "haproxy.cfg.tmpl",
            directory,
            "haproxy.cfg",
            workers=job.workers,
            port=job.port,
            backend_port=job.backend_port,
            stream_port=job.stream_port,
            stream_paths=" ".join(STREAM_PATHS),
            log_target="    log stdout format raw local0" if job.access_log else "",
            capture="    capture request header Host len 64" if job.access_log else "",
            log_format=f"    log global\n    log-format {_LOG_FORMAT}" if job.access_log else "",
        )
        return [self.path(), "-db", "-f", str(config)]

    def access_log(self, directory: Path) -> Path:
        """Its standard output."""
        return directory / f"{self.name}.log"

    def version(self) -> str:
        """As `haproxy -v` prints it."""
        done = subprocess.run([self.path(), "-v"], capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"version (\S+)", done.stdout)
        return found.group(1) if found else ""
