#!/usr/bin/env python3
"""Says per scenario whether two result files differ beyond noise; with --fail, regressions make the exit status 1.

    bench/compare.py BEFORE.json AFTER.json [--peer agw] [--fail] [--absolute]

A difference counts if both hold: a two-sided rank test on the single runs (Mann-Whitney, exact by enumeration for small
samples) gives p <= alpha, and the medians differ by at least the threshold of the metric. With five runs each, the
default of run.py and the least that is judged, p <= 0.01 means that all runs of one file lie on one side of all of
the other. The interval shown is a seeded bootstrap of the ratio of medians (95 %).

Rate, CPU and median latency of each run are first divided by nginx's value of the same round where both files have it:
machine-wide drift between two sessions (clock, neighbours) cancels out. A rate is judged only where the peer was the
limit. --absolute compares the bare values. Standard library only; reads no other module, so it runs with any Python
from 3.11 on.
"""

import argparse
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTROL = "nginx"
_MIN_RUNS = 5
_EXACT_LIMIT = 200_000  # arrangements; beyond, the normal approximation is as good
_BOOTSTRAPS = 2000
_SEED = 1


@dataclass(frozen=True, slots=True)
class Metric:
    """How one number is judged."""

    name: str
    title: str
    sign: int  # +1: more is better, -1: less is better
    threshold: float  # smallest relative change of the median that matters
    relative: bool = False  # divide by the control peer's value of the same round


METRICS = (
    Metric("cpu_us", "CPU per unit", -1, 0.03, relative=True),
    Metric("per_s", "rate", +1, 0.03, relative=True),
    Metric("p50_us", "p50", -1, 0.05, relative=True),
    Metric("p99_us", "p99", -1, 0.15),
    Metric("p999_us", "p99.9", -1, 0.30),
    Metric("delivered", "events delivered", +1, 0.01),
    Metric("syscalls", "system calls", -1, 0.03),
    Metric("pss_mib", "PSS per worker", -1, 0.10),
    Metric("bytes_per_connection", "bytes per idle connection", -1, 0.10),
)
_SATURATED = 0.95


@dataclass(frozen=True, slots=True)
class Finding:
    """One metric of one scenario in both files."""

    scenario: str
    metric: Metric
    change: float  # median after / median before - 1
    low: float
    high: float
    p: float
    verdict: str  # better, worse, same, unclear


def judge(metric: Metric, before: Sequence[float], after: Sequence[float], alpha: float) -> tuple[str, float]:
    """Verdict and p-value for two samples."""
    if min(len(before), len(after)) < _MIN_RUNS:
        return "unclear", math.nan
    p = rank_test(before, after)
    change = statistics.median(after) / statistics.median(before) - 1
    if p > alpha or abs(change) < metric.threshold:
        return "same", p
    return ("better" if change * metric.sign > 0 else "worse"), p


def rank_test(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided Mann-Whitney p-value, ties as mid-ranks."""
    ranks = _mid_ranks([*first, *second])
    n, total = len(first), len(ranks)
    mean = n * (total + 1) / 2
    observed = abs(sum(ranks[:n]) - mean)
    if math.comb(total, n) <= _EXACT_LIMIT:
        sums = [abs(sum(chosen) - mean) for chosen in itertools.combinations(ranks, n)]
        return sum(value >= observed - 1e-9 for value in sums) / len(sums)
    spread = statistics.pvariance(ranks) * n * (total - n) / (total - 1)
    return 1.0 if spread == 0 else math.erfc(max(0.0, observed - 0.5) / math.sqrt(2 * spread))


def interval(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """95 % bootstrap interval of median(after) / median(before) - 1."""
    source = random.Random(_SEED)
    ratios = sorted(
        statistics.median(source.choices(after, k=len(after)))
        / (statistics.median(source.choices(before, k=len(before))) or math.inf)
        - 1
        for _ in range(_BOOTSTRAPS)
    )
    return ratios[round(_BOOTSTRAPS * 0.025)], ratios[round(_BOOTSTRAPS * 0.975) - 1]


def values(runs: dict[str, list[Any]], peer: str, metric: str, *, against_control: bool) -> list[float]:
    """A metric of all runs of a peer, divided by the control peer's of the same round if asked."""
    own = [run["metrics"].get(metric) for run in runs.get(peer, [])]
    if not against_control:
        return [value for value in own if value is not None]
    control = [run["metrics"].get(metric) for run in runs.get(CONTROL, [])]
    return [value / other for value, other in zip(own, control, strict=False) if value is not None and other]


def findings(before: dict[str, Any], after: dict[str, Any], args: argparse.Namespace) -> list[Finding]:
    """Everything both files measured for the peer."""
    found = []
    for key in before["scenarios"]:
        if key not in after["scenarios"]:
            continue
        old, new = before["scenarios"][key]["runs"], after["scenarios"][key]["runs"]
        limited = _is_limit(old, args.peer) and _is_limit(new, args.peer)
        may_divide = not args.absolute and args.peer != CONTROL and CONTROL in old and CONTROL in new
        for metric in METRICS:
            if metric.name == "per_s" and not limited:
                continue
            relative = metric.relative and may_divide
            first = values(old, args.peer, metric.name, against_control=relative)
            second = values(new, args.peer, metric.name, against_control=relative)
            if not first or not second or not statistics.median(first):
                continue
            verdict, p = judge(metric, first, second, args.alpha)
            low, high = interval(first, second)
            change = statistics.median(second) / statistics.median(first) - 1
            found.append(Finding(key, metric, change, low, high, p, verdict))
    return found


def _is_limit(runs: dict[str, list[Any]], peer: str) -> bool:
    """True if the peer's CPUs were full; otherwise its rate is that of the load side or of a timetable."""
    return statistics.median(values(runs, peer, "peer_cpu_busy", against_control=False) or [0.0]) >= _SATURATED


def broken(before: dict[str, Any], after: dict[str, Any], peer: str) -> list[str]:
    """Scenarios that worked before and fail now."""
    return [
        key
        for key, scenario in after["scenarios"].items()
        if any(run["error"] for run in scenario["runs"].get(peer, []))
        and key in before["scenarios"]
        and not any(run["error"] for run in before["scenarios"][key]["runs"].get(peer, [{"error": "absent"}]))
    ]


def main() -> int:
    """Compare the two files of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--peer", default="agw")
    parser.add_argument("--alpha", type=float, default=0.01, help="largest p-value that counts (0.01)")
    parser.add_argument("--absolute", action="store_true", help=f"do not divide by {CONTROL}")
    parser.add_argument("--all", action="store_true", help="show what did not change, too")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if anything got worse")
    args = parser.parse_args()
    try:
        before, after = (json.loads(path.read_text()) for path in (args.before, args.after))
        found, failing = findings(before, after, args), broken(before, after, args.peer)
    except (OSError, ValueError, KeyError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"compare: nothing of {args.peer} is in both files", file=sys.stderr)
        return 2
    if before["machine"]["cpu_model"] != after["machine"]["cpu_model"]:
        print("compare: the files come from different machines; only ratios to nginx mean anything", file=sys.stderr)
    shown = [finding for finding in found if args.all or finding.verdict in ("better", "worse")]
    if shown:
        print("| scenario | metric | change | 95 % interval | p | verdict |\n|---|---|---:|---:|---:|---|")
    for finding in shown:
        span = f"{finding.low:+.1%} to {finding.high:+.1%}"
        print(
            f"| {finding.scenario} | {finding.metric.title} | {finding.change:+.1%} | {span} | {finding.p:.3f} "
            f"| {finding.verdict} |"
        )
    for key in failing:
        print(f"\n{key}: failed in {args.after.name}, worked in {args.before.name}")
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in _VERDICTS}
    print(f"\n{args.before.name} -> {args.after.name}, {args.peer}: ", end="")
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()), end="")
    print(" (too few runs to tell)" if counts["unclear"] else "")
    return int(args.fail and (counts["worse"] > 0 or bool(failing)))


def _mid_ranks(sample: Sequence[float]) -> list[float]:
    ordered = sorted(sample)
    rank = {value: ordered.index(value) + (ordered.count(value) + 1) / 2 for value in set(sample)}
    return [rank[value] for value in sample]


_VERDICTS = ("better", "worse", "same", "unclear")

if __name__ == "__main__":
    sys.exit(main())
