"""The result file: what ran, on what machine, and every single run. No host name, no paths of the machine."""

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import TypedDict

SCHEMA = 1
_ROOT = Path(__file__).resolve().parents[2]


class Run(TypedDict):
    """One single run: metrics, or the reason why there are none."""

    metrics: dict[str, float]
    error: str


class ScenarioRuns(TypedDict):
    """All runs of a scenario by peer. Rounds keep their place in the lists, so values of one round can be paired."""

    title: str
    kind: str
    runs: dict[str, list[Run]]


class Document(TypedDict):
    """One session of the benchmark, as it is stored."""

    schema: int
    commit: str
    changed: bool
    started: str
    machine: dict[str, str | int | float | None]
    settings: dict[str, str | int | float | None]
    versions: dict[str, str]
    notes: list[str]
    scenarios: dict[str, ScenarioRuns]


def file_name(document: Document) -> str:
    """Name of a result file: UTC time and commit, `-changed` if the tree differs from it."""
    started = datetime.datetime.fromisoformat(document["started"])
    return f"{started:%Y-%m-%dT%H%M%SZ}-{document['commit']}{'-changed' if document['changed'] else ''}.json"


def write(path: Path, document: Document) -> None:
    """Store a session, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    partial.replace(path)


def read(path: Path) -> Document:
    """Load a session; ValueError if it is not one of ours."""
    document: Document = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        raise ValueError(f"{path}: not a result file of schema {SCHEMA}")
    return document


def commit() -> tuple[str, bool]:
    """Short hash of HEAD ("nocommit" without one) and whether the tree has changes."""
    return _git("rev-parse", "--short=12", "HEAD") or "nocommit", bool(_git("status", "--porcelain"))


def machine() -> dict[str, str | int | float | None]:
    """Facts that explain the numbers, without names."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory_kib = [int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")]
    return {
        "cpus": os.cpu_count(),
        "cpu_model": models[0] if models else "",
        "memory_mib": sum(memory_kib) // 1024,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _git(*args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=_ROOT, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
