"""StdioTransport with real child processes: framing, matching, bounds, restarts. Each test also proves that nothing is left."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agw.mcp.message import request
from agw.mcp.transport import Transport, TransportError
from agw.mcp.transports import stdio
from agw.mcp.transports.stdio import ChildLimit, StdioTransport
from tests.peers.stdio_kit import Channel, Options, alive, nothing_left, on_uvloop, peer, result, until


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


async def failure(awaitable: Any) -> TransportError:
    with pytest.raises(TransportError) as caught:
        await awaitable
    return caught.value


# ------------------------------------------------------------------------------------------------------ conversation


def test_it_is_a_transport() -> None:
    transport: Transport = StdioTransport("t", peer("echo"), ChildLimit(1))
    assert transport.kind == "stdio"


def test_request_and_response() -> None:
    async def body() -> None:
        channel = Channel()
        assert not channel.running
        assert await channel.call("echo", {"a": [1, "ü", None]}) == {"a": [1, "ü", None]}
        assert channel.running and channel.generation == 1 and channel.in_flight == 0
        await channel.close()

    on_uvloop(body())


def test_the_response_is_forwarded_octet_for_octet() -> None:
    async def body() -> None:
        channel = Channel()
        reply = await channel.request(b'{"jsonrpc":"2.0","id":"a\\u0062","method":"dribble"}', b'"ab"', timeout_s=10)
        assert reply.message == b'{"jsonrpc": "2.0", "id": "ab", "result": "drop by drop"}'
        assert (reply.status, reply.headers) == (0, ())
        await channel.close()

    on_uvloop(body())


def test_a_message_with_line_breaks_leaves_as_one_line() -> None:
    async def body() -> None:
        channel = Channel()
        text = b'{\r\n  "jsonrpc": "2.0",\n  "id": 1,\n\t"method": "raw", "params": {"n": 1.50, "s": "a\\nb  c"}\n}\n'
        line = result(await channel.request(text, b"1", timeout_s=10))
        assert line == '{"jsonrpc":"2.0","id":1,"method":"raw","params":{"n":1.50,"s":"a\\nb  c"}}\n'
        assert (await failure(channel.request(b'{"id":\n', b"2"))).kind == "protocol"
        await channel.close()

    on_uvloop(body())


def test_responses_find_their_requests_in_any_order() -> None:
    async def body() -> None:
        channel = Channel()
        held = [asyncio.ensure_future(channel.call("hold")) for _ in range(50)]
        echoed = await asyncio.gather(*(channel.call("echo", {"n": n}) for n in range(50)))
        assert [e["n"] for e in echoed] == list(range(50))
        assert channel.in_flight == 50
        await channel.call("release")
        assert await asyncio.gather(*held) == ["late"] * 50
        await channel.close()

    on_uvloop(body())


def test_ids_are_matched_as_raw_text() -> None:
    async def body() -> None:
        channel = Channel()
        number = channel.request(request(b"7", "echo", b'{"is":"number"}'), b"7", timeout_s=10)
        string = channel.request(request(b'"7"', "echo", b'{"is":"string"}'), b'"7"', timeout_s=10)
        replies = await asyncio.gather(number, string)
        assert [result(reply)["is"] for reply in replies] == ["number", "string"]
        await channel.close()

    on_uvloop(body())


def test_what_is_no_response_goes_to_the_owner_in_order() -> None:
    async def body() -> None:
        channel = Channel()
        assert await channel.call("ask") == "asked"
        assert [stray["method"] for stray in channel.strays] == ["roots/list", "notifications/progress"]
        assert channel.strays[0]["id"] == 1  # the target's own id, equal to ours by accident
        await channel.close()

    on_uvloop(body())


def test_an_owner_that_fails_costs_one_message(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        channel = Channel()
        channel.on_stray = lambda raw: 1 / 0  # type: ignore[assignment]
        assert await channel.call("ask") == "asked"
        await channel.close()

    on_uvloop(body())
    assert "could not be handled" in caplog.text


def test_notifications_are_written() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        await channel.note({"n": 5})
        await until(lambda: channel.strays)
        assert channel.strays == [{"jsonrpc": "2.0", "method": "notifications/echoed", "params": {"n": 5}}]
        await channel.listen()
        await channel.close()

    on_uvloop(body())


def test_a_notification_starts_no_process() -> None:
    async def body() -> None:
        channel = Channel()
        error = await failure(channel.note({}))
        assert (error.kind, error.sent, channel.limit.spawned_total) == ("connect", False, 0)

    on_uvloop(body())


def test_a_batch_of_the_2025_03_26_revision_is_taken_apart() -> None:
    async def body() -> None:
        channel = Channel()
        assert await channel.call("batch") == "batched"
        assert [stray["method"] for stray in channel.strays] == ["notifications/x"]
        await until(lambda: channel.noise_total == 1)
        await channel.close()

    on_uvloop(body())


def test_a_second_response_is_dropped() -> None:
    async def body() -> None:
        channel = Channel()
        assert await channel.call("twice") == 1
        assert await channel.call("echo", {"still": "works"}) == {"still": "works"}
        assert channel.unmatched_total == 1 and channel.strays == []
        await channel.close()

    on_uvloop(body())


def test_an_id_cannot_be_in_flight_twice() -> None:
    async def body() -> None:
        channel = Channel()
        first = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        with pytest.raises(ValueError, match="in flight"):
            await channel.request(request(b"1", "echo", None), b"1")
        assert channel.in_flight == 1
        await channel.call("release")
        assert await first == "late"
        await channel.close()

    on_uvloop(body())


# --------------------------------------------------------------------------------------------------- giving up, time


def test_a_cancelled_request_is_forgotten_and_its_late_response_swallowed() -> None:
    async def body() -> None:
        channel = Channel()
        task = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        await channel.call("echo")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert channel.in_flight == 0
        await channel.call("release")
        assert channel.unmatched_total == 1 and channel.strays == []
        await channel.close()

    on_uvloop(body())


def test_silence_is_bounded() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        error = await failure(channel.call("hold", timeout_s=0.05))
        assert (error.kind, error.sent, channel.in_flight) == ("timeout", True, 0)
        await channel.call("release")
        assert channel.unmatched_total == 1
        await channel.close()

    on_uvloop(body())


def test_a_sign_of_life_restarts_the_silence() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        touched = asyncio.ensure_future(channel.call("hold", timeout_s=0.4))
        left_alone = asyncio.ensure_future(channel.call("hold", timeout_s=0.4))
        await until(lambda: channel.in_flight == 2)
        while not left_alone.done():
            channel.touch(b"2")
            await asyncio.sleep(0.02)
        assert (await failure(left_alone)).kind == "timeout"
        assert not touched.done()
        await channel.call("release")
        assert await touched == "late"
        channel.touch(b"2")
        await channel.close()

    on_uvloop(body())


def test_last_used_tells_the_owner_when_it_is_idle() -> None:
    async def body() -> None:
        channel = Channel()
        created = channel.last_used
        assert created <= time.monotonic()
        task = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        begun = channel.last_used
        await channel.call("release")
        await task
        assert created < begun < channel.last_used <= time.monotonic()
        await channel.close()

    on_uvloop(body())


# ------------------------------------------------------------------------------------------------------------ bounds


def test_megabytes_both_ways() -> None:
    async def body() -> None:
        channel = Channel()
        sizes = [1_000_000, 2_000_000, 3_000_000]
        echoed = await asyncio.gather(*(channel.call("echo", {"t": "x" * size}) for size in sizes), channel.call("big", {"size": 8_000_000}))
        assert [len(e["t"]) for e in echoed[:3]] == sizes
        assert len(echoed[3]) == 8_000_000
        await channel.close()

    on_uvloop(body())


@pytest.mark.parametrize("method", ["big", "big_id_last"])
def test_a_line_too_long_costs_the_request_it_answers(method: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        channel = Channel(max_line_bytes=100_000)
        other = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        error = await failure(channel.call(method, {"size": 1_000_000}))
        assert (error.kind, error.sent) == ("limit", True)
        assert channel.oversized_total == 1 and channel.downs == []
        await channel.call("release")
        assert await other == "late"
        await channel.close()

    on_uvloop(body())
    assert "over the limit" in caplog.text


def test_a_line_too_long_of_nobody_in_particular_costs_all_in_flight() -> None:
    async def body() -> None:
        channel = Channel(max_line_bytes=100_000)
        other = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        errors = [await failure(channel.call("big_nameless", {"size": 1_000_000})), await failure(other)]
        assert [error.kind for error in errors] == ["limit", "limit"]
        assert await channel.call("echo", {"n": 1}) == {"n": 1}
        await channel.close()

    on_uvloop(body())


def test_a_notification_too_long_costs_nobody() -> None:
    async def body() -> None:
        channel = Channel(max_line_bytes=100_000)
        assert await channel.call("big_notification", {"size": 1_000_000}) == "after"
        assert channel.oversized_total == 1 and channel.strays == []
        await channel.close()

    on_uvloop(body())


def test_a_child_that_does_not_read_blocks_nobody_and_fills_nothing() -> None:
    async def body() -> None:
        channel = Channel(peer("deaf"), max_queue_bytes=1_000_000, send_timeout_s=0.2)
        big = {"t": "x" * 400_000}
        begun = time.monotonic()
        tasks = [asyncio.ensure_future(channel.call("echo", big, timeout_s=0.3)) for _ in range(4)]
        await until(lambda: channel.strays)
        errors = [await failure(task) for task in tasks]
        # The first is partly in the pipe, the second waits, the third and fourth do not fit.
        assert [(e.kind, e.sent) for e in errors] == [("timeout", True), ("timeout", False), ("limit", False), ("limit", False)]
        late = await failure(channel.note(big))
        assert (late.kind, late.sent) == ("timeout", False)
        assert time.monotonic() - begun < 10
        assert await asyncio.wait_for(asyncio.sleep(0, "the loop lives"), 1)
        await channel.close()

    on_uvloop(body())


def test_what_was_given_up_before_it_was_written_is_never_sent() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        pid = channel.pid
        os.kill(pid, signal.SIGSTOP)
        first = asyncio.ensure_future(channel.call("echo", {"t": "x" * 1_000_000}))
        await until(lambda: channel.in_flight == 1)
        second = asyncio.ensure_future(channel.call("ask"))
        await until(lambda: channel.in_flight == 2)
        second.cancel()
        third = asyncio.ensure_future(channel.call("echo", {"n": 3}))
        await until(lambda: channel.in_flight == 2)
        os.kill(pid, signal.SIGCONT)
        assert len((await first)["t"]) == 1_000_000
        assert await third == {"n": 3}
        assert channel.strays == [] and channel.unmatched_total == 0
        await channel.close()

    on_uvloop(body())


def test_requests_in_flight_are_bounded() -> None:
    async def body() -> None:
        channel = Channel(max_in_flight=2)
        held = [asyncio.ensure_future(channel.call("hold")) for _ in range(2)]
        await until(lambda: channel.in_flight == 2)
        error = await failure(channel.call("echo"))
        assert (error.kind, error.sent) == ("limit", False)
        for task in held:
            task.cancel()
        await channel.close()

    on_uvloop(body())


# ----------------------------------------------------------------------------------------------------- noisy targets


def test_noise_on_standard_output_is_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        channel = Channel()
        for _ in range(3):
            assert await channel.call("noise") == "clean"
        assert channel.noise_total == 3 * 7 and channel.strays == []
        await channel.close()

    on_uvloop(body())
    assert len([record for record in caplog.records if "no JSON-RPC" in record.message]) == 1
    assert "Starting up" not in caplog.text


def test_an_answer_that_is_no_message_fails_its_request_at_once() -> None:
    async def body() -> None:
        channel = Channel()
        assert (await failure(channel.call("malformed"))).kind == "protocol"
        assert await channel.call("echo", {"n": 1}) == {"n": 1}
        await channel.close()

    on_uvloop(body())


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_standard_error_is_always_drained(level: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(level, logger="agw.mcp")

    async def body() -> None:
        channel = Channel()
        assert await channel.call("stderr", {"bytes": 5_000_000}) == "written"
        await channel.close()

    on_uvloop(body())
    told = [record for record in caplog.records if "complaint" in record.message]
    assert 0 < len(told) < 1000 if level == logging.DEBUG else told == []


# ---------------------------------------------------------------------------------------------------- ends, restarts


@pytest.mark.parametrize(
    ("method", "reason"), [("die", "exit code 7"), ("die_mid_answer", "killed by signal 9"), ("close_output", "closed its standard output")]
)
def test_the_end_fails_what_is_in_flight(method: str, reason: str) -> None:
    async def body() -> None:
        channel = Channel()
        other = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        error = await failure(channel.call(method, {"code": 7}))
        assert (error.kind, error.sent) == ("closed", True)
        assert (await failure(other)).kind == "closed"
        assert channel.downs == [reason] and not channel.running and channel.in_flight == 0
        await channel.close()
        assert channel.downs == [reason]

    on_uvloop(body())


def test_what_was_still_queued_was_not_sent() -> None:
    async def body() -> None:
        channel = Channel(peer("deaf"))
        partly = asyncio.ensure_future(channel.call("echo", {"t": "x" * 400_000}))
        queued = asyncio.ensure_future(channel.call("echo"))
        await until(lambda: channel.strays)
        note = asyncio.ensure_future(channel.note({}))
        await asyncio.sleep(0)
        os.kill(channel.pid, signal.SIGKILL)
        errors = [await failure(task) for task in (partly, queued, note)]
        assert [(error.kind, error.sent) for error in errors] == [("closed", True), ("closed", False), ("closed", False)]
        await channel.close()

    on_uvloop(body())


def test_last_words_are_heard() -> None:
    async def body() -> None:
        channel = Channel()
        assert await channel.call("answer_and_die") == "last words"
        await until(lambda: channel.downs)
        assert channel.downs == ["exit code 0"]
        await channel.close()

    on_uvloop(body())


def test_last_words_longer_than_a_chunk_are_heard_to_their_end() -> None:
    async def body() -> None:
        channel = Channel()
        await channel.call("echo")
        task = asyncio.ensure_future(channel.call("answer_and_die", {"size": 500_000}))
        await asyncio.sleep(0)
        deadline = time.monotonic() + 20
        while alive(channel.pid):  # without the loop, so that it finds the output and the end together
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert await task == "last words" + "!" * 500_000
        await until(lambda: channel.downs)
        await channel.close()

    on_uvloop(body())


def test_a_child_that_closes_its_input_is_replaced() -> None:
    async def body() -> None:
        channel = Channel(peer("echo", stop_grace_ns=100_000_000))
        assert await channel.call("close_input") == "closed"
        first = channel.pid
        error = await failure(channel.call("echo"))
        assert error.kind == "closed" and not error.sent
        assert channel.downs == ["closed its standard input"]
        assert await channel.call("echo", {"n": 1}) == {"n": 1}
        assert channel.pid != first and channel.generation == 2
        await channel.close()
        assert not alive(first)

    on_uvloop(body())


def test_the_next_request_restarts_it_after_a_short_wait() -> None:
    async def body() -> None:
        channel = Channel()
        for generation in (1, 2, 3):
            assert await channel.call("echo", {"g": generation}) == {"g": generation}
            assert channel.generation == generation
            begun = time.monotonic()
            await failure(channel.call("die", {"code": 1}))
            together = await asyncio.gather(*(channel.call("echo", {"n": n}) for n in range(5)))
            assert [t["n"] for t in together] == list(range(5))
            assert time.monotonic() - begun >= 0.1 * 2 ** (generation - 1)
        assert (channel.limit.spawned_total, channel.limit.restarts_total, channel.limit.running) == (4, 3, 1)
        await channel.close()

    on_uvloop(body())


def test_a_long_back_off_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "BACKOFF_FIRST_S", 5.0)

    async def body() -> None:
        channel = Channel()
        await failure(channel.call("die", {"code": 1}))
        begun = time.monotonic()
        error = await failure(channel.call("echo"))
        assert (error.kind, error.sent) == ("connect", False)
        assert time.monotonic() - begun < 1 and channel.limit.spawned_total == 1
        await channel.close()

    on_uvloop(body())


def test_a_wait_longer_than_the_time_allowed_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "BACKOFF_FIRST_S", 0.9)

    async def body() -> None:
        channel = Channel()
        await failure(channel.call("die", {"code": 1}))
        begun = time.monotonic()
        assert (await failure(channel.call("echo", timeout_s=0.1))).kind == "connect"
        assert time.monotonic() - begun < 0.5
        await channel.close()

    on_uvloop(body())


def test_the_back_off_grows_to_its_bound_and_a_healthy_life_resets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()
    waits = []
    for _ in range(40):
        channel._back_off(100.0)
        waits.append(round(channel._retry_at - 100.0, 3))
    assert waits[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2] and waits[-1] == 30.0 == max(waits)

    async def body() -> None:
        again = Channel()
        again._failures = 5
        await again.call("echo")
        monkeypatch.setattr(stdio, "HEALTHY_S", 0.0)
        await failure(again.call("die", {"code": 1}))
        assert again._failures == 1
        await again.close()

    on_uvloop(body())


def test_a_command_that_cannot_be_started() -> None:
    async def body() -> None:
        for options in (Options(cmd="no-such-command-anywhere"), peer("echo", cwd="/no/such/directory"), Options(cmd="/etc/passwd"), Options(args=["\0"])):
            channel = Channel(options)
            error = await failure(channel.call("echo"))
            assert (error.kind, error.sent) == ("connect", False)
            assert options.cmd not in str(error)
            assert (channel.limit.failed_total, channel.limit.running, channel.limit.spawned_total) == (1, 0, 0)
            await channel.close()

    on_uvloop(body())


def test_a_file_that_the_kernel_refuses_to_execute_ends_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("neither a program nor a script\n")
    script.chmod(0o755)

    async def body() -> None:
        channel = Channel(Options(cmd=str(script)))
        assert (await failure(channel.call("echo"))).kind == "closed"
        assert channel.downs == ["exit code 126"]
        await channel.close()

    on_uvloop(body())


# ------------------------------------------------------------------------------------------------------------- limit


def test_the_limit_counts_all_transports_of_a_target() -> None:
    async def body() -> None:
        limit = ChildLimit(2)
        first, second, third = (Channel(limit=limit) for _ in range(3))
        await first.call("echo")
        await second.call("echo")
        error = await failure(third.call("echo"))
        assert (error.kind, error.sent, limit.refused_total, limit.running) == ("limit", False, 1, 2)
        await first.close()
        assert limit.running == 1
        assert await third.call("echo", {"n": 3}) == {"n": 3}
        await second.close()
        await third.close()
        assert (limit.running, limit.spawned_total, limit.restarts_total) == (0, 3, 0)

    on_uvloop(body())


def test_a_closed_transport_starts_nothing() -> None:
    async def body() -> None:
        channel = Channel()
        task = asyncio.ensure_future(channel.call("hold"))
        await until(lambda: channel.in_flight)
        await channel.close()
        error = await failure(task)
        assert error.kind == "closed"
        for late in (channel.call("echo"), channel.note({})):
            error = await failure(late)
            assert (error.kind, error.sent) == ("closed", False)
        assert channel.downs == [] and channel.limit.spawned_total == 1
        await channel.close()

    on_uvloop(body())


def test_nothing_is_heard_after_the_close() -> None:
    goodbye = "import os, sys; sys.stdin.read(); os.write(1, b'{\"jsonrpc\":\"2.0\",\"method\":\"notifications/bye\"}\\n')"

    async def body() -> None:
        channel = Channel(Options(args=["-I", "-S", "-c", goodbye]))
        task = asyncio.ensure_future(channel.call("echo"))
        await until(lambda: channel.in_flight)
        await channel.close()
        assert (await failure(task)).kind == "closed"
        assert (channel.strays, channel.downs) == ([], [])

    on_uvloop(body())


def test_a_close_during_the_back_off_ends_the_wait() -> None:
    async def body() -> None:
        channel = Channel()
        await failure(channel.call("die", {"code": 1}))
        task = asyncio.ensure_future(channel.call("echo"))
        await asyncio.sleep(0)
        await channel.close()
        assert (await failure(task)).kind == "closed"
        assert channel.limit.spawned_total == 1

    on_uvloop(body())


def test_the_reply_is_the_message_only() -> None:
    async def body() -> None:
        channel = Channel()
        reply = await channel.request(request(b"1", "echo", b"{}"), b"1", timeout_s=10)
        assert json.loads(reply.message) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        await channel.close()

    on_uvloop(body())
