"""Seeded mutation fuzzer for agw's octet scanners: HTTP/1 framing, path normalisation, JSON-RPC envelopes.

    python tests/fuzz/fuzz_http1.py --runs 1000000 --seed 7 --target request
    python tests/fuzz/fuzz_http1.py --target request --replay build/fuzz/request-0123456789ab.bin

Each target states its invariants in its class docstring. An input whose outcome has a new signature (events, reason of
the refusal) joins the corpus, which stands in for coverage. The same seed, runs and corpus give the same inputs.

A target runs in a child process. The input under test is kept in a shared file, so that an abort by a sanitizer, a
signal or a hang leaves its reproducer too. Exit status: 0 nothing found, 1 a violation (its reproducer is named),
2 wrong arguments.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # behind PYTHONPATH, which may name a build with sanitizers

import agw._fast  # noqa: E402
from tests.kits.http1 import Trace, corpus, halves, octets, run_request, run_response  # noqa: E402
from tests.kits.mutation import HTTP1_TOKENS, JSON_TOKENS, Mutator  # noqa: E402

LONGEST = 4096
CORPUS_LIMIT = 6000
HANG_S = 60  # for a block of runs
BLOCK = 2000
VIOLATION = 3  # exit status of a child that has written its reproducer itself


class Violation(AssertionError):
    """An invariant does not hold."""


def held(condition: bool, what: str) -> None:
    if not condition:
        raise Violation(what)


class Target:
    """What is fuzzed: a corpus, a dictionary, and `execute`, which raises if an invariant breaks."""

    tokens = HTTP1_TOKENS

    def corpus(self) -> list[bytes]:
        raise NotImplementedError

    def execute(self, data: bytes) -> object:
        """Run once; the result is the signature of the outcome."""
        raise NotImplementedError

    def execute_split(self, data: bytes, chunks: list[bytes]) -> None:
        """Run on `data` in pieces; for targets that are incremental."""


TOKEN = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
CTL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def signature(trace: Trace) -> object:
    return (
        min(len(trace.messages), 3),
        min(len(trace.interim), 2),
        trace.error,
        tuple(
            (m.complete, bool(m.body), len(m.head.headers) > 2, m.head.keep_alive, m.head.chunked)
            for m in trace.messages[-2:]
        ),
    )


def check_heads(data: bytes, trace: Trace) -> None:
    for head in [*trace.interim, *(message.head for message in trace.messages)]:
        for name, value in head.headers:
            held(TOKEN.fullmatch(name) is not None, f"header name {name!r}")
            held(CTL.search(value) is None and value == value.strip(b" \t"), f"header value {value!r}")
        held(not (head.chunked and head.content_length >= 0), "two framings")
        held(head.version in (10, 11), f"version {head.version}")
    held(sum(len(message.body) for message in trace.messages) <= len(data), "more body than input")
    for message in trace.messages:
        if message.head.content_length >= 0 and message.complete and hasattr(message.head, "method"):
            held(len(message.body) == message.head.content_length, "body is not as long as announced")


class RequestTarget(Target):
    """RequestParser: the event rules of tests/kits/http1.py; names are tokens, values free of controls; targets visible
    ASCII without '#'; HTTP/1.1 has a host; bodies add up; however split: the same trace."""

    def __init__(self) -> None:
        from agw._fast.http1 import Limits

        self.limits = (
            Limits(),
            Limits(
                max_line=64,
                max_field=48,
                max_head=200,
                max_headers=5,
                max_chunk_line=16,
                max_chunk_ext=24,
                max_trailers=32,
            ),
        )
        self.turn = 0

    def corpus(self) -> list[bytes]:
        return corpus(requests=True)

    def execute(self, data: bytes) -> object:
        self.turn += 1
        trace = run_request([data], self.limits[self.turn % 8 == 0])
        check_heads(data, trace)
        for message in trace.messages:
            head = message.head
            held(re.search(rb"[^\x21-\x7e]|#", head.target) is None and head.target != b"", f"target {head.target!r}")
            held(head.host != b"" or head.version == 10, "no host")
            held(re.search(rb"[\s/?#@\\]", head.host) is None, f"host {head.host!r}")
            held(TOKEN.fullmatch(head.method) is not None, f"method {head.method!r}")
        return signature(trace)

    def execute_split(self, data: bytes, chunks: list[bytes]) -> None:
        for limits in self.limits:
            held(
                run_request(chunks, limits) == run_request([data], limits),
                f"depends on the split {[len(chunk) for chunk in chunks]}",
            )


class ResponseTarget(Target):
    """ResponseParser: the event rules; names are tokens, values free of controls; status 100 to 999; no body to HEAD,
    204 and 304; however split: the same trace and surplus."""

    def __init__(self) -> None:
        from agw._fast.http1 import Limits

        self.limits = Limits()
        self.turn = 0

    def corpus(self) -> list[bytes]:
        return corpus(requests=False)

    def options(self) -> tuple[bytes, bool]:
        return (b"GET", b"GET", b"HEAD")[self.turn % 3], self.turn % 2 == 0

    def execute(self, data: bytes) -> object:
        self.turn += 1
        method, eof = self.options()
        trace = run_response([data], self.limits, method, eof=eof)
        check_heads(data, trace)
        held(len(trace.messages) <= 1, "more than one response")
        for message in trace.messages:
            held(200 <= message.head.status <= 999 or message.head.status == 101, f"status {message.head.status}")
            held(CTL.search(message.head.reason) is None, f"reason {message.head.reason!r}")
            held(
                not message.body or (method != b"HEAD" and message.head.status not in (204, 304)),
                "body where none can be",
            )
            held(
                not message.complete or not trace.surplus or data.endswith(trace.surplus),
                "surplus is not the end of the input",
            )
        held(
            not eof or trace.error is not None or not trace.messages or trace.messages[0].complete,
            "the end of the stream left a body open",
        )
        return (method, eof, signature(trace))

    def execute_split(self, data: bytes, chunks: list[bytes]) -> None:
        method, eof = self.options()
        held(
            run_response(chunks, self.limits, method, eof=eof) == run_response([data], self.limits, method, eof=eof),
            f"depends on the split {[len(chunk) for chunk in chunks]} ({method!r}, eof={eof})",
        )


class PathTarget(Target):
    """normalised_path: idempotent; what it returns starts with one slash and holds no empty, '.' or '..' segment, no
    escape of an unreserved octet and no encoded slash, backslash or control octet; never longer than its input."""

    tokens = (
        b"/",
        b"//",
        b".",
        b"..",
        b"/./",
        b"/../",
        b"%2f",
        b"%2F",
        b"%5c",
        b"%2e",
        b"%2E%2e",
        b"%00",
        b"%7f",
        b"%",
        b"%2",
        b"%zz",
        b"\\",
        b"%41",
        b"%e2%82%ac",
        b"a",
        b"~",
        b"%7E",
        b";",
        b"?",
        b"\0",
        b"\xff",
        b"%25",
        b"%252f",
    )

    def __init__(self) -> None:
        from agw._fast.http1 import normalised_path

        self.normalised: Callable[[bytes], bytes | None] = normalised_path

    def corpus(self) -> list[bytes]:
        return [
            b"/",
            b"/a/b/c",
            b"/a/../b",
            b"/a/./b/",
            b"//a///b",
            b"/%41%2e/%7e",
            b"/a/%2e%2e/b",
            b"/..",
            b"/a/..",
            b"/a/b/../../c/.",
            b"",
            b"a",
            b"/" + b"a/" * 50 + b"../" * 50,
        ]

    def execute(self, data: bytes) -> object:
        out = self.normalised(data)
        if out is None:
            return None
        held(self.normalised(out) == out, f"not idempotent: {out!r}, then {self.normalised(out)!r}")
        held(out[:1] == b"/" and len(out) <= max(1, len(data)), f"{out!r}")
        segments = out[1:].split(b"/")
        held(
            not any(segment in (b".", b"..") for segment in segments) and b"" not in segments[:-1],
            f"segments of {out!r}",
        )
        held(
            b"\\" not in out and re.search(rb"%(?![0-9A-F]{2})|%(2F|5C|[01][0-9A-F]|7F)", out) is None,
            f"escapes of {out!r}",
        )
        escaped = (int(found, 16) for found in re.findall(rb"%([0-9A-F]{2})", out))
        held(
            not any(chr(octet).isascii() and (chr(octet).isalnum() or octet in b"-._~") for octet in escaped),
            f"needless escapes in {out!r}",
        )
        return tuple(segment[:2] for segment in segments[:4])


class JsonRpcTarget(Target):
    """agw._fast.jsonrpc.locate against json.loads: what is located is well-formed JSON and its spans hold the values
    json.loads finds; what is refused as no JSON is no JSON to json.loads either, or is what the gateway is stricter
    about (depth, lone surrogates). Only EnvelopeError escapes."""

    tokens = JSON_TOKENS

    def __init__(self) -> None:
        from agw._fast.jsonrpc import EnvelopeError, locate

        self.locate: Callable[[bytes], dict[str, Any]] = locate
        self.error: type[Any] = EnvelopeError

    def corpus(self) -> list[bytes]:
        return [
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"a":[1,2,{"b":null}]}}}',
            b'{"jsonrpc":"2.0","id":"x","method":"resources/read","params":{"uri":"file:///a\\u0020b"}}',
            b'{"jsonrpc":"2.0", "method" : "notifications/cancelled", "params": {"requestId": 7, "":"\\ud83d\\ude00"}}',
            b'{"jsonrpc":"2.0","id":9007199254740993,"result":{"content":[{"text":"\xc3\xa9"}],"isError":false}}',
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error","data":[1.5e-3,-0,0.0]}}',
            b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"b"}]',
            b"{}",
            b"[]",
            b'""',
            b"1",
            b" \r\n\t{ } ",
            b'{"method":"initialize","id":0,"jsonrpc":"2.0","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c"}}}',
        ]

    @staticmethod
    def parsed(data: bytes) -> Any:
        """The value, or None if it is no JSON by RFC 8259."""

        def refuse(constant: str) -> None:
            raise ValueError(constant)

        try:
            return json.loads(data.decode("utf-8"), parse_constant=refuse)
        except (ValueError, RecursionError):
            return None

    def execute(self, data: bytes) -> object:
        try:
            found = self.locate(data)
        except self.error as error:
            held(error.code in (-32700, -32600), f"code {error.code}")
            if error.code == -32700 and "too deeply" not in str(error):
                value = self.parsed(data)
                held(
                    value is None or re.search(rb"\\u[dD][89a-fA-F]", data) is not None, f"refused as no JSON ({error})"
                )
            return (error.code, str(error))
        value = self.parsed(data)
        held(value is not None, "accepted what is no JSON")
        if found["kind"] == "batch":
            held(isinstance(value, list), "a batch that is no array")
            return "batch"
        held(isinstance(value, dict) and value.get("jsonrpc") == "2.0", "accepted an envelope without jsonrpc 2.0")
        for name in ("id", "params"):
            held((found[name] is not None) == (name in value), f"{name}: {found[name]!r}")
            if found[name] is not None:
                held(json.loads(found[name]) == value[name], f"{name}: {found[name]!r} is not {value[name]!r}")
        held((found["method"] is not None) == ("method" in value), "method")
        if found["method"] is not None:
            held(json.loads(b'"' + found["method"] + b'"') == value["method"], f"method: {found['method']!r}")
        params = value.get("params")
        for name in ("name", "uri"):
            wanted = params.get(name) if isinstance(params, dict) else None
            wanted = wanted if isinstance(wanted, str) else None
            got = None if found[name] is None else json.loads(b'"' + found[name] + b'"')
            held(got == wanted, f"{name}: {found[name]!r} is not {wanted!r}")
        return (found["kind"], *(found[name] is None for name in ("params", "name", "uri")))


# The registry: name → class. A class whose module is not built yet raises ImportError when made; "all" leaves it out.
TARGETS: dict[str, type[Target]] = {
    "request": RequestTarget,
    "response": ResponseTarget,
    "path": PathTarget,
    "jsonrpc": JsonRpcTarget,
}


class Current:
    """The input under test, in a file that survives this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8 + LONGEST))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)

    def put(self, data: bytes) -> None:
        self.map[0 : 8 + len(data)] = len(data).to_bytes(8, "little") + data

    @staticmethod
    def read(path: Path) -> bytes:
        content = path.read_bytes()
        return content[8 : 8 + int.from_bytes(content[:8], "little")]


def fails(target: Target, data: bytes, turn: int) -> bool:
    """Does `data` break an invariant, at turn `turn` or at any other, split anyhow?"""
    for now in (turn, *range(turn, turn + 8)):
        try:
            if hasattr(target, "turn"):
                target.turn = now
            target.execute(data)
            for chunks in (octets(data), *(halves(data) if len(data) < 300 else ())):
                target.execute_split(data, chunks)
        except Exception:
            return True
    return False


def reduced(target: Target, data: bytes, turn: int) -> bytes:
    """A shorter input that still breaks an invariant; at most some thousand attempts."""
    if not fails(target, data, turn):
        return data
    size, attempts = max(1, len(data) // 2), 0
    while size and attempts < 3000:
        at, shrunk = 0, False
        while at < len(data) and attempts < 3000:
            attempts += 1
            candidate = data[:at] + data[at + size :]
            if fails(target, candidate, turn):
                data, shrunk = candidate, True
            else:
                at += size
        if not shrunk or size > 1:
            size //= 2
    return data


def save(out: Path, name: str, data: bytes) -> Path:
    path = out / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.bin"
    path.write_bytes(data)
    return path


def fuzz(name: str, target: Target, runs: int, seed: int, share: int, out: Path, current: Current) -> int:
    mutator = Mutator(f"{name} {seed}", target.corpus(), target.tokens, LONGEST)
    seen: set[object] = set()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    start = last = time.monotonic()
    for number in range(runs):
        if number % BLOCK == 0:
            signal.alarm(HANG_S)
            now = time.monotonic()
            if now - last > 5:
                last = now
                print(
                    f"{name}: {number:,} of {runs:,}, {number / (now - start):,.0f}/s, {len(seen)} outcomes", flush=True
                )
        data = mutator.mutate()
        current.put(data)
        try:
            outcome = target.execute(data)
            if number % share == 0:
                target.execute_split(data, mutator.cuts(data))
        except Exception:
            signal.alarm(0)
            traceback.print_exc()
            turn = getattr(target, "turn", 1) - 1
            path, small = save(out, name, data), reduced(target, data, turn)
            print(
                f"{name}: violation at run {number}, seed {seed}\n  input   {data!r}\n  reduced {small!r}\n"
                f"  reproducer {path} and {save(out, name + '-reduced', small)}",
                flush=True,
            )
            return VIOLATION
        if outcome not in seen and len(seen) < CORPUS_LIMIT:
            seen.add(outcome)
            mutator.keep(data)
    signal.alarm(0)
    spent = time.monotonic() - start
    print(
        f"{name}: {runs:,} runs in {spent:.1f} s, {runs / max(spent, 1e-9):,.0f}/s, {len(seen)} outcomes, no violation",
        flush=True,
    )
    return 0


def in_child(name: str, target: Target, runs: int, seed: int, share: int, out: Path) -> bool:
    """Fuzz in a child; True if nothing was found. A child that dies without a word has its last input saved for it."""
    path = out / f".{name}-{os.getpid()}.current"
    current = Current(path)
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = fuzz(name, target, runs, seed, share, out, current)
        except KeyboardInterrupt:
            status = VIOLATION
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    _, code = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(code)
    if status not in (0, VIOLATION):
        end = (
            "hung"
            if status == -signal.SIGALRM
            else f"died of signal {-status}"
            if status < 0
            else f"was ended with status {status}"
        )
        print(
            f"{name}: the run {end}, seed {seed}\n  reproducer {save(out, name + '-crash', Current.read(path))}",
            flush=True,
        )
    path.unlink()
    return status == 0


def replay(name: str, target: Target, data: bytes) -> bool:
    """Run one input whole, split at each place and byte by byte; True if nothing is wrong."""
    for _ in range(24):
        print(target.execute(data))
        for chunks in (octets(data), *halves(data)):
            target.execute_split(data, chunks)
    print(f"{name}: no violation")
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=1_000_000, help="executions per target (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (%(default)s)")
    parser.add_argument("--target", action="append", choices=[*TARGETS, "all"], help="may be repeated (all)")
    parser.add_argument("--share", type=int, default=8, help="one run in SHARE is split too (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz", help="where reproducers go (%(default)s)")
    parser.add_argument("--replay", type=Path, help="run this file instead of mutations; needs one --target")
    arguments = parser.parse_args()
    names = arguments.target or ["all"]
    wanted = list(TARGETS) if "all" in names else names
    targets: dict[str, Target] = {}
    for name in wanted:
        try:
            targets[name] = TARGETS[name]()
        except ImportError as absent:
            print(f"{name}: left out, {absent}")
            if "all" not in names:
                return 2
    if arguments.replay:
        if len(targets) != 1:
            parser.error("--replay needs one --target")
        ((name, target),) = targets.items()
        return 0 if replay(name, target, arguments.replay.read_bytes()) else 1
    print(f"fuzzing {Path(agw._fast.__file__).parent}, seed {arguments.seed}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    clean = [
        in_child(name, target, arguments.runs, arguments.seed, max(1, arguments.share), arguments.out)
        for name, target in targets.items()
    ]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
