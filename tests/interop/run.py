"""Runs the clients against the servers and prints what came out. Called by run.sh.

A check that fails through the gateway is repeated without it, so that a fault of the pair is not taken for ours.
Exit code 0: nothing failed that works without the gateway, and every gateway ended with 0 and without an error in its log.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import cases
import raw
from processes import Gateway, Process, free_port, http_target

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LOGS = ROOT / "build" / "interop" / "logs"
NODE_TREE = ROOT / "build" / "interop" / "node"
NODE = NODE_TREE / "node_modules" / ".bin" / "node"
MODULES = NODE_TREE / "node_modules"
PYTHONS = {name: ROOT / ".venv" / f"interop-{name}" / "bin" / "python" for name in ("mcp2", "mcp1", "fastmcp")}
EVERYTHING = MODULES / "@modelcontextprotocol" / "server-everything" / "dist" / "index.js"

CLIENT_LIMIT_S = 120
LONG_S, LONG_EVERY_S = 150, 10

Results = dict[str, tuple[bool | None, str]]
"""Check to (passed, detail); None: does not apply."""


@dataclass
class Row:
    """One client at one server."""

    server: str
    client: str
    results: Results
    workers: str
    notes: list[str] = field(default_factory=list)


def put_scripts() -> None:
    """Node finds packages beside the file that wants them."""
    for file in [*(HERE / "clients").glob("*.mjs"), *(HERE / "servers").glob("*.mjs")]:
        shutil.copy(file, NODE_TREE)


def drive(client: cases.Client, url: str, profile: cases.Profile) -> Results:
    """Run a client and collect its results. One that dies or hangs fails its first missing check."""
    directory, program = (NODE_TREE, str(NODE)) if client.interpreter == "node" else (HERE / "clients", str(PYTHONS[client.interpreter]))
    command = [program, client.script, url, json.dumps(profile), *([client.mode] if client.mode else [])]
    process = subprocess.Popen(command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, errors = process.communicate(timeout=CLIENT_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, errors = process.communicate()
        errors += b"\nstill running after its time"
    results: Results = {}
    for line in out.splitlines():
        if line.startswith(b"{"):
            result = json.loads(line)
            results.setdefault(result["check"], (result["ok"], result["detail"]))
    refused = client.modern_only and not profile["modern"]
    missing = [check for check in profile.get("checks", cases.CHECKS) if check not in results]
    if missing and not refused:
        last = errors.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        results[missing[0]] = (False, f"the client ended before: {last[0][:300]}")
    return results


def matrix_row(server: str, client: cases.Client, gateway: Gateway, direct: str | None, profile: cases.Profile) -> Row:
    """Run a client through the gateway, which speaks both eras whatever the server does, and directly what failed."""
    before = gateway.connections()
    results = drive(client, gateway.url, {**profile, "modern": True, "gone": 404})
    after = gateway.connections()
    row = Row(server, client.name, results, "+".join(str(new - old) for old, new in zip(before, after, strict=True)))
    failed = [check for check, (ok, _) in results.items() if ok is False]
    alone = drive(client, direct, profile) if failed and direct else {}
    for check in failed:
        without = {True: "passes without agw", False: "fails without agw as well", None: ""}[alone.get(check, (None, ""))[0]]
        row.notes.append(f"{check}: {results[check][1]} [{without or 'not tried without agw'}]")
        if without.startswith("fails"):
            results[check] = (None, "fails without agw as well")
    return row


def one_session_many_connections(server: str, gateway: Gateway, profile: cases.Profile) -> Row:
    """A session whose requests each have a connection of their own, until every worker has had some."""
    before = gateway.connections()
    session = raw.Session(gateway.port)
    results: Results = {"connect": (session.status == HTTPStatus.OK, str(session.status))}
    part = profile["echo"]
    try:
        for _ in range(40):
            answer = session.call(part["tool"], part["arguments"])
            assert answer == part["text"], answer
        results["call"] = (True, "40 calls")
    except (AssertionError, OSError) as error:
        results["call"] = (False, str(error))
    results["delete"] = (session.delete() // 100 == 2, "")
    counts = [new - old for old, new in zip(before, gateway.connections(), strict=True)]
    results["session"] = (min(counts) > 0, f"connections per worker: {counts}")
    return Row(server, "plain HTTP, a connection each", results, "+".join(map(str, counts)), [])


def table(rows: list[Row]) -> str:
    """The matrix as text."""
    marks = {True: "ok", None: "-", False: "FAIL"}
    lines = [["server", "client", *cases.CHECKS, "workers"]]
    for row in rows:
        cells = [marks[row.results[check][0]] if check in row.results else "-" for check in cases.CHECKS]
        lines.append([row.server, row.client, *cells, row.workers])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def long_stream(kind: str, gateway: Gateway) -> list[float]:
    """When the events of a stream arrived that is open for LONG_S. Errors: AssertionError, TimeoutError."""
    count = LONG_S // LONG_EVERY_S
    arguments = {"delay_ms": 1000 * LONG_EVERY_S, "every_ms": 1000 * LONG_EVERY_S, "count": count}
    session = raw.Session(gateway.port)
    if kind == "GET":
        stream = raw.Stream(gateway.port, "GET", None, session.headers, 3 * LONG_EVERY_S)
        method = "notifications/message"
        session.call("notify_later", arguments)
    else:
        meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
        listen = _modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": meta})
        stream = raw.Stream(gateway.port, "POST", *listen, 3 * LONG_EVERY_S)
        method = "notifications/tools/list_changed"
        raw.send(gateway.port, "POST", *_modern("tools/call", {"name": "notify_later", "arguments": arguments, "_meta": meta}))
    assert stream.status == HTTPStatus.OK, stream.status
    times: list[float] = []
    for at, message in stream.events():
        if message.get("method") == method:
            times.append(at)
        if len(times) == count:
            break
    stream.close()
    session.delete()
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == count, f"{len(times)} events instead of {count}, the last after {times[-1]:.1f} s"
    assert all(abs(gap - LONG_EVERY_S) < 1 for gap in gaps), f"gaps {[round(gap, 2) for gap in gaps]}"
    return times


def _modern(method: str, params: dict[str, object]) -> tuple[object, dict[str, str]]:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method}
    if "name" in params:
        headers["mcp-name"] = str(params["name"])
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}, headers


def long_streams(gateway: Gateway) -> list[str]:
    """Both kinds of stream at the same time. Prints; returns what went wrong."""
    wrong = []
    with ThreadPoolExecutor() as pool:
        running = {kind: pool.submit(long_stream, kind, gateway) for kind in ("GET", "subscriptions/listen")}
        for kind, future in running.items():
            try:
                times = future.result()
                print(f"  {kind}: {len(times)} events in {times[-1]:.1f} s, one every {LONG_EVERY_S} s", flush=True)
            except (AssertionError, OSError) as error:
                print(f"  {kind}: FAIL {error}", flush=True)
                wrong.append(f"long stream, {kind}: {error}")
    return wrong


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests/interop/run.sh")
    parser.add_argument("--long", action="store_true", help=f"also watch streams for {LONG_S} s")
    parser.add_argument("--agw", type=Path, default=ROOT / ".venv" / "bin" / "agw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="only the parts whose name contains this: dual-era, everything, demo, long")
    options = parser.parse_args()

    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    put_scripts()

    def wanted(part: str) -> bool:
        return options.only in part

    rows: list[Row] = []
    wrong: list[str] = []
    began = time.monotonic()

    def run_clients(server: str, gateway: Gateway, direct: str | None, profile: cases.Profile) -> None:
        rows.append(one_session_many_connections(server, gateway, profile))
        for client in cases.CLIENTS:
            row = matrix_row(server, client, gateway, direct, profile)
            rows.append(row)
            failed = [check for check, (ok, _) in row.results.items() if ok is False]
            print(f"  {server}, {client.name}: {'FAIL ' + ' '.join(failed) if failed else 'ok'}", flush=True)

    @contextmanager
    def gateway_for(name: str, upstream: int) -> Iterator[Gateway]:
        targets = [http_target(upstream)] if upstream else []
        with Gateway(f"agw-{name}", options.agw, targets, LOGS, options.workers) as gateway:
            yield gateway
            if (code := gateway.stop()) != 0:
                wrong.append(f"{gateway.name} exited with {code}")
            wrong.extend(gateway.complaints())

    dual_era = [str(PYTHONS["mcp2"]), str(HERE / "servers" / "dual_era.py"), "--port"]
    if wanted("dual-era"):
        print("dual-era server (python mcp 2.3)", flush=True)
        port = free_port()
        with Process("dual-era-pages", [*dual_era, str(port), "--page-size", "6"], port, LOGS) as server, gateway_for("dual-era", port) as gateway:
            run_clients("dual-era", gateway, server.url, cases.DUAL_ERA)
    if wanted("everything"):
        print("npm server-everything", flush=True)
        port = free_port()
        command = [str(NODE), str(EVERYTHING), "streamableHttp"]
        with Process("everything", command, port, LOGS, {"PORT": str(port)}) as server, gateway_for("everything", port) as gateway:
            run_clients("everything", gateway, server.url, cases.EVERYTHING)
    if wanted("demo"):
        print("built-in demo (agw serve without -f)", flush=True)
        with gateway_for("demo", 0) as gateway:
            run_clients("demo", gateway, None, cases.DEMO)
    if options.long and wanted("long"):
        port = free_port()
        with Process("dual-era", [*dual_era, str(port)], port, LOGS), gateway_for("long", port) as gateway:
            print(f"streams open for {LONG_S} s", flush=True)
            wrong += long_streams(gateway)

    if rows:
        print(f"\n{table(rows)}\n")
    for row in rows:
        for note in row.notes:
            print(f"{row.server}, {row.client}: {note}")
    for line in wrong:
        print(line)
    failed = sum(ok is False for row in rows for ok, _ in row.results.values())
    passed = sum(ok is True for row in rows for ok, _ in row.results.values())
    took = time.monotonic() - began
    print(f"{passed} checks passed, {failed} failed, {took:.0f} s; logs in {LOGS.relative_to(ROOT)}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
