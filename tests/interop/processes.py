"""The processes of an interoperability run: servers, gateways, and where their output goes."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

DEMO_PORT = 3000


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def is_taken(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Process:
    """A server, from the start until it listens, to its end. Output goes to `<logs>/<name>.log`."""

    def __init__(self, name: str, command: list[str], port: int, logs: Path, environment: dict[str, str] | None = None) -> None:
        self.name, self.port = name, port
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=os.environ | (environment or {})
            )
        for _ in range(600):
            if self._process.poll() is not None or is_taken(port):
                break
            time.sleep(0.05)
        if self._process.poll() is not None or not is_taken(port):
            self.stop()
            raise RuntimeError(f"{name} does not listen on {port}:\n{self.log.read_text()[-2000:]}")

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    def stop(self) -> int | None:
        """TERM, and KILL if that is not enough. The exit code."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return self._process.returncode

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


Target = dict[str, Any]
"""An entry of `mcp.targets` in the configuration."""


def http_target(port: int, name: str = "target", path: str = "/mcp") -> Target:
    """A server on streamable HTTP."""
    return {"name": name, "mcp": {"host": f"http://127.0.0.1:{port}{path}"}}


def sse_target(port: int, name: str = "target") -> Target:
    """A server on HTTP+SSE."""
    return {"name": name, "sse": {"host": f"http://127.0.0.1:{port}/sse"}}


def stdio_target(command: list[str], name: str = "target", environment: dict[str, str] | None = None) -> Target:
    """A server on stdio."""
    return {"name": name, "stdio": {"cmd": command[0], "args": command[1:], "env": environment or {}}}


class Gateway(Process):
    """`agw serve` in front of MCP servers, or with its built-in demo if there are none.

    `port`: where, 0 is any; `backend`: further keys of `mcp` in the configuration. The three own ports are moved away, so that it runs beside any other agw.
    """

    def __init__(self, name: str, agw: Path, targets: list[Target], logs: Path, workers: int, port: int = 0, **backend: Any) -> None:
        self._stats = free_port()
        environment = {
            "ADMIN_ADDR": f"unix:{logs}/{name}.admin",
            "STATS_ADDR": f"127.0.0.1:{self._stats}",
            "READINESS_ADDR": "off",
            "CONNECTION_TERMINATION_DEADLINE": "3s",
        }
        command = [str(agw), "serve", "--workers", str(workers)]
        if targets:
            port = port or free_port()
            file = logs / f"{name}.yaml"
            configuration = {
                "gateways": {"default": {"port": port, "address": "127.0.0.1"}},
                "mcp": {"targets": targets, **backend},
                "frontendPolicies": {"accessLog": {"enabled": True}},
            }
            file.write_text(json.dumps(configuration, indent=1))
            command += ["-f", str(file)]
        else:
            port = DEMO_PORT
            for _ in range(300):
                if not is_taken(port):
                    break
                time.sleep(0.2)
            else:
                raise RuntimeError(f"the demo needs port {port}, which somebody else has")
        super().__init__(name, command, port, logs, environment)

    def connections(self) -> list[int]:
        """How many connections each worker has accepted so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._stats}/metrics", timeout=5) as response:
            text = response.read().decode()
        return [int(float(value)) for value in re.findall(r'^agw_downstream_connections_total\{worker="\d+"\} (\S+)$', text, re.MULTILINE)]

    def complaints(self) -> list[str]:
        """What it logged as error, and anything that is not a log line at all, such as a traceback."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [f"{self.name}: {line}" for line in lines if '"level":"error"' in line or not line.startswith("{")]
