"""Instances of variants and their measured windows: `start`, then `window` once or once a round, then `stop`.

Every session, target and tool of a scenario has been used once before the first window: what is measured is the steady
state, not how it is reached. Units are in the names of the metrics.
"""

import contextlib
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from bench.harness import http_messages as messages
from bench.harness import processes, procfs, wrk
from bench.harness.cores import available
from bench.harness.dialogue import Dialogue
from bench.harness.measure import Bench, Meter, Sample, closed_loop
from bench.harness.processes import BenchError, python_module
from bench.load.timing import percentile, punctual
from bench.mcp import sessions
from bench.mcp.gateway import PEERS, McpJob
from bench.mcp.scenarios import Kind, McpScenario, Variant
from bench.peers import Peer
from bench.security.tokens import Issuer, with_token

_LEAST_REQUESTS = 1024
"""Different requests (and JSON-RPC ids) in turn: no id may be twice under way in a session."""
_MOST_PAIRS = 5000
_MOST_ROUNDS = 20
_WAKE_S = 10.0
_COMPILED_PATH_US = 60.0
_SETTLE_S = 0.5
_PACED_LIMIT_PER_S = 20_000.0
_OPEN_LIMIT_S = 600.0
REST_S = 75.0
"""After so long agw has put idle sessions to sleep."""


@dataclass(slots=True)
class Lab:
    """What all windows share. `ports` gives three free ports per instance."""

    bench: Bench
    server_port: int
    ports: Iterator[int]
    issuer: Issuer
    token_length: int = 256  # of agw's session ids; known after its first start
    list_file: Path | None = None  # agw's answer to tools/list
    rates: dict[str, float] = field(default_factory=dict)  # STREAMS: by scenario
    rest_s: float = 0.0  # MEMORY: how long sessions rest before they are weighed again, in the first round only
    rested: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Instance:
    """A running peer with its requests."""

    variant: Variant
    peer: Peer
    job: McpJob
    directory: Path
    keep_files: bool
    file: Path
    found: Sample = field(default_factory=dict)  # known since the start
    holder: Dialogue | None = None
    tokens: list[str] = field(default_factory=list)

    def dress(self, request: bytes, client: int) -> bytes:
        """The request as this client sends it."""
        return with_token(request, self.tokens[client % len(self.tokens)]) if self.tokens else request

    @property
    def port(self) -> int:
        """Where clients connect."""
        return self.peer.listening_port(self.job, stream=False)

    def stop(self) -> None:
        """End it."""
        if self.holder is not None:
            self.holder.close()
        self.peer.stop()
        if not self.keep_files:
            shutil.rmtree(self.directory, ignore_errors=True)


def start(lab: Lab, scenario: McpScenario, variant: Variant) -> Instance:
    """A fresh instance, ready to be measured. Errors: BenchError."""
    directory = lab.bench.directory / f"{scenario.key}-{variant.name}-{time.monotonic_ns():x}"
    directory.mkdir()
    fields = {"file": lab.list_file, "jwks": lab.issuer.jwks, **variant.job}
    job = McpJob(next(lab.ports), lab.server_port, 0, next(lab.ports), next(lab.ports), **fields)  # type: ignore[arg-type]
    peer = PEERS[variant.peer]()
    instance = Instance(variant, peer, job, directory, lab.bench.keep, directory / "requests")
    instance.tokens = lab.issuer.known(variant.tokens)
    with _failing_as_bench_error(instance):
        peer.start(job, directory, available() if scenario.kind is Kind.SATURATION else lab.bench.cores.peer)
        PREPARE[scenario.kind](lab, instance)
    return instance


def window(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """One measurement. Errors: BenchError."""
    with _failing_as_bench_error(instance):
        sample = {**instance.found, **WINDOWS[scenario.kind](lab, scenario, instance)}
        if workers := instance.peer.worker_pids():
            memory = procfs.memory(workers)
            sample |= {
                "pss_mib": memory.pss / len(workers) / 2**20,
                "private_mib": memory.private / len(workers) / 2**20,
                "control_pss_mib": procfs.memory(instance.peer.control_pids()).pss / 2**20,
            }
        return sample


@contextlib.contextmanager
def _failing_as_bench_error(instance: Instance) -> Iterator[None]:
    try:
        yield
    except BenchError:
        instance.stop()
        raise
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        instance.stop()
        raise BenchError(f"{type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------------------------------- preparing


def prepare_calls(lab: Lab, instance: Instance) -> None:
    """Render the requests, and make each once."""
    what, port = instance.variant.what, instance.port
    if what == "file":
        requests = [messages.render("POST", "/file", port, messages.mcp_headers("x" * lab.token_length), b"{}")]
    elif what == "http":
        requests = http_requests(lab, instance, _LEAST_REQUESTS)
    elif what == "list":
        requests = [_at(instance, sessions.list_request(port, ident)) for ident in _session_ids(lab, instance)]
    else:
        requests = list(_calls(instance, [] if what == "modern" else _session_ids(lab, instance)))
    answers = sessions.exchange_all(port, requests) if what != "file" else iter(())
    for count, answer in enumerate(answers):
        if answer.status != 200 or b'"result"' not in answer.body:
            raise BenchError(f"wrong answer: {answer.status} {answer.body[:150]!r}")
        if what == "list" and not count and instance.variant.peer == "agw":
            _check_list(instance, answer.body)
            lab.list_file = lab.bench.directory / "list.json"
            lab.list_file.write_bytes(answer.body)
    random.Random(1).shuffle(requests)
    messages.write_requests(instance.file, requests)
    if instance.variant.sessions > _MOST_PAIRS:
        _wake_all(lab, instance)


def http_requests(lab: Lab, instance: Instance, count: int) -> list[bytes]:
    """The same call past the MCP route: to what is behind it, plain HTTP for every proxy."""
    path, headers = instance.job.target_path(0), messages.mcp_headers("x" * lab.token_length)
    return [
        instance.dress(messages.render("POST", path, instance.port, headers, messages.call_body()), number) for number in range(count)
    ]


def _wake_all(lab: Lab, instance: Instance) -> None:
    """Opening many sessions takes longer than agw lets them rest awake: go round until the calls cost what calls cost."""
    workers = instance.peer.worker_pids()
    for _ in range(_MOST_ROUNDS):
        begun = procfs.cpu_time(workers)
        load = wrk.run(instance.port, instance.file, 64, _WAKE_S, lab.bench.cores.load, lab.bench.directory)
        if procfs.cpu_time(workers).since(begun).exact_s / max(1, load.requests) * 1e6 < _COMPILED_PATH_US:
            return


def _session_ids(lab: Lab, instance: Instance) -> list[str]:
    """Sessions at a gateway; to whoever does not look at them, ids as long as agw's."""
    if instance.variant.peer in ("nginx", "direct"):
        return [f"{number:0{lab.token_length}d}" for number in range(instance.variant.sessions)]
    found = sessions.open_many(instance.port, instance.variant.sessions, instance.dress)
    if instance.variant.peer.startswith("agw"):
        lab.token_length = len(found[0])
    return found


def _calls(instance: Instance, ids: list[str]) -> Iterator[bytes]:
    """Every session at every target (as far as that is not too many), every tool; each call with its own JSON-RPC id."""
    job, federated = instance.job, instance.variant.peer in ("agw", "agw-counted", "nginx", "direct")
    targets, tools = (job.targets, job.tools) if federated else (1, 1)
    held = max(1, len(ids))
    pairs = held * targets
    for number in range(max(_LEAST_REQUESTS, held, targets * tools, pairs if pairs <= _MOST_PAIRS else 0)):
        turn = number // targets
        tool = job.tool_name(number % targets, turn % tools) if federated else "echo"
        session = ids[turn % held] if ids else None
        yield _at(instance, instance.dress(sessions.call_request(instance.port, session, tool, number=number), turn % held if ids else number))


def _at(instance: Instance, request: bytes) -> bytes:
    """The request at the path where this peer serves it; same length wherever a proxy is between."""
    if instance.variant.peer != "direct":
        return request
    return request.replace(b" /mcp ", b" %b " % instance.job.target_path(0).encode(), 1)


def _check_list(instance: Instance, body: bytes) -> None:
    tools = json.loads(body)["result"]["tools"]
    wanted = instance.job.targets * instance.job.tools
    if len(tools) != wanted:
        raise BenchError(f"the list has {len(tools)} tools, not {wanted}")


def _prepare_handshakes(lab: Lab, instance: Instance) -> None:
    sessions.open_many(instance.port, 4) if instance.variant.peer == "agw" else None


def _prepare_memory(lab: Lab, instance: Instance) -> None:
    """Touch all code before anything is weighed."""
    ids = sessions.open_many(instance.port, 200)
    sessions.call_all(instance.port, _calls(instance, ids))
    time.sleep(_SETTLE_S)


def _prepare_streams(lab: Lab, instance: Instance) -> None:
    prepare_calls(lab, instance)
    variant, workers = instance.variant, instance.peer.worker_pids()
    program = ["--port", instance.port, "--sessions", variant.held]
    before = procfs.memory(workers)
    holder = instance.holder = Dialogue(
        python_module("bench.mcp.sessions", *program), lab.bench.cores.load, instance.directory
    )
    holder.expect("SESSIONS", _OPEN_LIMIT_S)
    time.sleep(_SETTLE_S)
    opened = procfs.memory(workers)
    instance.found["bytes_per_session"] = (opened.private - before.private) / variant.held
    if variant.streams:
        if holder.ask(_OPEN_LIMIT_S) != "OPEN":
            raise BenchError("the streams were not opened")
        time.sleep(_SETTLE_S)
        after = procfs.memory(workers)
        instance.found["bytes_per_stream"] = (after.private - opened.private) / variant.held


# ---------------------------------------------------------------------------------------------------------- windows


def _window_calls(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    sample = closed_loop(lab.bench, instance.variant.connections, instance.peer, instance.port, instance.file)
    if instance.variant.peer == "agw" and instance.variant.what in ("call", "modern") and sample["cpu_us"] > _COMPILED_PATH_US:
        raise BenchError(f"{sample['cpu_us']:.0f} us per call: these calls do not stay on the compiled path")
    return sample


def _window_handshakes(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """One initialize after another on one connection, each answered before the next."""
    request = _at(instance, sessions.initialize_request(instance.port))
    times: list[float] = []
    ids: list[str] = []
    meter = Meter(lab.bench, instance.peer)
    with messages.connect(instance.port) as sock:
        end = time.monotonic() + lab.bench.duration_s
        while time.monotonic() < end:
            begun = time.perf_counter()
            answer = messages.exchange(sock, request)
            times.append((time.perf_counter() - begun) * 1e6)
            if answer.status != 200 or b'"protocolVersion"' not in answer.body:
                raise BenchError(f"initialize answered {answer.status}: {answer.body[:150]!r}")
            ids.append(answer.headers["mcp-session-id"])
    sample = {"units": float(len(times)), "per_s": len(times) / lab.bench.duration_s, "errors": 0.0}
    times.sort()
    sample |= {"p50_us": percentile(times, 0.5), "p99_us": percentile(times, 0.99)} | meter.read(len(times))
    if instance.variant.peer == "agw":
        ends = (messages.render("DELETE", "/mcp", instance.port, {"Mcp-Session-Id": ident}) for ident in ids)
        for _ in sessions.exchange_all(instance.port, ends):
            pass
    return sample


def _window_memory(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """Private memory before and after many sessions were opened, and after each made a call at every target."""
    workers, count = instance.peer.worker_pids(), instance.variant.held
    before = procfs.memory(workers)
    begun = procfs.cpu_time(workers)
    ids = sessions.open_many(instance.port, count)
    used = procfs.cpu_time(workers).since(begun)
    time.sleep(_SETTLE_S)
    opened = procfs.memory(workers)
    sessions.call_all(
        instance.port,
        (
            sessions.call_request(instance.port, ident, instance.job.tool_name(target, 0), number=target + 1)
            for ident in ids
            for target in range(instance.job.targets)
        ),
    )
    time.sleep(_SETTLE_S)
    after = procfs.memory(workers)
    rested: Sample = {}
    if lab.rest_s and instance.variant.name not in lab.rested:
        # agw puts sessions to sleep after a minute.
        lab.rested.add(instance.variant.name)
        time.sleep(lab.rest_s)
        rested["bytes_per_resting_session"] = (procfs.memory(workers).private - before.private) / count
    return {
        **rested,
        "units": float(count),
        "bytes_per_session": (opened.private - before.private) / count,
        "bytes_per_used_session": (after.private - before.private) / count,
        "open_cpu_us": used.exact_s / count * 1e6,
        "token_bytes": float(len(ids[0])),
    }


def _window_streams(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    bench, port = lab.bench, instance.port
    if scenario.key not in lab.rates:
        ceiling = wrk.run(port, instance.file, 64, 2.0, bench.cores.load, bench.directory).per_s
        lab.rates[scenario.key] = min(_PACED_LIMIT_PER_S, ceiling / 2)
    rate = lab.rates[scenario.key]
    program = ["--port", port, "--requests", instance.file, "--rate", rate, "--connections", 64]

    def paced(seconds: float) -> Sample:
        argv = python_module("bench.load.paced", *program, "--duration", seconds)
        return cast(Sample, json.loads(processes.run(argv, bench.cores.load, seconds + 30.0, bench.directory)))

    with punctual(bench.backend_pids):
        paced(max(0.5, bench.warmup_s))
        meter = Meter(bench, instance.peer)
        found = paced(bench.duration_s)
    sample = {"per_s": found["requests"] / found["duration_s"], "units": found["requests"], "rate": rate}
    sample |= {name: found[name] for name in ("errors", "p50_us", "p99_us", "p999_us", "lag_p99_us", "client_busy", "realtime")}
    return sample | meter.read(found["requests"])


PREPARE: dict[Kind, Callable[[Lab, Instance], None]] = {
    Kind.CALLS: prepare_calls,
    Kind.HANDSHAKES: _prepare_handshakes,
    Kind.MEMORY: _prepare_memory,
    Kind.STREAMS: _prepare_streams,
}
WINDOWS: dict[Kind, Callable[[Lab, McpScenario, Instance], Sample]] = {
    Kind.CALLS: _window_calls,
    Kind.HANDSHAKES: _window_handshakes,
    Kind.MEMORY: _window_memory,
    Kind.STREAMS: _window_streams,
}
