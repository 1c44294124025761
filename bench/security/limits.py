"""Windows of the limit scenarios: exact at saturation, also when a worker dies or the configuration is loaded anew; a million keys.

At saturation a bucket is empty at every moment, so between two looks at the counters exactly rate times time is admitted.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

from bench.harness import http_messages as messages
from bench.harness import processes, wrk
from bench.harness.cores import available
from bench.harness.measure import Sample
from bench.harness.processes import BenchError, python_module
from bench.mcp import measure
from bench.mcp.measure import Instance, Lab
from bench.mcp.scenarios import Kind, McpScenario
from bench.security import policies

_ROOT = Path(__file__).resolve().parents[2]
_REQUESTS = 1000
_LOOKS = 5
_BEGIN_S = 1.5  # the burst is gone by then
_COUNTER = re.compile(r'rate_limit_decisions_total\{[^}]*limit="saturated"[^}]*\} (\d+)')
_RESULT = re.compile(r'result="(\w+)"')


def register() -> None:
    """Make the windows known to mcp/measure.py."""
    measure.PREPARE |= {Kind.SATURATION: _prepare, Kind.KEYS: lambda lab, instance: None}
    measure.WINDOWS |= {Kind.SATURATION: _window_saturation, Kind.KEYS: _window_keys}


def _prepare(lab: Lab, instance: Instance) -> None:
    bare = messages.render("GET", policies.GUARDED_PATH, instance.port)
    messages.write_requests(instance.file, [instance.dress(bare, number) for number in range(_REQUESTS)])


def _window_saturation(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """wrk sends as much as it can; two looks at the counters, and perhaps a disturbance between them."""
    seconds = max(4.0, lab.bench.duration_s)
    load: list[wrk.Load] = []
    sender = threading.Thread(
        target=lambda: load.append(wrk.run(instance.port, instance.file, 64, seconds + _BEGIN_S + 1.5, available(), lab.bench.directory))
    )
    sender.start()
    try:
        time.sleep(_BEGIN_S)
        begun, before, refused_before = _look(instance)
        time.sleep(seconds / 2)
        if instance.variant.disturbance == "kill":
            os.kill(instance.peer.worker_pids()[0], signal.SIGKILL)
        elif instance.variant.disturbance == "reload":
            _reload(instance)
        time.sleep(seconds / 2)
        ended, after, refused = _look(instance)
    finally:
        sender.join()
    if not load:
        raise BenchError("wrk gave no result")
    if refused - refused_before < after - before:
        raise BenchError(f"no saturation: {refused - refused_before} requests were refused, {after - before} admitted")
    exact = (ended - begun) * policies.RATE_PER_S
    admitted = float(after - before)
    sample = {"admitted": admitted, "exact": exact, "off": abs(admitted / exact - 1), "refused": float(refused - refused_before)}
    return sample | {"per_s": load[0].per_s, "units": float(load[0].requests)}


def _reload(instance: Instance) -> None:
    """The same limit in a configuration that differs elsewhere."""
    config = instance.directory / "agw.yaml"
    config.write_text(config.read_text().replace("- name: plain\n", "- name: plain-again\n"))
    os.kill(instance.peer.control_pids()[0], signal.SIGHUP)


def _look(instance: Instance) -> tuple[float, int, int]:
    """(moment, admitted, refused) by the gateway's metrics; the moment is the middle of the quickest look of some."""
    looks = []
    for _ in range(_LOOKS):
        begun = time.monotonic()
        with messages.connect(instance.job.stats_port) as sock:
            answer = messages.exchange(sock, messages.render("GET", "/metrics", instance.job.stats_port))
        ended = time.monotonic()
        looks.append((ended - begun, (begun + ended) / 2, answer))
    _, moment, answer = min(looks, key=lambda look: look[0])
    counts = {"admitted": 0, "refused": 0}
    for found in _COUNTER.finditer(answer.body.decode()):
        result = _RESULT.search(found.group())
        assert result is not None
        counts[result.group(1)] += int(found.group(1))
    if answer.status != 200 or not counts["admitted"]:
        raise BenchError(f"no counters of the limit: {answer.status}")
    return moment, counts["admitted"], counts["refused"]


def _window_keys(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """In a process of its own, with the modules of the repository (limit_keys.py)."""
    python = _ROOT / ".venv" / "bin" / "python"
    argv = python_module("bench.security.limit_keys", "--keys", 1_000_000)
    if python.exists():
        argv[argv.index(sys.executable)] = str(python)
    found: Sample = json.loads(processes.run(argv, lab.bench.cores.peer, 120.0, lab.bench.directory))
    return found
