"""From a result file to Markdown.

    python -m bench.harness.report FILE.json      prints the tables of an earlier session again

Rules: medians over the rounds; ratios against the control peer (nginx) are medians of the ratios within a round,
because the peers of a round met the same weather; `spread` is (max - min) / median of CPU per unit. A ratio of
rates is in brackets where one of the two was not at its limit: it then says how fast the load side is, not the peer.
"""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import results
from bench.harness.results import Document, Run
from bench.peers import CONTROL

_DISTURBED = 0.05  # share of CPUs used by strangers from which a line is marked
_SATURATED = 0.95
_COLUMNS = (
    "per s", f"x {CONTROL}", "CPU us", "user + kernel", f"CPU x {CONTROL}", "spread", "p50 us", "p99 us", "p99.9 us",
    "syscalls", "PSS MiB", "remarks",
)  # fmt: skip
_IDLE_COLUMNS = ("bytes per connection (private)", "(PSS)", f"x {CONTROL}", "still open", "PSS MiB", "remarks")


def render(document: Document) -> str:
    """The whole report."""
    facts, settings = document["machine"], document["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)
    lines = [
        f"## agw bench, {document['started'][:10]}, {document['commit']}{' (changed)' if document['changed'] else ''}",
        "",
        f"{facts['cpus']} CPUs ({facts['cpu_model']}), kernel {facts['kernel']}, Python {facts['python']}; "
        f"{settings['cores']};",
        f"{settings['runs']} rounds of {settings['duration_s']} s after {settings['warmup_s']} s of warm-up. "
        f"Versions: {versions}.",
        "",
        *(f"- {note}" for note in document["notes"]),
    ]
    for key, scenario in document["scenarios"].items():
        lines += ["", f"### `{key}`: {scenario['title']}; {scenario['kind']}", "", *_table(scenario["runs"])]
    return "\n".join(lines)


def _table(runs: dict[str, list[Run]]) -> list[str]:
    """One line per peer."""
    idle = any(median(own, "bytes_per_connection") is not None for own in runs.values())
    columns, cells = (_IDLE_COLUMNS, _idle_cells) if idle else (_COLUMNS, _cells)
    control = runs.get(CONTROL, [])
    lines = ["| peer | " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1) + "---|"]
    lines += [f"| {peer} | " + " | ".join(cells(own, control)) + " |" for peer, own in runs.items()]
    return lines


def values(runs: Sequence[Run], metric: str) -> list[float]:
    """A metric in all runs that have it."""
    return [run["metrics"][metric] for run in runs if metric in run["metrics"]]


def median(runs: Sequence[Run], metric: str) -> float | None:
    """Median of a metric over the runs that have it."""
    found = values(runs, metric)
    return statistics.median(found) if found else None


def ratio(runs: Sequence[Run], control: Sequence[Run], metric: str) -> float | None:
    """Median over the rounds of value / value of the control peer in the same round."""
    pairs = [
        (own["metrics"].get(metric), other["metrics"].get(metric)) for own, other in zip(runs, control, strict=False)
    ]
    ratios = [own / other for own, other in pairs if own is not None and other]
    return statistics.median(ratios) if ratios else None


def difference(runs: Sequence[Run], other: Sequence[Run], metric: str) -> float | None:
    """Median over the rounds of value - value of the other variant in the same round."""
    pairs = [(own["metrics"].get(metric), its["metrics"].get(metric)) for own, its in zip(runs, other, strict=False)]
    differences = [own - its for own, its in pairs if own is not None and its is not None]
    return statistics.median(differences) if differences else None


def _cells(runs: Sequence[Run], control: Sequence[Run]) -> list[str]:
    user, system = median(runs, "cpu_user_us"), median(runs, "cpu_system_us")
    limited = _is_limit(runs) and _is_limit(control)
    relative = _text(ratio(runs, control, "per_s"), 2)
    return [
        _text(median(runs, "per_s"), 0),
        relative if limited or not relative else f"({relative})",
        _text(median(runs, "cpu_us"), 1),
        f"{_text(user, 1)} + {_text(system, 1)}" if user is not None else "",
        _text(ratio(runs, control, "cpu_us"), 2),
        _spread(runs),
        _text(median(runs, "p50_us"), 0),
        _text(median(runs, "p99_us"), 0),
        _text(median(runs, "p999_us"), 0),
        _text(median(runs, "syscalls"), 2),
        _memory(runs),
        _remarks(runs),
    ]


def _idle_cells(runs: Sequence[Run], control: Sequence[Run]) -> list[str]:
    return [
        _text(median(runs, "bytes_per_connection"), 0),
        _text(median(runs, "pss_bytes_per_connection"), 0),
        _text(ratio(runs, control, "bytes_per_connection"), 2),
        _text(median(runs, "held"), 0),
        _memory(runs),
        _remarks(runs),
    ]


def _memory(runs: Sequence[Run]) -> str:
    """PSS of one worker, then that of masters, supervisors and helpers together."""
    rest = median(runs, "control_pss_mib")
    return _text(median(runs, "pss_mib"), 1) + (f" + {rest:.1f}" if rest else "")


def _is_limit(runs: Sequence[Run]) -> bool:
    """True if the peer's CPUs were full, so that the rate is the peer's own."""
    return (median(runs, "peer_cpu_busy") or 0.0) >= _SATURATED


def _remarks(runs: Sequence[Run]) -> str:
    """What a reader must know before trusting the line."""
    remarks = []
    busy, rate = median(runs, "peer_cpu_busy"), median(runs, "rate")
    if rate:
        remarks.append(f"at {rate:.0f}/s")
    if busy is not None and (rate or busy < _SATURATED):
        remarks.append(f"peer {busy:.0%} busy")
    if (load := median(runs, "load_cpu_busy")) is not None and load > _SATURATED and (rate or busy is None):
        remarks.append("load CPU full")
    for metric, where in (("foreign_cpu_busy", "peer"), ("load_foreign_busy", "load")):
        if (foreign := median(runs, metric)) and foreign > _DISTURBED:
            remarks.append(f"{where} CPU disturbed {foreign:.0%}")
    if (control := median(runs, "control_cpu_us")) and control > 0.05:
        remarks.append(f"control +{control:.1f} us")
    if errors := sum(values(runs, "errors")):
        remarks.append(f"{errors:.0f} errors")
    if (delivered := median(runs, "delivered")) is not None and delivered < 0.99:
        remarks.append(f"{delivered:.0%} delivered")
    if (logged := median(runs, "logged")) is not None and logged < 0.99:
        remarks.append(f"only {logged:.1%} of the requests logged")
    lag, p99 = median(runs, "lag_p99_us"), median(runs, "p99_us")
    if lag is not None and p99 and lag > p99 / 2:
        remarks.append(f"client late {lag:.0f} us")
    if failures := [run["error"] for run in runs if run["error"]]:
        remarks.append(f"{len(failures)} failed: {_cell(failures[0])}")
    return "; ".join(remarks)


def _spread(runs: Sequence[Run]) -> str:
    found = values(runs, "cpu_us") or values(runs, "per_s")
    if len(found) < 2:
        return ""
    return f"{(max(found) - min(found)) / statistics.median(found):.0%}"


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _cell(text: str) -> str:
    """Text that cannot break a Markdown table."""
    return " ".join(text.replace("|", "/").split())[:160]


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(render(results.read(Path(name))))
