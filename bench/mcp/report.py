"""From a result file of the MCP scenarios to Markdown: the limits first, then a table per scenario.

    python -m bench.mcp.report FILE.json
"""

import sys
from pathlib import Path

from bench.harness import report, results
from bench.harness.results import Document, Run
from bench.mcp.scenarios import SCENARIOS, Limit

_MEMORY_COLUMNS = (
    ("bytes_per_session", "bytes per session", 0),
    ("bytes_per_used_session", "the same after a call per target", 0),
    ("bytes_per_resting_session", "the same, 75 s later", 0),
    ("bytes_per_stream", "bytes per stream", 0),
    ("open_cpu_us", "CPU us to open one", 0),
    ("token_bytes", "octets of an id", 0),
)


def render(document: Document) -> str:
    """The whole report."""
    return "\n".join([*_limits(document), "", report.render(document), *_memory(document)])


def verdict(limit: Limit, runs: dict[str, list[Run]]) -> float | None:
    """The figure a limit is about; None when it was not measured."""
    own = runs.get(limit.variant, [])
    if not limit.against:
        return report.median(own, limit.metric)
    return report.ratio(own, runs.get(limit.against, []), limit.metric)


def _limits(document: Document) -> list[str]:
    lines = ["## Limits", "", "| scenario | figure | measured | limit | |", "|---|---|---:|---:|---|"]
    for scenario in SCENARIOS:
        found = document["scenarios"].get(scenario.key)
        for limit in scenario.limits if found else ():
            assert found is not None
            value = verdict(limit, found["runs"])
            digits = 2 if limit.against else 0
            said = "not measured" if value is None else "met" if value <= limit.bound else "MISSED"
            measured = "" if value is None else f"{value:,.{digits}f}"
            lines.append(f"| `{scenario.key}` | {limit.text} | {measured} | {limit.bound:,.{digits}f} | {said} |")
    return lines


def _memory(document: Document) -> list[str]:
    lines: list[str] = []
    for key, scenario in document["scenarios"].items():
        rows = {
            name: [report.median(runs, metric) for metric, _, _ in _MEMORY_COLUMNS]
            for name, runs in scenario["runs"].items()
        }
        if all(value is None for row in rows.values() for value in row):
            continue
        head = " | ".join(title for _, title, _ in _MEMORY_COLUMNS)
        lines += ["", f"### `{key}`: memory", "", f"| variant | {head} |", "|---|" + "---:|" * len(_MEMORY_COLUMNS)]
        for name, row in rows.items():
            cells = " | ".join("" if value is None else f"{value:,.0f}" for value in row)
            lines.append(f"| {name} | {cells} |")
    return lines


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(render(results.read(Path(name))))
