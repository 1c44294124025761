"""The official conformance suite, against a server directly and through the gateway, compared check by check.

Counts are not enough: the suite fails on FAILURE only, while a gateway that loses a feature turns SUCCESS into WARNING,
SKIPPED or INFO. So the statuses of every (scenario, check id) must be equal.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

LIMIT_S = 240


@dataclass(frozen=True)
class Leg:
    """One run of the suite: its name, the package directory, and arguments."""

    name: str
    package: str
    arguments: tuple[str, ...]


LEGS = [
    Leg("wire-2025", "@modelcontextprotocol/conformance", ("--suite", "all", "--spec-version", "2025-11-25")),
    Leg("wire-2026", "@modelcontextprotocol/conformance", ("--suite", "all", "--spec-version", "2026-07-28")),
    Leg("wire-2506", "@modelcontextprotocol/conformance", ("--suite", "all", "--spec-version", "2025-06-18")),
    Leg("0.1.16-active", "conformance-0.1.16", ("--suite", "active")),
]

Statuses = dict[tuple[str, str], list[tuple[str, str]]]
"""(scenario, check id) to (status, message) of each time it was checked."""


def run(leg: Leg, node: Path, modules: Path, url: str, out: Path) -> Statuses:
    """Run a leg against a URL. Errors: RuntimeError if it left no results, TimeoutExpired."""
    program = modules / leg.package / "dist" / "index.js"
    command = [str(node), str(program), "server", "--url", url, *leg.arguments, "-o", str(out)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
    return results(out, f"{leg.name}\n{done.stdout.decode()[-1000:]}\n{done.stderr.decode()[-1000:]}")


def results(out: Path, said: str) -> Statuses:
    """What a run left in its directory. Errors: RuntimeError with what it said, if that is nothing."""
    found: Statuses = {}
    for file in sorted(out.glob("*/checks.json")):
        scenario = re.sub(r"-\d{4}-\d{2}-\d{2}T.*$", "", file.parent.name).removeprefix("server-")
        for check in json.loads(file.read_text()):
            found.setdefault((scenario, check["id"]), []).append((check["status"], check.get("errorMessage") or ""))
    if not found:
        raise RuntimeError(f"no results: {said[-2000:]}")
    return found


def summary(statuses: Statuses) -> str:
    """Scenarios, and how many checks have which status."""
    count = Counter(status for results in statuses.values() for status, _ in results)
    return f"{len({scenario for scenario, _ in statuses})} scenarios, " + ", ".join(f"{number} {status}" for status, number in sorted(count.items()))


@dataclass(frozen=True)
class Difference:
    """A check whose statuses are not the same."""

    scenario: str
    check: str
    direct: list[tuple[str, str]]
    through: list[tuple[str, str]]

    @property
    def key(self) -> str:
        """What a file of expected differences names it by, without what the suite says in words."""
        return f"{self.scenario} {self.check} {_statuses(self.direct)}>{_statuses(self.through)}"

    def __str__(self) -> str:
        return f"{self.scenario} / {self.check}: direct {_brief(self.direct)}, through agw {_brief(self.through)}"


def differences(direct: Statuses, through: Statuses) -> list[Difference]:
    """The checks whose statuses differ."""
    pairs = [(key, direct.get(key, []), through.get(key, [])) for key in sorted(direct | through)]
    return [Difference(*key, old, new) for key, old, new in pairs if _statuses(old) != _statuses(new)]


def _statuses(results: list[tuple[str, str]]) -> str:
    return "+".join(status for status, _ in results) or "absent"


def _brief(results: list[tuple[str, str]]) -> str:
    return " ".join(f"{status} ({message})" if message else status for status, message in results) or "absent"
