"""Every client, through `agw serve`, to every server; `make matrix` writes what came out to docs/mcp-matrix.md.

A cell is four checks: list, call, progress, cancel. What one of the two sides does not have is no failure, and neither is
what fails without agw as well; the table says which it is. Exit code 0: nothing else failed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cases
from legs import CLOCK, FIXTURE
from processes import Gateway, Process, Target, free_port, http_target, sse_target, stdio_target
from run import EVERYTHING, HERE, NODE, NODE_TREE, PYTHONS, ROOT, Results, drive, put_scripts

LOGS = ROOT / "build" / "interop" / "matrix"
TABLE = ROOT / "docs" / "mcp-matrix.md"
CHECKS = {"list": "L", "call": "C", "progress": "P", "cancel": "X"}

PYTHON1 = [str(PYTHONS["mcp1"]), str(HERE / "servers" / "python1.py")]
MODERN_ONLY = [str(NODE), str(NODE_TREE / "modern_only.mjs")]
TASKS = [str(PYTHONS["fastmcp"]), str(HERE / "servers" / "fastmcp_tasks_server.py")]
EVERY = [str(NODE), str(EVERYTHING)]


@dataclass(frozen=True)
class Server:
    """A server: how it is started, given a port (unless it is a program on stdio), and what to expect of it."""

    name: str
    transport: str
    command: Callable[[int], list[str]]
    profile: cases.Profile
    port_in_environment: bool = False
    undeclared_tools: int = 0
    """How many tools it offers a client that declares nothing, if that is another number."""


SERVERS = [
    Server("python mcp 2.3, http", "http", lambda port: [*FIXTURE, "--port", str(port)], cases.DUAL_ERA),
    Server("python mcp 2.3, stdio", "stdio", lambda _: [*FIXTURE, "--transport", "stdio"], cases.DUAL_ERA),
    Server("python mcp 2.3, sse", "sse", lambda port: [*FIXTURE, "--port", str(port), "--transport", "sse"], cases.DUAL_ERA),
    Server("python mcp 1.30, http", "http", lambda port: [*PYTHON1, "http", str(port)], cases.FOUR_TOOLS),
    Server("python mcp 1.30, stdio", "stdio", lambda _: [*PYTHON1, "stdio"], cases.FOUR_TOOLS),
    Server("everything, http", "http", lambda _: [*EVERY, "streamableHttp"], cases.EVERYTHING, port_in_environment=True, undeclared_tools=13),
    Server("everything, sse", "sse", lambda _: [*EVERY, "sse"], cases.EVERYTHING, port_in_environment=True, undeclared_tools=13),
    Server("everything, stdio", "stdio", lambda _: [*EVERY, "stdio"], cases.EVERYTHING, undeclared_tools=13),
    Server("mcp-server-time, stdio", "stdio", lambda _: CLOCK, cases.TIME),
    Server("typescript 2.4 modern-only, http", "http", lambda port: [*MODERN_ONLY, str(port)], cases.FOUR_TOOLS | {"modern": True}),
    Server(
        "fastmcp-tasks 4.1, http", "http", lambda port: [*TASKS, str(port)],
        cases.FOUR_TOOLS | {"modern": True, "tools": 5, "task": {"tool": "slow_echo", "arguments": {"text": "later"}, "text": "later"}},
    ),
]  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What a client got out of a server over one downstream transport."""

    letters: str
    failed: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"**{self.letters}** red: {', '.join(self.failed)}" if self.failed else self.letters


@contextmanager
def serving(server: Server) -> Iterator[tuple[Target, str | None]]:
    """The server as a target, and its own URL if it has one."""
    name = server.name.replace(" ", "-").replace(",", "")
    if server.transport == "stdio":
        yield stdio_target(server.command(0), environment={"COUNT_FILE": str(LOGS / f"{name}.count")}), None
        return
    port = free_port()
    environment = {"PORT": str(port)} if server.port_in_environment else None
    with Process(name, server.command(port), port, LOGS, environment):
        if server.transport == "sse":
            yield sse_target(port), f"http://127.0.0.1:{port}/sse"
        else:
            yield http_target(port), f"http://127.0.0.1:{port}/mcp"


def judge(results: Results, alone: Results) -> Cell:
    """A cell from what came out through agw and, for what failed, without."""
    letters, failed, reasons = "", [], []
    for check, letter in (CHECKS | {"task": "T"}).items():
        ok, detail = results.get(check, (None, ""))
        if ok is False and alone.get(check, (True, ""))[0] is False:
            ok, detail = None, f"{check}: fails without agw as well"
        if ok is False:
            failed.append(check)
        elif ok is None and check in CHECKS:
            reasons.append(detail if ":" in detail else f"{check}: {detail}")
        letters += letter if ok else "-" if check in CHECKS else ""
    if results.get("connect", (True, ""))[0] is False and alone.get("connect", (True, ""))[0] is not False:
        failed.insert(0, "connect")
    return Cell(letters, tuple(failed), tuple(reasons))


def fill(server: Server, client: cases.Client, over: str, gateway: Gateway, direct: str | None, notes: list[str]) -> Cell:
    """Run one cell."""
    if over == "sse" and not client.sse:
        return Cell("n/a", reasons=("there is no HTTP+SSE in the modern era",))
    checks = ["connect", *CHECKS, *(["task"] if client.interpreter == "fastmcp" and "task" in server.profile else [])]
    profile = server.profile | {"modern": over == "http", "pages": 1, "checks": checks}
    if server.undeclared_tools:
        profile["least"] = server.undeclared_tools
        if not client.declares:
            profile["tools"] = server.undeclared_tools
    url = gateway.url if over == "http" else gateway.url.removesuffix("/mcp") + "/sse"
    results = drive(client, url, profile)
    if any(ok is False for ok, _ in results.values()):
        results = drive(client, url, profile)
    wrong = [check for check, (ok, _) in results.items() if ok is False]
    alone: Results = {}
    if wrong and direct is not None:
        alone = drive(client, direct, profile | {"modern": server.profile["modern"] and not direct.endswith("/sse")})
    cell = judge(results, alone)
    notes += [f"{server.name} / {client.name} / {over}: {check}: {results[check][1] if check in results else ''}" for check in cell.failed]
    return cell


def table(title: str, clients: list[cases.Client], rows: list[tuple[Server, list[Cell]]]) -> list[str]:
    """A table in Markdown."""
    lines = [f"## {title}", "", "| server | " + " | ".join(client.name for client in clients) + " |", "|---" * (len(clients) + 1) + "|"]
    return [*lines, *(f"| {server.name} | " + " | ".join(map(str, cells)) + " |" for server, cells in rows), ""]


INTRODUCTION = """# Clients and servers

Every client through `agw serve --workers 2` to every server, each server the only target. Generated by `make matrix`. What fails is
tried a second time: a client may lose the last progress by itself when it is read together with the result.

| letter | the check |
|---|---|
| L | `tools/list`, all pages |
| C | `tools/call`; texts unchanged (not only ASCII) |
| P | progress arrives one by one while the call runs, not with its result |
| X | a call the client gives up ends at the server |
| T | a tool that runs as a task (tasks extension) |
| - | one of the two sides does not have it: see below |
| n/a | impossible by protocol: the modern era has no HTTP+SSE |
"""


def document(tables: list[str], reasons: dict[str, set[str]]) -> str:
    """The whole page."""
    lines = ["## Why not", "", *(f"- {reason}: {', '.join(sorted(where))}" for reason, where in sorted(reasons.items()))]
    return "\n".join([INTRODUCTION, *tables, *lines]) + "\n"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests/interop/run.sh matrix")
    parser.add_argument("--agw", type=Path, default=ROOT / ".venv" / "bin" / "agw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="only servers whose name contains this; the page is not written")
    parser.add_argument("--client", default="", help="only clients whose name contains this; the page is not written")
    parser.add_argument("--over", choices=["http", "sse"], help="only this downstream transport; the page is not written")
    options = parser.parse_args()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    put_scripts()
    clients = [client for client in [*cases.CLIENTS, *cases.ONLOOKERS] if options.client in client.name]
    rows: dict[str, list[tuple[Server, list[Cell]]]] = {"http": [], "sse": []}
    reasons: dict[str, set[str]] = {}
    notes: list[str] = []
    wrong: list[str] = []
    began = time.monotonic()
    for server in (server for server in SERVERS if options.only in server.name):
        with ExitStack() as stack:
            target, direct = stack.enter_context(serving(server))
            name = f"agw-{server.name.replace(' ', '-').replace(',', '')}"
            gateway = stack.enter_context(Gateway(name, options.agw, [target], LOGS, options.workers))
            for over in [options.over] if options.over else ["http", "sse"]:
                cells = []
                for client in clients:
                    cell = fill(server, client, over, gateway, direct, notes)
                    print(f"  {server.name:34} {client.name:28} {over:5} {cell}", flush=True)
                    cells.append(cell)
                    for reason in cell.reasons:
                        side = client.name if "client" in reason else server.name if "offered" in reason else f"{client.name} at {server.name}"
                        reasons.setdefault(reason, set()).add(side)
                rows[over].append((server, cells))
            if (code := gateway.stop()) != 0:
                wrong.append(f"{gateway.name} exited with {code}")
            wrong += gateway.complaints()
    titles = {"http": "Clients over streamable HTTP", "sse": "Clients over HTTP+SSE (2024-11-05)"}
    if not (options.only or options.client or options.over):
        TABLE.write_text(document([line for over, title in titles.items() for line in table(title, clients, rows[over])], reasons))
    print()
    for line in (*notes, *wrong):
        print(line)
    print(f"{len(notes)} red checks, {len(wrong)} complaints, {time.monotonic() - began:.0f} s; logs in {LOGS.relative_to(ROOT)}")
    return 1 if notes or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
