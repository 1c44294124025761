"""From a result file of the MCP scenarios to Markdown: the limits first, then a table per scenario.

    python -m bench.mcp.report FILE.json
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.harness import report, results
from bench.harness.results import Document, Run
from bench.mcp.scenarios import Limit
from bench.mcp.suite import SCENARIOS

_MEMORY_COLUMNS = (
    ("bytes_per_session", "bytes per session", 0),
    ("bytes_per_used_session", "the same after a call per target", 0),
    ("bytes_per_resting_session", "the same, 75 s later", 0),
    ("bytes_per_stream", "bytes per stream", 0),
    ("open_cpu_us", "CPU us to open one", 0),
    ("token_bytes", "octets of an id", 0),
)
_SECURITY_COLUMNS = (
    ("instructions", "instructions per request", 0),
    ("rss_0_mib", "RSS MiB before", 1),
    ("rss_20000_mib", "after 20,000 tokens", 1),
    ("rss_60000_mib", "60,000", 1),
    ("rss_100000_mib", "100,000", 1),
    ("rss_again_mib", "all again", 1),
    ("growth_mib", "from 20,000 on", 1),
    ("admitted", "admitted", 0),
    ("exact", "exact", 0),
    ("refused", "refused", 0),
    ("off", "off by", 4),
    ("mapping_mib", "mapping MiB", 1),
    ("resident_mib", "of it used", 1),
    ("evicted", "keys evicted", 0),
    ("excess", "admitted too much", 6),
)


def render(document: Document) -> str:
    """The whole report."""
    figures = [*_figures(document, _MEMORY_COLUMNS, "memory"), *_figures(document, _SECURITY_COLUMNS, "figures")]
    return "\n".join([*_limits(document), "", report.render(document), *figures])


def verdict(limit: Limit, runs: dict[str, list[Run]]) -> float | None:
    """The figure a limit is about; None when it was not measured."""
    own = runs.get(limit.variant, [])
    if not limit.against:
        return report.median(own, limit.metric)
    if limit.difference:
        return report.difference(own, runs.get(limit.against, []), limit.metric)
    return report.ratio(own, runs.get(limit.against, []), limit.metric)


def _limits(document: Document) -> list[str]:
    lines = ["## Limits", "", "| scenario | figure | measured | limit | |", "|---|---|---:|---:|---|"]
    for scenario in SCENARIOS:
        found = document["scenarios"].get(scenario.key)
        for limit in scenario.limits if found else ():
            assert found is not None
            value = verdict(limit, found["runs"])
            digits = 3 if limit.bound < 0.1 else 2 if limit.bound < 10 else 0
            said = "not measured" if value is None else "met" if value <= limit.bound else "MISSED"
            measured = "" if value is None else f"{value:,.{digits}f}"
            lines.append(f"| `{scenario.key}` | {limit.text} | {measured} | {limit.bound:,.{digits}f} | {said} |")
    return lines


def _figures(document: Document, columns: Sequence[tuple[str, str, int]], what: str) -> list[str]:
    lines: list[str] = []
    for key, scenario in document["scenarios"].items():
        rows = {
            name: {metric: report.median(runs, metric) for metric, _, _ in columns}
            for name, runs in scenario["runs"].items()
        }
        shown = [column for column in columns if any(row[column[0]] is not None for row in rows.values())]
        if not shown:
            continue
        head = " | ".join(title for _, title, _ in shown)
        lines += ["", f"### `{key}`: {what}", "", f"| variant | {head} |", "|---|" + "---:|" * len(shown)]
        for name, row in rows.items():
            cells = " | ".join("" if (value := row[metric]) is None else f"{value:,.{digits}f}" for metric, _, digits in shown)
            lines.append(f"| {name} | {cells} |")
    return lines


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(render(results.read(Path(name))))
