"""Runs the real gateway, `python -m agw serve -f FILE --workers N`, for a test, and shows what it does from outside.

    with Gateway(proxy_config(backend.port)) as gateway:
        assert gateway.get("/").status == 200

Rules:
- every wait has a bound and watches for what it waits for (`wait_until`); nothing sleeps and hopes;
- ports are chosen by the kernel: port 0 in the configuration, read back from the log line "ready"; admin, stats and
  readiness listen on unix sockets of their own unless the configuration says otherwise;
- the gateway gets a process group of its own, and nothing of it outlives the `with` block;
- `stop()` and a `with` block that ends well assert exit code 0, an empty process group and a log without tracebacks.

`AGW_BIN` names another `agw` to test. This file knows nothing about pytest.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

ROOT = Path(__file__).resolve().parents[2]
START_S = 20.0
"""Bound for a start; a cold start takes half a second, a machine under load more."""
_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: \S+)?")
_LABEL = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="((?:[^"\\]|\\.)*)"')
_NUMBERS = itertools.count(1)
T = TypeVar("T")


class TimedOut(AssertionError):
    """Something did not happen in time."""


def wait_until(predicate: Callable[[], T], timeout: float = 5.0, what: str = "", interval: float = 0.01) -> T:
    """The first true value of `predicate()`. Errors: TimedOut, telling `what` was expected and the last value."""
    deadline = time.monotonic() + timeout
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimedOut(f"not within {timeout} s: {what or predicate} (last: {value!r})")
        time.sleep(interval)


def free_port() -> int:
    """A port nobody listens on now. Prefer port 0; this is for tests that name the port themselves."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def free_ports(count: int) -> list[int]:
    """As many different ones."""
    with ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in socks]


def direct_route(text: str = "ok", prefix: str = "/", **route: Any) -> dict[str, Any]:
    """A route that the gateway answers itself."""
    return {"matches": [{"path": {"pathPrefix": prefix}}], "policies": {"directResponse": {"status": 200, "body": text}}, **route}


def proxy_config(*backends: int, port: int = 0, routes: list[dict[str, Any]] | None = None, **blocks: Any) -> dict[str, Any]:
    """A configuration with one gateway on 127.0.0.1 that sends everything to the backend ports, or has `routes`.

    `blocks` are merged on top level: `config={...}`, `frontendPolicies={...}`.
    """
    if routes is None:
        routes = [{"name": "all", "backends": [{"host": f"127.0.0.1:{b}"} for b in backends]}] if backends else [direct_route()]
    return {"gateways": {"default": {"port": port, "address": "127.0.0.1"}}, "routes": routes, **blocks}


class Reply(NamedTuple):
    """One answer, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def ask(where: str, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None, timeout: float = 5.0) -> Reply:
    """One request on a connection of its own. `where` is host:port or unix:/path or unix:@name."""
    if where.startswith("unix:"):
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout)
        sock.connect(where.removeprefix("unix:").replace("@", "\0", 1))
        connection.sock = sock
    else:
        host, _, port = where.rpartition(":")
        connection = http.client.HTTPConnection(host.strip("[]").replace("*", "127.0.0.1"), int(port), timeout=timeout)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


Key = tuple[str, frozenset[tuple[str, str]]]


class Metrics(dict[Key, float]):
    """One scrape: (sample name, labels) to value."""

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """Prometheus text format. Errors: AssertionError for a line that is none."""
        found = cls()
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = _SAMPLE.fullmatch(line)
            assert match is not None, f"not a sample: {line!r}"
            key = (match["name"], frozenset(_LABEL.findall(match["labels"] or "")))
            assert key not in found, f"twice: {line!r}"
            found[key] = float(match["value"])
        return found

    def total(self, name: str, **labels: str) -> float:
        """Sum of all samples of that name (with or without the prefix `agw_`) that have these labels."""
        wanted = set(labels.items())
        return sum(value for (known, has), value in self.items() if known in (name, "agw_" + name) and wanted <= has)

    def counters(self) -> Metrics:
        """What may never fall: counters, and sums, counts and buckets of histograms."""
        return Metrics({k: v for k, v in self.items() if k[0].endswith(("_total", "_sum", "_count", "_bucket"))})

    def fallen_since(self, before: Metrics) -> dict[Key, tuple[float, float]]:
        """Counters of `before` that are lower or missing here: key to (before, now)."""
        return {k: (v, self.get(k, -1.0)) for k, v in before.counters().items() if self.get(k, -1.0) < v}


class Gateway:
    """One `agw serve`. Starts in `__enter__` (or `start()`); see the module's rules.

    config: a configuration, or its text (then nothing is added to it). With a mapping, listeners of the process that
    are not configured get unix sockets, and the access log is off. None runs `agw serve` without a file.
    ready: False returns from `start()` without waiting for the log line "ready".
    started: False leaves `start()` to the test.
    strict: False tolerates tracebacks in the log.
    wrapper: words before the command, such as prlimit and its options.
    """

    def __init__(
        self,
        config: dict[str, Any] | str | None,
        *,
        workers: int = 2,
        env: dict[str, str] | None = None,
        ready: bool = True,
        started: bool = True,
        strict: bool = True,
        wrapper: Iterable[str] = (),
        pass_fds: Iterable[int] = (),
        directory: Path | None = None,
    ) -> None:
        self._own_directory = directory is None
        self.directory = Path(tempfile.mkdtemp(prefix="agw-test-")) if directory is None else directory
        self.file = self.directory / "config.json"
        self.stderr_file = self.directory / f"stderr-{time.monotonic_ns()}"
        self.stdout_file = self.directory / f"stdout-{time.monotonic_ns()}"
        self.addresses = {name: f"unix:@agw-test-{os.getpid()}-{next(_NUMBERS)}-{name}" for name in ("admin", "stats", "readiness")}
        """Where admin, stats and readiness listen. With a configuration in text, set it yourself."""
        self.workers = workers
        self.strict = strict
        self._no_file = config is None
        self._wait_ready = ready
        self._start = started
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})}
        self._wrapper = list(wrapper)
        self._pass_fds = tuple(pass_fds)
        self._ready_line: dict[str, Any] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        if config is not None:
            self.write(config)

    # ------------------------------------------------------------------------------------------------ life

    def __enter__(self) -> Self:
        if not self._start:
            return self
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None and self.process is not None and self.process.poll() is None:
                self.stop()
            elif kind is not None and error is not None:
                error.add_note(f"---- stderr of the gateway ({self.directory})\n{self.stderr()[-6000:]}")
            elif self.strict:
                self.assert_clean_log()
        finally:
            self.close()

    def start(self, ready: bool | None = None) -> Self:
        """Start, and wait for readiness. Errors: AssertionError if it exits or takes longer than START_S."""
        agw = os.environ.get("AGW_BIN")
        command = [*self._wrapper, *([agw] if agw else [sys.executable, "-m", "agw"]), "serve", "--workers", str(self.workers)]
        if not self._no_file:
            command += ["-f", str(self.file)]
        with open(self.stderr_file, "ab") as err, open(self.stdout_file, "ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=self.directory, env=self._environment,
                start_new_session=True, pass_fds=self._pass_fds,
            )
        if self._wait_ready if ready is None else ready:
            self.wait_ready()
        return self

    def wait_ready(self, timeout: float = START_S) -> dict[str, Any]:
        """The log line "ready"."""

        def found() -> dict[str, Any] | None:
            assert self.pid and self.process is not None
            over = self.process.poll()
            line = self.find_log("ready")
            if line is None and over is not None:
                raise AssertionError(f"the gateway ended with code {over} before it was ready:\n{self.stderr()}")
            return line

        self._ready_line = wait_until(found, timeout, "log line 'ready'")
        return self._ready_line

    def wait(self, timeout: float = 10.0) -> int:
        """The exit code, once it ended by itself."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"the gateway still runs after {timeout} s") from None

    def stop(self, number: int = signal.SIGTERM, code: int | None = 0, timeout: float = 10.0) -> int:
        """Signal, wait, and check code, process group and log."""
        if self.process is not None and self.process.poll() is None:
            self.signal(number)
        ended = self.wait(timeout)
        if code is not None:
            assert ended == code, f"exit code {ended}, expected {code}:\n{self.stderr()[-4000:]}"
        self.assert_gone()
        if self.strict:
            self.assert_clean_log()
        return ended

    def close(self) -> None:
        """Kill what is left of it and remove its directory."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait(10)
            wait_until(lambda: not self.group(), 10, "the process group is empty")
        if self._own_directory and not os.environ.get("AGW_TEST_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def signal(self, number: int) -> None:
        """To the supervisor."""
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        """The supervisor."""
        assert self.process is not None, "not started"
        return self.process.pid

    # ------------------------------------------------------------------------------------------------ config

    def write(self, config: dict[str, Any] | str) -> None:
        """Replace the configuration file, atomically."""
        if isinstance(config, str):
            text = config
        else:
            process = {**{f"{name}Addr": where for name, where in self.addresses.items()}, **config.get("config", {})}
            self.addresses = {name: process[f"{name}Addr"] for name in self.addresses}
            frontend = {"accessLog": {"enabled": False}, **config.get("frontendPolicies", {})}
            text = json.dumps({**config, "config": process, "frontendPolicies": frontend})
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.file)

    def reload(self, config: dict[str, Any] | str | None = None, timeout: float = 10.0) -> int:
        """Write, SIGHUP, and wait until all workers run it; returns the new generation. Errors: AssertionError if refused."""
        before = len(self.log_lines())
        if config is not None:
            self.write(config)
        self.signal(signal.SIGHUP)

        def done() -> dict[str, Any] | None:
            for line in self.log_lines()[before:]:
                assert not line["msg"].startswith("reload refused"), line
                if line["msg"] == "configuration applied":
                    return line
            return None

        return int(wait_until(done, timeout, "log line 'configuration applied'")["generation"])

    # ------------------------------------------------------------------------------------------------ addresses

    @property
    def ready_line(self) -> dict[str, Any]:
        """The log line "ready"."""
        return self._ready_line or self.wait_ready()

    @property
    def ports(self) -> list[int]:
        """Ports of the gateways, in the order of the configuration; after a reload, those of the newest one."""
        applied = [line for line in self.log_lines() if line["msg"] == "configuration applied"]
        return [int(where.rpartition(":")[2]) for where in (applied[-1] if applied else self.ready_line)["listening"]]

    @property
    def port(self) -> int:
        """The first gateway's port."""
        return self.ports[0]

    # ------------------------------------------------------------------------------------------------ traffic

    def get(self, path: str = "/", port: int | None = None, method: str = "GET", body: bytes | None = None,
            headers: dict[str, str] | None = None, timeout: float = 5.0) -> Reply:
        """One request through the gateway on a new connection."""
        return ask(f"127.0.0.1:{port or self.port}", method, path, body, headers, timeout)

    def connect(self, port: int | None = None, timeout: float = 5.0) -> socket.socket:
        """A raw connection to the gateway."""
        return socket.create_connection(("127.0.0.1", port or self.port), timeout)

    def admin(self, path: str, method: str = "GET", timeout: float = 5.0) -> Reply:
        """A request to the admin listener."""
        return ask(self.addresses["admin"], method, path, timeout=timeout)

    def ready(self) -> int:
        """Status of the readiness probe; 0 when nobody answers."""
        try:
            return ask(self.addresses["readiness"], "GET", "/healthz/ready").status
        except (OSError, http.client.HTTPException):
            return 0

    def metrics(self) -> Metrics:
        """One scrape."""
        reply = ask(self.addresses["stats"], "GET", "/metrics")
        assert reply.status == 200, reply
        return Metrics.parse(reply.text)

    # ------------------------------------------------------------------------------------------------ processes

    def slots(self) -> list[dict[str, Any]]:
        """`/workers` of the admin listener."""
        return list(self.admin("/workers").json()["workers"])

    def pids(self) -> list[int]:
        """Pids of the workers that are ready, by slot."""
        return [int(w["pid"]) for w in self.slots() if w["state"] == "ready" and w["pid"]]

    def group(self) -> list[int]:
        """Every living process of the gateway, zombies left out."""
        assert self.process is not None
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                if int(fields[2]) == self.process.pid and fields[0] not in "ZX":
                    found.append(int(entry))
        return sorted(found)

    def named(self, name: str) -> list[int]:
        """Living processes of the gateway by their name: agw, agw-worker, agw-helper."""
        found = []
        for pid in self.group():
            try:
                if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                    found.append(pid)
            except OSError:
                pass
        return found

    def helper_pid(self) -> int:
        """The helper process."""
        return wait_until(lambda: self.named("agw-helper"), 5, "a helper process")[0]

    def assert_gone(self) -> None:
        """No process of it is left."""
        wait_until(lambda: not self.group(), 5, f"no process left in group {self.pid}")

    # ------------------------------------------------------------------------------------------------ log

    def stderr(self) -> str:
        """All of standard error."""
        return self.stderr_file.read_text(errors="replace") if self.stderr_file.exists() else ""

    def stdout(self) -> str:
        """All of standard output."""
        return self.stdout_file.read_text(errors="replace") if self.stdout_file.exists() else ""

    def log_lines(self) -> list[dict[str, Any]]:
        """The operator log; lines that are not complete JSON objects are left out."""
        found = []
        for line in self.stderr().split("\n")[:-1]:
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def find_log(self, message: str, **fields: Any) -> dict[str, Any] | None:
        """The last log line whose message begins like this and that has these fields."""
        for line in reversed(self.log_lines()):
            if line["msg"].startswith(message) and all(line.get(k) == v for k, v in fields.items()):
                return line
        return None

    def wait_log(self, message: str, timeout: float = 10.0, **fields: Any) -> dict[str, Any]:
        """The same, once it is there."""
        return wait_until(lambda: self.find_log(message, **fields), timeout, f"log line {message!r} {fields or ''}")

    def count_log(self, message: str) -> int:
        """How many log lines begin like this."""
        return sum(line["msg"].startswith(message) for line in self.log_lines())

    def assert_clean_log(self) -> None:
        """No traceback, whether logged or printed."""
        text = self.stderr()
        traces = [line for line in self.log_lines() if "trace" in line]
        assert not traces, f"the gateway logged an exception: {traces[0]['msg']}\n{traces[0]['trace']}"
        assert "Traceback (most recent call last)" not in text, text[-4000:]


def open_fds(pid: int) -> int:
    """Number of descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
