"""The proxies of the MCP scenarios.

Rules: as in peers/base.py; and nginx, the yardstick, passes the same bytes on to the same server (server.py) without looking at them.
All peers serve /mcp. What is behind one target is a path of the server (`target_path`).
"""

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.harness import http_messages as messages
from bench.peers.agw import Agw
from bench.peers.base import Job, Peer, fill
from bench.peers.nginx import Nginx, user_line
from bench.security import instructions, policies

_HERE = Path(__file__).resolve().parent
_VENVS = _HERE.parent
TARGET = "server-{:03d}"  # agw's name of a target


@dataclasses.dataclass(frozen=True, slots=True)
class McpJob(Job):
    """A job with MCP targets. `backend_port` is the MCP server's."""

    targets: int = 1
    tools: int = 1  # of each target
    delays_ms: tuple[int, ...] = (0,)  # of initialize; target n has element n modulo length
    streams: bool = False  # do targets have a GET stream?
    prefix_always: bool = False
    file: Path | None = None  # served by nginx as /file
    policies: str = ""  # of the MCP route; see security/policies.py
    beside: str = ""  # a second route with policies
    jwks: Path | None = None  # what tokens are verified with

    def target_path(self, number: int) -> str:
        """Where target `number` is on the server; see backend.c."""
        return f"/mcp/{self.tools}/{self.delays_ms[number % len(self.delays_ms)]}/{int(self.streams)}"

    def tool_name(self, target: int, tool: int) -> str:
        """Public name of a tool at a gateway that federates."""
        own = f"tool-{tool:05d}" if tool else "echo"
        return f"{TARGET.format(target)}_{own}" if self.targets > 1 or self.prefix_always else own


class McpAgw(Agw):
    """agw with one MCP backend of N targets."""

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """All targets have the same address and their own names."""
        assert isinstance(job, McpJob)
        config = fill(
            "../mcp/agw.yaml.tmpl",
            directory,
            "agw.yaml",
            port=job.port,
            backend_port=job.backend_port,
            status_port=job.status_port,
            stats_port=job.stats_port,
            access_log=str(job.access_log).lower(),
            log_path=self.access_log(directory),
            policies=policies.of_route(job.policies, job.jwks),
            guarded=policies.route(job.beside, job.jwks, job.backend_port),
            prefix="always" if job.prefix_always else "conditional",
            targets="\n".join(
                f'      - {{name: {TARGET.format(number)}, mcp: {{host: "http://127.0.0.1:{job.backend_port}{job.target_path(number)}"}}}}'
                for number in range(job.targets)
            ),
        )
        return [*self._command(), "serve", "-f", str(config), "--workers", str(job.workers)]


class CountedAgw(McpAgw):
    """The same, where the instructions of its workers can be counted (security/instructions.py)."""

    name = "agw-counted"
    start_limit_s = 120.0

    def missing(self) -> str:
        """A counter must work here."""
        return super().missing() or instructions.missing()

    def version(self) -> str:
        """Of the counter."""
        return instructions.tool()

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Under the counter, if that is a program around it."""
        return [*instructions.around(directory), *super().prepare(job, directory)]

    def worker_pids(self) -> list[int]:
        """None after the count, which may end the gateway."""
        return super().worker_pids() if self._child is not None else []


class McpNginx(Nginx):
    """nginx as it is configured for the other scenarios, plus a file it sends by itself."""

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """POST /mcp goes to the server as it came."""
        assert isinstance(job, McpJob)
        served = job.file or directory / "none"
        config = fill(
            "../mcp/nginx.conf.tmpl",
            directory,
            "nginx.conf",
            user=user_line(),
            workers=job.workers,
            port=job.port,
            backend_port=job.backend_port,
            server_path=job.target_path(0),
            file=served,
            access_log="access.log json buffer=64k flush=1s" if job.access_log else "off",
        )
        return [self.path(), "-e", str(directory / "error.log"), "-p", str(directory), "-c", str(config)]


class McpDirect(Peer):
    """The server itself."""

    name = "direct"

    def missing(self) -> str:
        """Always there."""
        return ""

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """Nothing to prepare."""
        return []

    def start(self, job: Job, directory: Path, cpus: Sequence[int]) -> None:
        """Runs already."""

    def listening_port(self, job: Job, *, stream: bool) -> int:
        """The server's."""
        return job.backend_port

    def worker_pids(self) -> list[int]:
        """None."""
        return []

    def control_pids(self) -> list[int]:
        """None."""
        return []


class _PythonProxy(Peer):
    """A proxy from PyPI in an environment of its own."""

    venv = ""
    package = ""
    start_limit_s = 60.0

    def missing(self) -> str:
        """Absent is allowed."""
        return "" if self._python().exists() else f"{self.name} is absent (bench/mcp/install_peers.sh)"

    def version(self) -> str:
        """Of the installed package."""
        code = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        done = subprocess.run([str(self._python()), "-c", code], capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip()

    def is_ready(self, job: Job) -> bool:
        """A session can be opened."""
        try:
            return messages.open_session(job.port, "/mcp") is not None
        except (OSError, ValueError, IndexError):
            return False

    def _python(self) -> Path:
        return _VENVS / self.venv / "bin" / "python"


class FastMcpProxy(_PythonProxy):
    """FastMCP's create_proxy in front of the same server."""

    name = "fastmcp"
    venv = ".venv-fastmcp"
    package = "fastmcp"

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """See fastmcp_proxy.py."""
        assert isinstance(job, McpJob)
        url = f"http://{messages.HOST}:{job.backend_port}{job.target_path(0)}"
        return [str(self._python()), str(_HERE / "fastmcp_proxy.py"), url, str(job.port)]


class StdioProxy(_PythonProxy):
    """mcp-proxy, which puts a stdio server behind HTTP; the server behind it is stdio_server.py."""

    name = "mcp-proxy"
    venv = ".venv-mcp-proxy"
    package = "mcp-proxy"

    def prepare(self, job: Job, directory: Path) -> list[str]:
        """One server process for all sessions, as it does by itself."""
        program = str(self._python().with_name("mcp-proxy"))
        python = shutil.which("python3") or str(self._python())
        return [program, "--host", messages.HOST, "--port", str(job.port), "--", python, str(_HERE / "stdio_server.py")]


PEERS: dict[str, type[Peer]] = {
    kind.name: kind for kind in (McpDirect, McpNginx, McpAgw, CountedAgw, FastMcpProxy, StdioProxy)
}
