"""Runs the benchmark: every chosen scenario, round by round, the peers taking turns within a round.

    bench/run.sh [--quick] [--scenario KEY,KEY] [--peers NAME,NAME] [--runs 5] [--duration 5]

Progress goes to standard error, the Markdown tables to standard output, all single runs to
bench/results/<date>-<commit>.json. Ctrl-C ends everything that was started and still writes what is complete. Exit
status: 0; 1 if a single run failed; 2 for usage.
"""

import argparse
import datetime
import re
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.harness import cores, http_messages, processes, report, results, syscalls
from bench.harness.measure import Bench, Sample, measure
from bench.harness.processes import BenchError
from bench.harness.progress import Progress
from bench.harness.results import Document, Run
from bench.peers import REGISTRY, Job, Peer
from bench.peers.backend import Backends
from bench.peers.direct import Direct
from bench.scenarios import SCENARIOS, Scenario, takes_part

_RESULTS = Path(__file__).resolve().parent / "results"
_BASE_PORT = 18100  # below the usual range of ephemeral ports
_MAX_FAILURES = 2  # a peer that failed this often in a scenario is not tried in its later rounds


@dataclass(slots=True)
class Session:
    """One invocation: what was chosen and what came out."""

    args: argparse.Namespace
    peers: list[Peer]
    scenarios: list[Scenario]
    notes: list[str] = field(default_factory=list)
    runs: dict[str, dict[str, list[Run]]] = field(default_factory=dict)  # scenario -> peer -> one per round


def main(argv: Sequence[str] | None = None) -> int:
    """Entry; see the module docstring."""
    args = _parse(argv)
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.key:14} {'quick' if scenario.quick else '':6} {scenario.kind.value:22} {scenario.title}")
        return 0
    raise_file_limit()
    processes.end_on_signals()
    session = _choose(args)
    if not session.peers or not session.scenarios:
        print("bench: nothing to run", *session.notes, sep="\n  ", file=sys.stderr)
        return 2
    started = datetime.datetime.now(datetime.UTC)
    directory = Path(tempfile.mkdtemp(prefix="agw-bench-"))
    status = 0
    try:
        _run_all(session, directory)
    except KeyboardInterrupt:
        session.notes.append("interrupted: incomplete")
        status = 130
    except BenchError as error:
        session.notes.append(f"given up: {error}")
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    finally:
        processes.stop_all()
        if args.keep:
            print(f"bench: configurations and logs in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
        _publish(session, started)
    failed = any(run["error"] for peers in session.runs.values() for runs in peers.values() for run in runs)
    return status or int(failed)


def _publish(session: Session, started: datetime.datetime) -> None:
    """Tables to standard output, every single run to the result file, however the session ended."""
    if not session.runs:
        return
    document = _document(session, started)
    path = session.args.output or _RESULTS / results.file_name(document)
    results.write(path, document)
    print(report.render(document))
    print(f"bench: single runs in {path}", file=sys.stderr)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short list, 1 run of 2 s each")
    parser.add_argument("--scenario", default="", help="keys separated by commas (see --list)")
    parser.add_argument("--peers", default="", help="names separated by commas: " + ",".join(p.name for p in REGISTRY))
    parser.add_argument("--runs", type=int, help="rounds (5; quick: 1)")
    parser.add_argument("--duration", type=float, help="seconds per single run (5; quick: 2)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each single run (1)")
    parser.add_argument("--share-cores", action="store_true", help="run multi-worker scenarios without free CPUs")
    parser.add_argument("--base-port", type=int, default=_BASE_PORT)
    parser.add_argument("--output", type=Path, help="result file instead of bench/results/<date>-<commit>.json")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with configurations and logs")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    args = parser.parse_args(argv)
    args.runs = args.runs or (1 if args.quick else 5)
    args.duration = args.duration or (2.0 if args.quick else 5.0)
    if not 1 <= args.runs <= 100 or not 1 <= args.duration <= 3600:
        parser.error("--runs must be 1 to 100, --duration 1 to 3600")
    for given, known in ((args.scenario, {s.key for s in SCENARIOS}), (args.peers, {p.name for p in REGISTRY})):
        if unknown := set(filter(None, given.split(","))) - known:
            parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return args


def _choose(args: argparse.Namespace) -> Session:
    """Peers and scenarios that can run, with a note on each that cannot."""
    session = Session(args, [], [])
    wanted_peers = set(filter(None, args.peers.split(",")))
    for kind in REGISTRY:
        peer = kind()
        if wanted_peers and peer.name not in wanted_peers:
            continue
        if why := peer.missing():
            session.notes.append(f"without {peer.name}: {why}")
        else:
            session.peers.append(peer)
    wanted = set(filter(None, args.scenario.split(",")))
    for scenario in SCENARIOS:
        if scenario.key not in wanted if wanted else args.quick and not scenario.quick:
            continue
        if cores.assign(scenario.workers, share=args.share_cores) is None:
            need = scenario.workers + 2
            session.notes.append(
                f"skipped {scenario.key}: {scenario.workers} workers need {need} CPUs (workers, load, backend), "
                f"this machine has {len(cores.available())}; --share-cores runs it with all roles mixed"
            )
        else:
            session.scenarios.append(scenario)
    if syscalls.tool() is None:
        session.notes.append("no system call counts: neither perf nor strace can trace here")
    if len(cores.available()) == 1:
        session.notes.append("one CPU only: peer, load and backend share it; only CPU per request means something")
    return session


def _run_all(session: Session, directory: Path) -> None:
    """Scenario by scenario; within one, round by round; within a round, peer by peer."""
    args = session.args
    one = cores.assign()
    assert one is not None
    print(f"bench: {one.describe()}; system calls counted by {syscalls.tool()}", file=sys.stderr)
    for note in session.notes:
        print(f"bench: {note}", file=sys.stderr)
    turns = sum(takes_part(scenario, peer.name) for scenario in session.scenarios for peer in session.peers)
    progress = Progress(turns * args.runs)
    ports = free_ports(args.base_port)
    backends = Backends(next(ports), next(ports), next(ports), directory, one.backend)
    job = Job(next(ports), backends.fixed_port, backends.stream_port, next(ports), next(ports))
    _check_job(session, job, directory, one)
    for scenario in session.scenarios:
        peers = [peer for peer in session.peers if takes_part(scenario, peer.name)]
        found = session.runs.setdefault(scenario.key, {peer.name: [] for peer in peers})
        assigned = cores.assign(scenario.workers, share=args.share_cores)
        assert assigned is not None
        bench = Bench(assigned, directory, args.duration, args.warmup, backends.pids(), keep=args.keep)
        own = replace(job, workers=scenario.workers, routes=scenario.routes, access_log=scenario.access_log)
        if scenario.mcp:
            own = replace(own, backend_port=backends.mcp_port)
        for number in range(args.runs):
            for peer in peers:
                what = f"{scenario.key} {peer.name} {number + 1}/{args.runs}"
                progress.begin(what)
                run = _single(bench, scenario, peer, own, found[peer.name])
                found[peer.name].append(run)
                progress.end(what, run["error"] or _brief(run["metrics"]))
    progress.clear()
    backends.stop()


def _single(bench: Bench, scenario: Scenario, peer: Peer, job: Job, earlier: Sequence[Run]) -> Run:
    failures = [run for run in earlier if run["error"]]
    if len(failures) >= _MAX_FAILURES:
        return failures[0]
    try:
        return {"metrics": measure(bench, scenario, peer, job), "error": ""}
    except BenchError as error:
        return {"metrics": {}, "error": str(error)}


def _check_job(session: Session, job: Job, directory: Path, assigned: cores.Cores) -> None:
    """Start each proxy once and look whether the backend sees the same added headers behind all of them."""
    for peer in session.peers:
        if isinstance(peer, Direct):
            continue
        own = directory / f"check-{peer.name}"
        own.mkdir()
        try:
            peer.start(job, own, assigned.peer)
            with http_messages.connect(job.port) as sock:
                seen = http_messages.exchange(sock, http_messages.render("GET", "/seen", job.port)).body.decode()
        except (BenchError, OSError, ValueError) as error:
            seen = f"cannot be checked: {error}"
        finally:
            peer.stop()
        # Envoy puts its own address in place of a loopback client: the same work, so any address will do.
        if not re.fullmatch(rf"for=[\d.]+;proto=http;host=127\.0\.0\.1:{job.port};", seen):
            note = f"{peer.name} does not do the same job: the backend saw {seen[:200]!r}"
            session.notes.append(note)
            print(f"bench: {note}", file=sys.stderr)


def _document(session: Session, started: datetime.datetime) -> Document:
    """Everything this session found out."""
    args = session.args
    commit, changed = results.commit()
    one = cores.assign()
    return {
        "schema": results.SCHEMA,
        "commit": commit,
        "changed": changed,
        "started": started.isoformat(timespec="seconds"),
        "machine": results.machine(),
        "settings": {
            "runs": args.runs,
            "duration_s": args.duration,
            "warmup_s": args.warmup,
            "cores": one.describe() if one else "",
            "syscalls_by": syscalls.tool(),
        },
        "versions": {peer.name: peer.version() for peer in session.peers},
        "notes": session.notes,
        "scenarios": {
            scenario.key: {"title": scenario.title, "kind": scenario.kind.value, "runs": session.runs[scenario.key]}
            for scenario in session.scenarios
            if scenario.key in session.runs
        },
    }


def _brief(sample: Sample) -> str:
    """One run in a few words."""
    words = [f"{sample['per_s']:,.0f}/s"] if "per_s" in sample else []
    if "cpu_us" in sample:
        words.append(f"{sample['cpu_us']:.1f} us CPU")
    if "p99_us" in sample:
        words.append(f"p99 {sample['p99_us']:,.0f} us")
    if "bytes_per_connection" in sample:
        words.append(f"{sample['bytes_per_connection']:,.0f} B per connection")
    return ", ".join(words) or "done"


def free_ports(first: int) -> Iterator[int]:
    """Ports on 127.0.0.1 nobody listens on, upwards from `first`."""
    for port in range(first, min(first + 1000, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((http_messages.HOST, port))
            except OSError:
                continue
        yield port
    raise BenchError(f"no free port from {first} on")


def raise_file_limit() -> None:
    """Thousands of connections: as many descriptors as the hard limit gives, inherited by all children."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
