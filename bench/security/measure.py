"""Windows of the security scenarios that a closed loop does not measure: instructions, new tokens, memory under many tokens."""

import time
from collections.abc import Iterable

from bench.harness import http_messages as messages
from bench.harness import procfs
from bench.harness.measure import Meter, Sample
from bench.harness.processes import BenchError
from bench.mcp import measure, sessions
from bench.mcp.measure import Instance, Lab
from bench.mcp.scenarios import Kind, McpScenario
from bench.security import instructions
from bench.security.tokens import with_token

_CALLS = 1000
_COLD = 2000
_POINTS = (20_000, 60_000, 100_000)
_SETTLE_S = 1.0


def register() -> None:
    """Make the windows known to mcp/measure.py."""
    measure.PREPARE |= {Kind.INSTRUCTIONS: _prepare_counted, Kind.COLD: _prepare_http, Kind.TOKENS: _prepare_http}
    measure.WINDOWS |= {Kind.INSTRUCTIONS: _window_instructions, Kind.COLD: _window_cold, Kind.TOKENS: _window_tokens}


def _prepare_http(lab: Lab, instance: Instance) -> None:
    """Touch all code."""
    _send(lab, instance, instance.tokens * 200)


def _send(lab: Lab, instance: Instance, tokens: Iterable[str]) -> int:
    """A request per token, over a few connections. Errors: BenchError when one is refused."""
    bare = messages.render(
        "POST", instance.job.target_path(0), instance.port, messages.mcp_headers("x" * lab.token_length), messages.call_body()
    )
    count = 0
    for answer in sessions.exchange_all(instance.port, (with_token(bare, token) for token in tokens)):
        if answer.status != 200:
            raise BenchError(f"wrong answer: {answer.status} {answer.body[:150]!r}")
        count += 1
    return count


def _window_cold(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """Tokens that nobody has seen, or (`warm`) the same few; the same client for both."""
    warm = instance.variant.tokens > 1
    tokens = (instance.tokens * (_COLD // len(instance.tokens) + 1))[:_COLD] if warm else lab.issuer.fresh(_COLD)
    meter = Meter(lab.bench, instance.peer)
    begun = time.monotonic()
    count = _send(lab, instance, tokens)
    return {"units": float(count), "per_s": count / (time.monotonic() - begun), "errors": 0.0} | meter.read(count)


def _window_tokens(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """Resident memory of the worker while more and more tokens come, and when all come again."""
    workers = instance.peer.worker_pids()
    tokens = lab.issuer.fresh(instance.variant.held)

    def resident() -> float:
        time.sleep(_SETTLE_S)
        return procfs.memory(workers).rss / 2**20

    sample: Sample = {"rss_0_mib": resident(), "units": float(2 * len(tokens))}
    sent = 0
    for point in _POINTS:
        sent += _send(lab, instance, tokens[sent:point])
        sample[f"rss_{point}_mib"] = resident()
    _send(lab, instance, tokens)
    sample["rss_again_mib"] = resident()
    sample["growth_mib"] = max(sample["rss_again_mib"], *(sample[f"rss_{point}_mib"] for point in _POINTS)) - sample[f"rss_{_POINTS[0]}_mib"]
    return sample


def _prepare_counted(lab: Lab, instance: Instance) -> None:
    """Every request several times: then all of them go the compiled way."""
    measure.prepare_calls(lab, instance)
    sessions.call_all(instance.port, messages.read_requests(instance.file))


def _window_instructions(lab: Lab, scenario: McpScenario, instance: Instance) -> Sample:
    """One call after another on one connection."""
    requests = messages.read_requests(instance.file)[:_CALLS]
    peer = instance.peer
    (worker,) = peer.worker_pids()
    with messages.connect(instance.port) as sock:
        sock.settimeout(60.0)

        def work() -> None:
            for request in requests:
                if messages.exchange(sock, request).status != 200:
                    raise BenchError("a call was refused")

        work()
        found = instructions.count(worker, peer.control_pids()[0], instance.directory, work)
    peer.stop()
    return {"units": float(len(requests)), "instructions": found / len(requests)}
