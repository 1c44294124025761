"""The conformance suite against the fixture directly, and through `agw serve` in front of it in every shape it can have.

`make conformance`. A leg is a set of targets that together are the fixture; the suite must not see a difference from
the fixture itself, check by check (conformance.py says why counts are not enough). What cannot be the same is in
`expected/<leg>.txt`, a line per check with the reason; a line that no longer applies fails the leg like a new difference.
Last come the suite's scenarios for authorization servers and OAuth clients, as far as agw is one (guard.py, upstream_auth.py).

Exit code 0: only expected differences, every gateway ended with 0 and without an error in its log.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import conformance
import guard
import upstream_auth
from processes import Gateway, Process, Target, free_port, http_target, sse_target, stdio_target
from run import HERE, MODULES, NODE, PYTHONS, ROOT

LOGS = ROOT / "build" / "interop" / "conformance"
EXPECTED = HERE / "expected"
FIXTURE = [str(PYTHONS["mcp2"]), str(HERE / "servers" / "dual_era.py")]
CLOCK = [str(PYTHONS["mcp2"].with_name("mcp-server-time")), "--local-timezone", "UTC"]

ALL = ("wire-2025", "wire-2506", "wire-2026", "0.1.16-active")
BOTH = ("wire-2025", "wire-2026")
LEGACY = ("wire-2025", "wire-2506", "0.1.16-active")


class Fixtures:
    """Starts servers, and says what targets they are. They end with the stack."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self._stack, self._name, self._count = stack, name, 0

    def http(self, *options: str) -> Target:
        """On streamable HTTP."""
        port, name = self._start(*options)
        return http_target(port, name)

    def sse(self, *options: str) -> Target:
        """On HTTP+SSE."""
        port, name = self._start("--transport", "sse", *options)
        return sse_target(port, name)

    def stdio(self, *options: str) -> Target:
        """Started by the gateway."""
        self._count += 1
        return stdio_target([*FIXTURE, "--transport", "stdio", *options], f"server{self._count}")

    def _start(self, *options: str) -> tuple[int, str]:
        self._count += 1
        port = free_port()
        self._stack.enter_context(Process(f"{self._name}-server{self._count}", [*FIXTURE, "--port", str(port), *options], port, LOGS))
        return port, f"server{self._count}"


@dataclass(frozen=True)
class Leg:
    """What stands behind the gateway, and the wires that are spoken in front of it. `quick` wires are run by CI, with `quick_workers`."""

    name: str
    about: str
    targets: Callable[[Fixtures], list[Target]]
    wires: tuple[str, ...] = ALL
    quick: tuple[str, ...] = ()
    quick_workers: int = 2
    guarded: bool = False
    """Is the gateway an OAuth resource server, and the suite's requests carry a token (guard.py)?"""


LEGS = [
    Leg("a-http", "one target, HTTP", lambda of: [of.http()], quick=BOTH),
    Leg("b-stdio", "one target, stdio", lambda of: [of.stdio()], quick=("wire-2026",), quick_workers=1),
    Leg("c-sse", "one target, HTTP+SSE", lambda of: [of.sse("--era", "legacy")]),
    Leg("d-multiplex", "the fixture and another server", lambda of: [of.http(), stdio_target(CLOCK, "clock")]),
    Leg("e-halves", "the fixture dealt out to two servers", lambda of: [of.http("--share", f"{part}/2") for part in (1, 2)]),
    Leg("e-thirds", "the fixture dealt out to three servers", lambda of: [of.http("--share", f"{part}/3") for part in (1, 2, 3)], quick=BOTH),
    Leg("e-stdio", "the same, one of them on stdio", lambda of: [of.stdio("--share", "2/3"), *(of.http("--share", f"{part}/3") for part in (1, 3))]),
    Leg("f-legacy", "legacy-only target, HTTP", lambda of: [of.http("--era", "legacy")], ALL, quick=("wire-2026",)),
    Leg("f-legacy-stdio", "legacy-only target, stdio", lambda of: [of.stdio("--era", "legacy")], ("wire-2026",)),
    Leg("f-modern", "modern-only target, HTTP", lambda of: [of.http("--era", "modern")], ALL, quick=("wire-2025",)),
    Leg("f-modern-stdio", "modern-only target, stdio", lambda of: [of.stdio("--era", "modern")], LEGACY),
    Leg(
        "f-mixed",
        "a third legacy-only, a third modern-only, a third of both eras",
        lambda of: [of.http("--share", f"{part}/3", "--era", era) for part, era in enumerate(("legacy", "modern", "both"), 1)],
    ),
    Leg(
        "f-mixed-2",
        "the same in another order",
        lambda of: [of.http("--share", f"{part}/3", "--era", era) for part, era in enumerate(("modern", "both", "legacy"), 1)],
    ),
    Leg("g-guarded", "one target, a token and rules for every message", lambda of: [of.http()], quick=("wire-2026",), guarded=True),
    Leg("g-guarded-two", "the fixture dealt out to two servers, the same", lambda of: [of.http("--share", f"{part}/2") for part in (1, 2)], guarded=True),
]


def expected(leg: str, wire: str) -> dict[str, bool]:
    """The expected differences of a leg at a wire, as `Difference.key` to whether it must be there.

    A line is `WIRE SCENARIO CHECK DIRECT>THROUGH  REASON`. `?WIRE`: it depends on which worker gets which connection. Empty lines
    and lines with # are comments.
    """
    file = EXPECTED / f"{leg}.txt"
    found = {}
    for line in file.read_text().splitlines() if file.exists() else []:
        if line.strip() and not line.startswith("#"):
            at, scenario, check, statuses, _reason = line.split(maxsplit=4)
            if at.lstrip("?") == wire:
                found[f"{scenario} {check} {statuses}"] = not at.startswith("?")
    return found


@contextmanager
def serving(leg: Leg, agw: Path, workers: int, wrong: list[str]) -> Iterator[Gateway | guard.Guarded]:
    """The servers of a leg and the gateway before them."""
    name = f"{leg.name}-{workers}"
    with ExitStack() as stack:
        targets = leg.targets(Fixtures(stack, name))
        front: Callable[..., AbstractContextManager[Gateway | guard.Guarded]] = guard.guarded if leg.guarded else Gateway
        gateway = stack.enter_context(front(f"{name}-agw", agw, targets, LOGS, workers, prefixMode="never"))
        yield gateway
        if (code := gateway.stop()) != 0:
            wrong.append(f"{gateway.name} exited with {code}")
        wrong.extend(gateway.complaints())


def compare(leg: Leg, wire: conformance.Leg, workers: int, direct: conformance.Statuses, url: str) -> list[str]:
    """Run one wire of a leg and print its row. Returns what was not expected."""
    out = LOGS / f"{leg.name}-{workers}" / wire.name
    try:
        through = conformance.run(wire, NODE, MODULES, url, out)
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        through = {}
        print(f"  {error}", flush=True)
    found = {difference.key: difference for difference in conformance.differences(direct, through)}
    allowed = expected(leg.name, wire.name)
    new = [str(difference) for key, difference in found.items() if key not in allowed]
    stale = [f"expected, but did not happen: {key}" for key, must in allowed.items() if must and key not in found]
    verdict = f"{len(new) + len(stale)} DIFFERENCES" if new or stale else "equal" if not found else f"{len(found)} expected"
    print(f"  {leg.name:15} {workers}  {wire.name:14} {conformance.summary(through):60} {verdict}", flush=True)
    return [f"{leg.name}, {workers} workers, {wire.name}: {line}" for line in new + stale]


def alone(name: str, found: conformance.Statuses) -> list[str]:
    """Print the row of scenarios about authorization, which nothing is compared with. Returns what failed."""
    failed = [
        f"{name}: {scenario} / {check}: {status} ({text})"
        for (scenario, check), each in found.items() for status, text in each if status in ("FAILURE", "SKIPPED")
    ]  # fmt: skip
    print(f"  {name:15} 1  {'authorization':14} {conformance.summary(found):60} {f'{len(failed)} FAILURES' if failed else 'passed'}", flush=True)
    return failed


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests/interop/run.sh conformance")
    parser.add_argument("--quick", action="store_true", help="the few legs and wires that CI runs")
    parser.add_argument("--agw", type=Path, default=ROOT / ".venv" / "bin" / "agw")
    parser.add_argument("--workers", type=int, action="append", help="numbers of workers (default 1 and 2)")
    parser.add_argument("--only", default="", help="only legs whose name contains this")
    parser.add_argument("--wire", default="", help="only wires whose name contains this")
    options = parser.parse_args()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    began = time.monotonic()
    wires = {wire.name: wire for wire in conformance.LEGS}
    legs = [leg for leg in LEGS if options.only in leg.name and (leg.quick or not options.quick)]
    if not (ROOT / "agw" / "mcp" / "transports" / "sse.py").exists() and any(leg.name == "c-sse" for leg in legs):
        print("  c-sse is left out: this agw has no HTTP+SSE transport")
        legs = [leg for leg in legs if leg.name != "c-sse"]

    different: list[str] = []
    wrong: list[str] = []
    direct: dict[str, conformance.Statuses] = {}
    port = free_port()
    with Process("direct", [*FIXTURE, "--port", str(port)], port, LOGS) as server:
        for name, wire in wires.items():
            if options.wire in name and any(name in (leg.quick if options.quick else leg.wires) for leg in legs):
                direct[name] = conformance.run(wire, NODE, MODULES, server.url, LOGS / "direct-results" / name)
                print(f"  {'direct':15} -  {name:14} {conformance.summary(direct[name])}", flush=True)
    for leg in legs:
        chosen = [name for name in (leg.quick if options.quick else leg.wires) if name in direct]
        for workers in options.workers or ([leg.quick_workers] if options.quick else [1, 2]):
            if chosen:
                with serving(leg, options.agw, workers, wrong) as gateway:
                    for name in chosen:
                        different += compare(leg, wires[name], workers, direct[name], gateway.url)
    for name, run_it in (("h-server", guard.authorization), ("i-client", upstream_auth.run)):
        if options.only in name and not options.wire:
            wrong += alone(name, run_it(options.agw, NODE, MODULES, LOGS))
    print()
    for line in (*different, *wrong):
        print(line)
    print(f"{len(different)} differences that are not expected, {len(wrong)} complaints, {time.monotonic() - began:.0f} s; logs in {LOGS.relative_to(ROOT)}")
    return 1 if different or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
