"""The client of rate limit services, against a real gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpclib.const import Cardinality, Handler
from grpclib.const import Status as GrpcStatus
from grpclib.exceptions import GRPCError
from grpclib.server import Server, Stream

from agw.runtime.plan_security import DescriptorEntry, DescriptorPlan, RemoteLimitPlan
from agw.security import rls
from agw.security.contract import Found, Refusal
from tests.kits import tokens

M = rls.MESSAGES


class Service:
    """A rate limit service. `answer` makes its answers; `asked` is what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: Callable[[Any], Awaitable[Any]] = self.allow

    async def allow(self, request: Any) -> Any:
        return M["RateLimitResponse"](overall_code=1)

    async def call(self, stream: Stream[Any, Any]) -> None:
        request = await stream.recv_message()
        self.asked.append(request)
        await stream.send_message(await self.answer(request))

    def __mapping__(self) -> dict[str, Handler]:
        return {rls.METHOD: Handler(self.call, Cardinality.UNARY_UNARY, M["RateLimitRequest"], M["RateLimitResponse"])}


class Looked:
    def __init__(self, name: str) -> None:
        self.name = name

    def evaluate(self, values: Any) -> Any:
        return values.get(self.name, RuntimeError("no such value"))


PLAN = RemoteLimitPlan("d", [DescriptorPlan([DescriptorEntry("method", "m"), DescriptorEntry("path", "p")])], "127.0.0.1", 0)
FACTS = {"m": "GET", "p": "/x", "three": 3, "limit": {"unit": "minute", "requestsPerUnit": 9}}


class Asked:
    """A step and what it counted."""

    def __init__(self, plan: RemoteLimitPlan, facts: dict[str, Any]) -> None:
        self.counted: list[str] = []
        self.step = rls.RemoteLimitStep(plan, lambda text, phase: Looked(text), lambda request, found: facts, lambda what, result: self.counted.append(result))
        self.found = Found()

    async def verdict(self, *, hopped: bool = False) -> Refusal | None:
        request = tokens.Asked()
        request.hopped = hopped
        result = self.step.check(request, self.found)
        return await result if isinstance(result, Awaitable) else result


@asynccontextmanager
async def running(plan: RemoteLimitPlan = PLAN, facts: dict[str, Any] = FACTS) -> AsyncIterator[tuple[Service, Asked]]:
    service = Service()
    server = Server([service])
    await server.start("127.0.0.1", 0)
    port = server._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    asked = Asked(_replace(plan, port=port), facts)
    try:
        yield service, asked
    finally:
        asked.step.close()
        server.close()
        await server.wait_closed()


def _replace(plan: RemoteLimitPlan, **changes: Any) -> RemoteLimitPlan:
    import msgspec

    return msgspec.structs.replace(plan, **changes)


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(body())  # type: ignore[arg-type]


def test_a_request_that_another_worker_passed_on_was_asked_about_there() -> None:
    async def body() -> None:
        asked = Asked(PLAN, FACTS)
        assert await asked.verdict(hopped=True) is None
        assert asked.counted == []
        asked.step.close()

    asyncio.run(body())


def test_under_the_limit() -> None:
    async def body() -> None:
        async with running() as (service, asked):
            async def answer(request: Any) -> Any:
                out = M["RateLimitResponse"](overall_code=1)
                out.request_headers_to_add.add(key="X-Left", value="4")
                out.request_headers_to_add.add(key="Transfer-Encoding", value="chunked")
                out.request_headers_to_add.add(key="x-evil", value="a\r\nHost: b")
                return out

            service.answer = answer
            assert await asked.verdict() is None
            (request,) = service.asked
            assert request.domain == "d" and request.hits_addend == 0
            assert [(e.key, e.value) for e in request.descriptors[0].entries] == [("method", "GET"), ("path", "/x")]
            assert asked.found.lines == b"x-left: 4\r\n"
            assert asked.found.remove == (b"x-left",), "a client does not say it, too"
            assert not asked.found.lasting
            assert asked.counted == ["admitted"]

    run(body)


def test_over_the_limit_with_the_headers_of_the_service() -> None:
    async def body() -> None:
        async with running() as (service, asked):
            async def answer(request: Any) -> Any:
                out = M["RateLimitResponse"](overall_code=2, raw_body=b"slow down")
                out.response_headers_to_add.add(key="X-RateLimit-Remaining", value="0")
                out.response_headers_to_add.add(key="retry-after", raw_value=b"7")
                return out

            service.answer = answer
            refusal = await asked.verdict()
            assert refusal is not None
            assert (refusal.status, refusal.body, refusal.lines) == (429, b"slow down", b"x-ratelimit-remaining: 0\r\nretry-after: 7\r\n")
            assert asked.counted == ["refused"]

    run(body)


def test_costs_and_overrides() -> None:
    descriptor = DescriptorPlan([DescriptorEntry("method", "m")], "three", "limit")

    async def body() -> None:
        async with running(_replace(PLAN, descriptors=[descriptor])) as (service, asked):
            assert await asked.verdict() is None
            (request,) = service.asked
            assert request.hits_addend == request.descriptors[0].hits_addend.value == 3
            assert (request.descriptors[0].limit.unit, request.descriptors[0].limit.requests_per_unit) == (2, 9)

    run(body)


@pytest.mark.parametrize(
    "broken",
    [DescriptorPlan([DescriptorEntry("a", "none")]), DescriptorPlan([DescriptorEntry("a", "m")], "p"), DescriptorPlan([DescriptorEntry("a", "m")], "", "m")],
)
def test_a_descriptor_that_fails_is_left_out(broken: DescriptorPlan) -> None:
    async def body() -> None:
        async with running(_replace(PLAN, descriptors=[broken, *PLAN.descriptors])) as (service, asked):
            assert await asked.verdict() is None
            assert len(service.asked[0].descriptors) == 1
            assert asked.counted == ["skipped", "admitted"]
        async with running(_replace(PLAN, descriptors=[broken])) as (service, asked):
            assert await asked.verdict() is None
            assert service.asked == []
            assert asked.counted == ["skipped"]

    run(body)


async def fails(request: Any) -> Any:
    raise GRPCError(GrpcStatus.INTERNAL, "secret detail")


async def hangs(request: Any) -> Any:
    await asyncio.Event().wait()


async def unknown(request: Any) -> Any:
    return M["RateLimitResponse"](overall_code=0)


@pytest.mark.parametrize("answer", [fails, hangs, unknown])
@pytest.mark.parametrize("fail_open", [True, False])
def test_failures(answer: Callable[[Any], Awaitable[Any]], fail_open: bool) -> None:
    async def body() -> None:
        async with running(_replace(PLAN, fail_open=fail_open, timeout_ns=100_000_000)) as (service, asked):
            service.answer = answer
            refusal = await asked.verdict()
            assert asked.counted == ["error"]
            if fail_open:
                assert refusal is None
            else:
                assert refusal is not None
                assert refusal.status == 500
                assert b"secret" not in refusal.message and "secret" not in refusal.cause

    run(body)


def test_nobody_listens() -> None:
    async def body() -> None:
        asked = Asked(_replace(PLAN, port=1), FACTS)
        refusal = await asked.verdict()
        assert refusal is not None and refusal.status == 500
        asked.step.close()

    run(body)


def test_the_octets_are_those_of_the_published_numbers() -> None:
    """Written out by hand from the published field numbers."""
    message = M["RateLimitRequest"](domain="d", hits_addend=3)
    descriptor = message.descriptors.add()
    descriptor.entries.add(key="k", value="v")
    descriptor.limit.requests_per_unit = 9
    descriptor.limit.unit = 2
    descriptor.hits_addend.value = 3
    inner = b"\x0a\x06\x0a\x01k\x12\x01v" + b"\x12\x04\x08\x09\x10\x02" + b"\x1a\x02\x08\x03"
    assert message.SerializeToString() == b"\x0a\x01d" + b"\x12" + bytes([len(inner)]) + inner + b"\x18\x03"
    answer = M["RateLimitResponse"].FromString(b"\x08\x02" + b"\x12\x02\x08\x02" + b"\x1a\x06\x0a\x01a\x12\x01b" + b"\x2a\x01x")
    assert (answer.overall_code, answer.response_headers_to_add[0].key, answer.raw_body) == (2, "a", b"x")
