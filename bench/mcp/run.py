"""Runs the MCP scenarios: round by round, the variants taking turns within a round.

    bench/mcp/run.sh [--quick] [--scenario KEY,KEY] [--variants NAME,NAME] [--runs 5] [--duration 5]

Progress goes to standard error, the Markdown tables to standard output, all single runs to
bench/results/mcp-<date>-<commit>.json. Exit status: 0; 1 if a single run failed; 2 for usage. Missed limits are in the report
only: on a machine with other things to do they say nothing.
"""

import argparse
import datetime
import itertools
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import run as suite
from bench.harness import cores, processes, results, syscalls
from bench.harness.measure import Bench
from bench.harness.processes import BenchError
from bench.harness.progress import Progress
from bench.harness.results import Document, Run
from bench.mcp import measure, report
from bench.mcp.gateway import PEERS
from bench.mcp.scenarios import McpScenario, Variant
from bench.mcp.server import Server
from bench.mcp.suite import QUICK, SCENARIOS
from bench.security import limits, tokens
from bench.security import measure as security

_RESULTS = Path(__file__).resolve().parents[1] / "results"
_BASE_PORT = 19100
_MAX_FAILURES = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Entry; see the module docstring."""
    args = _parse(argv)
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.key:18} {'quick' if scenario.key in QUICK else '':6} {scenario.title}")
        return 0
    security.register()
    limits.register()
    suite.raise_file_limit()
    processes.end_on_signals()
    one = cores.assign()
    assert one is not None
    notes, missing = _missing()
    started = datetime.datetime.now(datetime.UTC)
    directory = Path(tempfile.mkdtemp(prefix="agw-bench-mcp-"))
    runs: dict[str, dict[str, list[Run]]] = {}
    status = 0
    try:
        ports = suite.free_ports(args.base_port)
        server = Server(next(ports), directory, one.backend)
        bench = Bench(one, directory, args.duration, args.warmup, server.pids(), keep=args.keep)
        lab = measure.Lab(bench, server.port, ports, tokens.Issuer(directory), rest_s=0.0 if args.quick else measure.REST_S)
        chosen = [_chosen(scenario, args, missing) for scenario in SCENARIOS if _wanted(scenario, args)]
        progress = Progress(sum(len(variants) * min(args.runs, scenario.rounds) for scenario, variants in chosen))
        for scenario, variants in chosen:
            _run(lab, scenario, variants, min(args.runs, scenario.rounds), runs.setdefault(scenario.key, {v.name: [] for v in variants}), progress)
        progress.clear()
    except KeyboardInterrupt:
        notes.append("interrupted: incomplete")
        status = 130
    except BenchError as error:
        notes.append(f"given up: {error}")
        print(f"bench: {error}", file=sys.stderr)
        status = 1
    finally:
        processes.stop_all()
        if not args.keep:
            shutil.rmtree(directory, ignore_errors=True)
    document = _document(args, started, notes, runs, missing)
    path = args.output or _RESULTS / f"mcp-{results.file_name(document)}"
    results.write(path, document)
    print(report.render(document))
    print(f"bench: single runs in {path}", file=sys.stderr)
    failed = any(run["error"] for variants in runs.values() for found in variants.values() for run in found)
    return status or int(failed)


def _run(
    lab: measure.Lab, scenario: McpScenario, variants: list[Variant], rounds: int, found: dict[str, list[Run]], progress: Progress
) -> None:
    live: dict[str, measure.Instance] = {}
    try:
        for number, variant in itertools.product(range(rounds), variants):
            what = f"{scenario.key} {variant.name} {number + 1}/{rounds}"
            progress.begin(what)
            failures = [run for run in found[variant.name] if run["error"]]
            if len(failures) >= _MAX_FAILURES:
                found[variant.name].append(failures[0])
                progress.end(what, "not tried again")
                continue
            run: Run
            try:
                if variant.name not in live:
                    live[variant.name] = measure.start(lab, scenario, variant)
                run = {"metrics": measure.window(lab, scenario, live[variant.name]), "error": ""}
                if not scenario.keep:
                    live.pop(variant.name).stop()
            except BenchError as error:
                live.pop(variant.name, None)
                run = {"metrics": {}, "error": str(error)}
            found[variant.name].append(run)
            progress.end(what, run["error"] or _brief(run["metrics"]))
    finally:
        for instance in live.values():
            instance.stop()


def _brief(metrics: dict[str, float]) -> str:
    names = (
        "per_s", "cpu_us", "cpu_user_us", "instructions", "growth_mib", "off", "excess",
        "p50_us", "p99_us", "bytes_per_session", "bytes_per_used_session", "bytes_per_stream",
    )  # fmt: skip
    return ", ".join(f"{name} {metrics[name]:,.{4 if metrics[name] < 1 else 1}f}" for name in names if name in metrics)


def _wanted(scenario: McpScenario, args: argparse.Namespace) -> bool:
    wanted = set(filter(None, args.scenario.split(",")))
    return scenario.key in wanted if wanted else scenario.key in QUICK or not args.quick


def _chosen(scenario: McpScenario, args: argparse.Namespace, missing: set[str]) -> tuple[McpScenario, list[Variant]]:
    wanted = set(filter(None, args.variants.split(",")))
    return scenario, [v for v in scenario.variants if v.peer not in missing and (not wanted or v.name in wanted)]


def _missing() -> tuple[list[str], set[str]]:
    """Notes on peers that cannot run here, and their names."""
    why = {name: kind().missing() for name, kind in PEERS.items()}
    return [f"without {name}: {text}" for name, text in why.items() if text], {name for name, text in why.items() if text}


def _document(
    args: argparse.Namespace, started: datetime.datetime, notes: list[str], runs: dict[str, dict[str, list[Run]]], missing: set[str]
) -> Document:
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
        "versions": {name: kind().version() for name, kind in PEERS.items() if name not in missing},
        "notes": notes,
        "scenarios": {
            scenario.key: {"title": scenario.title, "kind": scenario.kind.value, "runs": runs[scenario.key]}
            for scenario in SCENARIOS
            if scenario.key in runs
        },
    }


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/mcp/run.sh", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the short list, 1 run of 2 s each")
    parser.add_argument("--scenario", default="", help="keys separated by commas (see --list)")
    parser.add_argument("--variants", default="", help="names separated by commas")
    parser.add_argument("--runs", type=int, help="rounds (5; quick: 1)")
    parser.add_argument("--duration", type=float, help="seconds per single run (5; quick: 2)")
    parser.add_argument("--warmup", type=float, default=1.0, help="seconds before each single run (1)")
    parser.add_argument("--base-port", type=int, default=_BASE_PORT)
    parser.add_argument("--output", type=Path, help="result file instead of bench/results/mcp-<date>-<commit>.json")
    parser.add_argument("--keep", action="store_true", help="keep the temporary directory with configurations and logs")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    args = parser.parse_args(argv)
    args.runs = args.runs or (1 if args.quick else 5)
    args.duration = args.duration or (2.0 if args.quick else 5.0)
    if unknown := set(filter(None, args.scenario.split(","))) - {s.key for s in SCENARIOS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return args


if __name__ == "__main__":
    sys.exit(main())
