"""One single run: one peer, one scenario, freshly started; the result is a flat table of numbers.

Order: start, check that the answer is the right one, warm up, measure, count system calls in a window of its own, read
memory, stop. Units are in the names of the metrics; a metric that does not apply is absent.
"""

import json
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import http_messages as messages
from bench.harness import processes, procfs, syscalls, wrk
from bench.harness.cores import Cores
from bench.harness.dialogue import Dialogue
from bench.harness.processes import BenchError, python_module
from bench.load.timing import punctual
from bench.peers import Job, Peer
from bench.peers.backend import EVENTS_PER_S
from bench.scenarios import Kind, Scenario

Sample = dict[str, float]

_CALIBRATE_S = 2.0
_SYSCALLS_S = 1.0
# Above this the paced client and a backend on the same CPU would queue themselves: `direct` has p99 0.4 ms here.
_PACED_LIMIT_PER_S = 30_000.0


@dataclass(slots=True)
class Bench:
    """What all single runs share."""

    cores: Cores
    directory: Path
    duration_s: float
    warmup_s: float
    backend_pids: list[int]
    keep: bool = False
    rates: dict[tuple[str, str], float] = field(default_factory=dict)  # (scenario, peer) -> paced rate of this session


class Meter:
    """CPU used between creation and `read`: by the peer, and by strangers on its CPUs and on the load CPUs."""

    def __init__(self, bench: Bench, peer: Peer, client: int | None = None) -> None:
        """Begin. `client`: a load program that goes on running after `read`; ended ones are known as our children."""
        self._cores = bench.cores
        self._workers, self._control = peer.worker_pids(), peer.control_pids()
        self._load = [*bench.backend_pids, *([client] if client else [])]
        self._start = self._snapshot()

    def read(self, units: float) -> Sample:
        """Metrics per unit of work (request or event) and shares of the CPUs since the beginning."""
        clock, workers, control, load, peer_cpus, load_cpus = self._snapshot()
        clock0, workers0, control0, load0, peer_cpus0, load_cpus0 = self._start
        peer_wall, load_wall = ((clock - clock0) * len(cpus) for cpus in (self._cores.peer, self._cores.load))
        sample = {
            "load_cpu_busy": (load_cpus - load_cpus0) / load_wall,
            "load_foreign_busy": max(0.0, load_cpus - load_cpus0 - (load - load0)) / load_wall,
        }
        shared = set(self._cores.peer) & set(self._cores.load)
        if shared or self._cores.backend != self._cores.load:
            del sample["load_foreign_busy"]  # what we used ourselves there is not known
        if self._workers and units:
            used, apart = workers.since(workers0), control.since(control0)
            foreign = peer_cpus - peer_cpus0 - used.exact_s - apart.exact_s
            sample |= {
                "cpu_us": used.exact_s / units * 1e6,
                "cpu_user_us": used.user_s / units * 1e6,
                "cpu_system_us": used.system_s / units * 1e6,
                "control_cpu_us": apart.exact_s / units * 1e6,
                "peer_cpu_busy": used.exact_s / peer_wall,
                "foreign_cpu_busy": 0.0 if shared else max(0.0, foreign) / peer_wall,
            }
        return sample

    def _snapshot(self) -> tuple[float, procfs.CpuTime, procfs.CpuTime, float, float, float]:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            time.monotonic(),
            procfs.cpu_time(self._workers),
            procfs.cpu_time(self._control),
            procfs.cpu_time(self._load).exact_s + ended.ru_utime + ended.ru_stime,
            procfs.cpu_busy_s(self._cores.peer),
            procfs.cpu_busy_s(self._cores.load),
        )


def measure(bench: Bench, scenario: Scenario, peer: Peer, job: Job) -> Sample:
    """Run `scenario` once against a fresh instance of `peer`; BenchError if it cannot be measured."""
    directory = bench.directory / f"{scenario.key}-{peer.name}-{time.monotonic_ns():x}"
    directory.mkdir()
    try:
        peer.start(job, directory, bench.cores.peer)
        stream = scenario.kind is Kind.STREAM
        port = peer.listening_port(job, stream=stream)
        file = directory / "requests"
        messages.write_requests(file, _checked_requests(scenario, port))
        run = _RUNS[scenario.kind]
        sample = run(bench, scenario, peer, port, file)
        if workers := peer.worker_pids():
            memory = procfs.memory(workers)
            sample |= {
                "pss_mib": memory.pss / len(workers) / 2**20,
                "private_mib": memory.private / len(workers) / 2**20,
                "control_pss_mib": procfs.memory(peer.control_pids()).pss / 2**20,
            }
        if scenario.access_log:
            peer.stop()  # what is buffered gets written
            sample["logged"] = _lines(peer.access_log(directory)) / sample["sent"]
        return sample
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        raise BenchError(f"{type(error).__name__}: {error}") from error
    finally:
        peer.stop()
        if not bench.keep:
            shutil.rmtree(directory, ignore_errors=True)  # access logs grow by the gigabyte


def _checked_requests(scenario: Scenario, port: int) -> list[bytes]:
    """The requests of a scenario, after the first and the last were answered as they should be."""
    if scenario.kind is Kind.STREAM:
        return []
    # All requests have one JSON-RPC id, and no session may have it twice under way.
    count = 2 * scenario.connections if scenario.session_path else 0
    ids = [messages.open_session(port, scenario.session_path) for _ in range(count)]
    requests = [request for session in ids or [None] for request in scenario.build(port, session)]
    for request in {requests[0], requests[-1]}:
        with messages.connect(port) as sock:
            answer = messages.exchange(sock, request)
        if answer.status != 200 or scenario.expect not in answer.body:
            raise BenchError(f"wrong answer: {answer.status} {answer.body[:150]!r}")
    return requests


def _closed(bench: Bench, scenario: Scenario, peer: Peer, port: int, file: Path) -> Sample:
    return closed_loop(bench, scenario.connections, peer, port, file)


def closed_loop(bench: Bench, connections: int, peer: Peer, port: int, file: Path) -> Sample:
    """A window of wrk with the requests of a file, and another in which system calls are counted."""
    cpus, directory = bench.cores.load, bench.directory
    sent = 0
    if bench.warmup_s > 0:
        sent = wrk.run(port, file, connections, bench.warmup_s, cpus, directory).requests
    meter = Meter(bench, peer)
    load = wrk.run(port, file, connections, bench.duration_s, cpus, directory)
    sample = {"per_s": load.per_s, "units": float(load.requests), "errors": float(load.errors)}
    sample |= {"p50_us": load.p50_us, "p99_us": load.p99_us, "p999_us": load.p999_us} | meter.read(load.requests)
    if peer.worker_pids() and syscalls.tool():
        counter = syscalls.Counter(peer.worker_pids(), directory)
        counter.start()
        traced = wrk.run(port, file, connections, _SYSCALLS_S, cpus, directory)
        sample["syscalls"] = counter.stop() / max(1, traced.requests)
        sent += traced.requests
    return sample | {"sent": float(sent + load.requests)}


def _paced(bench: Bench, scenario: Scenario, peer: Peer, port: int, file: Path) -> Sample:
    cpus, directory = bench.cores.load, bench.directory
    key = (scenario.key, peer.name)
    if key not in bench.rates:
        # One calibration per session, so that all rounds of a peer play the same timetable.
        ceiling = wrk.run(port, file, 64, _CALIBRATE_S, cpus, directory).per_s
        bench.rates[key] = scenario.rate or min(_PACED_LIMIT_PER_S, ceiling / 2)
    rate = bench.rates[key]
    program = ["--port", port, "--requests", file, "--rate", rate, "--connections", scenario.connections]
    with punctual(bench.backend_pids):
        if bench.warmup_s > 0:
            _run_json(python_module("bench.load.paced", *program, "--duration", bench.warmup_s), bench, bench.warmup_s)
        meter = Meter(bench, peer)
        argv = python_module("bench.load.paced", *program, "--duration", bench.duration_s)
        found = _run_json(argv, bench, bench.duration_s)
    sample = {"per_s": found["requests"] / found["duration_s"], "units": found["requests"], "rate": rate}
    sample |= {
        name: found[name] for name in ("errors", "p50_us", "p99_us", "p999_us", "lag_p99_us", "client_busy", "realtime")
    }
    return sample | meter.read(found["requests"])


def _idle(bench: Bench, scenario: Scenario, peer: Peer, port: int, file: Path) -> Sample:
    """Memory with the connections open against memory just before, after a warm-up that touched all code."""
    workers = peer.worker_pids()
    if not workers:
        return {}
    wrk.run(port, file, 64, max(1.0, bench.warmup_s), bench.cores.load, bench.directory)
    time.sleep(0.5)
    before = procfs.memory(workers)
    program = ["--port", port, "--requests", file, "--connections", scenario.connections]
    load = Dialogue(python_module("bench.load.idle", *program), bench.cores.load, bench.directory)
    try:
        load.expect("READY", 30.0)
        time.sleep(0.5)
        after = procfs.memory(workers)
        held = int(load.ask(10.0))
    finally:
        load.close()
    if held == 0:
        raise BenchError("the peer closed all idle connections")
    return {
        "held": float(held),
        "bytes_per_connection": (after.private - before.private) / held,
        "pss_bytes_per_connection": (after.pss - before.pss) / held,
    }


def _stream(bench: Bench, scenario: Scenario, peer: Peer, port: int, file: Path) -> Sample:
    mcp = ["--mcp"] if scenario.stream_path != "/events" else []
    program = ["--port", port, "--path", scenario.stream_path, "--streams", scenario.connections, *mcp]
    load = Dialogue(
        python_module("bench.load.sse_client", *program, "--duration", bench.duration_s),
        bench.cores.load,
        bench.directory,
    )
    try:
        with punctual(bench.backend_pids):
            load.expect("OPEN", 60.0)
            load.expect("START", 10.0)
            meter = Meter(bench, peer, load.pid)
            load.expect("END", bench.duration_s + 20.0)
            used = meter.read(1)
            found = json.loads(load.line(20.0))
    finally:
        load.close()
    events = max(1.0, found["events"])
    sample = {"per_s": events / found["duration_s"], "units": events, "errors": found["lost"]}
    sample |= {name: found[name] for name in ("p50_us", "p99_us", "p999_us", "client_busy", "realtime")}
    sample["delivered"] = events / found["duration_s"] / (scenario.connections * EVENTS_PER_S)
    return sample | {name: value / events if name.endswith("_us") else value for name, value in used.items()}


def _lines(path: Path) -> int:
    """Number of lines in a file that may be large."""
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _run_json(argv: list[str], bench: Bench, duration_s: float) -> Mapping[str, float]:
    found: Mapping[str, float] = json.loads(processes.run(argv, bench.cores.load, duration_s + 30.0, bench.directory))
    return found


_RUNS = {Kind.CLOSED: _closed, Kind.PACED: _paced, Kind.IDLE: _idle, Kind.STREAM: _stream}
