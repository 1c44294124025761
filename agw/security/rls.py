"""`remoteRateLimit`: asks a rate limit service that speaks Envoy's RLS v3 over gRPC.

Rules:
- one call per request, within the plan's time; more than MOST_WAITING at once are failures, as are errors and late answers;
- a failure is what `fail_open` says: the request passes, or gets 500;
- a descriptor whose value, cost or override cannot be worked out is left out, and counted; when none is left the service
  is not asked;
- headers of the service are checked before they go anywhere: names are tokens, values hold no control characters, framing
  and hop-by-hop fields are dropped;
- messages are described here, field by field, so nothing is generated and nothing of Envoy's is shipped.

Source: envoy/service/ratelimit/v3/rls.proto and envoy/extensions/common/ratelimit/v3/ratelimit.proto (field numbers).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from agw.runtime.plan_security import DescriptorPlan, RemoteLimitPlan
from agw.security.contract import RATE_LIMIT, Found, Refusal, Request, SecurityHost, Verdict

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
MOST_WAITING = 1000
MOST_VALUE = 4096
"""Octets of a descriptor's value."""
MOST_HEADERS = 32
MOST_BODY = 65_536
OK, OVER_LIMIT = 1, 2
UNITS = {"second": 1, "minute": 2, "hour": 3, "day": 4, "month": 5, "year": 6}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_KEPT_BACK = frozenset(("connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"))

_F = descriptor_pb2.FieldDescriptorProto
_TYPES = {"string": _F.TYPE_STRING, "uint32": _F.TYPE_UINT32, "uint64": _F.TYPE_UINT64, "bytes": _F.TYPE_BYTES, "int32": _F.TYPE_INT32}
_MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "Entry": [("key", 1, "string", False), ("value", 2, "string", False)],
    "Override": [("requests_per_unit", 1, "uint32", False), ("unit", 2, "int32", False)],
    "Addend": [("value", 1, "uint64", False)],
    "Descriptor": [("entries", 1, "Entry", True), ("limit", 2, "Override", False), ("hits_addend", 3, "Addend", False)],
    "RateLimitRequest": [("domain", 1, "string", False), ("descriptors", 2, "Descriptor", True), ("hits_addend", 3, "uint32", False)],
    "HeaderValue": [("key", 1, "string", False), ("value", 2, "string", False), ("raw_value", 3, "bytes", False)],
    "RateLimitResponse": [
        ("overall_code", 1, "int32", False), ("response_headers_to_add", 3, "HeaderValue", True),
        ("request_headers_to_add", 4, "HeaderValue", True), ("raw_body", 5, "bytes", False),
    ],
}  # fmt: skip
"""Message to (field, number, type, repeated). An enumeration is an int32 here: on the wire they are the same."""


def _classes() -> dict[str, Any]:
    package = "agw.rls"
    file = descriptor_pb2.FileDescriptorProto(name="agw/rls.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            if kind in _TYPES:
                message.field.add(name=field, number=number, type=_TYPES[kind], label=label)
            else:
                message.field.add(name=field, number=number, type=_F.TYPE_MESSAGE, type_name=f".{package}.{kind}", label=label)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES}


MESSAGES = _classes()


class Expression(Protocol):
    """A compiled expression; `evaluate` never raises."""

    def evaluate(self, values: Any) -> Any: ...


class _Descriptor:
    """One descriptor with its expressions."""

    def __init__(self, plan: DescriptorPlan, compile: Callable[[str, Any], Expression]) -> None:
        self.entries = [(entry.key, compile(entry.value, "http")) for entry in plan.entries]
        self.cost = compile(plan.cost, "http") if plan.cost else None
        self.override = compile(plan.limit_override, "http") if plan.limit_override else None

    def message(self, facts: Any) -> Any | None:
        """The descriptor of a request; None when a part of it cannot be worked out."""
        out = MESSAGES["Descriptor"]()
        for key, expression in self.entries:
            text = _text(expression.evaluate(facts))
            if text is None:
                return None
            out.entries.add(key=key, value=text)
        if self.cost is not None:
            cost = self.cost.evaluate(facts)
            if not _whole(cost, 2**32 - 1):
                return None
            out.hits_addend.value = cost
        if self.override is not None:
            limit = self.override.evaluate(facts)
            if not isinstance(limit, dict) or limit.get("unit") not in UNITS or not _whole(limit.get("requestsPerUnit"), 2**32 - 1):
                return None
            out.limit.unit = UNITS[limit["unit"]]
            out.limit.requests_per_unit = limit["requestsPerUnit"]
        return out


def _whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, str) and 0 < len(value) <= MOST_VALUE:
        try:
            return value if len(value.encode()) <= MOST_VALUE else None
        except UnicodeEncodeError:
            return None
    return None


class RemoteLimitStep:
    """The step of one `remoteRateLimit`. Make it and use it on a running loop; `close` at the end."""

    def __init__(
        self, plan: RemoteLimitPlan, compile: Callable[[str, Any], Expression], facts: Callable[[Request, Found], Any], count: Callable[[str, str], None],
        ssl: Any = None,
    ) -> None:
        """`facts` makes what expressions are evaluated on; `count` is that of the host; `ssl` replaces the default context of TLS."""
        self._plan = plan
        self._descriptors = [_Descriptor(descriptor, compile) for descriptor in plan.descriptors]
        self._facts = facts
        self._count = count
        self._waiting = 0
        self._channel = Channel(plan.host, plan.port, ssl=(ssl or True) if plan.tls else None)
        self._ask: UnaryUnaryMethod[Any, Any] = UnaryUnaryMethod(self._channel, METHOD, MESSAGES["RateLimitRequest"], MESSAGES["RateLimitResponse"])

    def close(self) -> None:
        """Close the connection to the service."""
        self._channel.close()

    def check(self, request: Request, found: Found) -> Verdict | Awaitable[Verdict]:
        """Ask about a request. What holds for one says nothing about the next."""
        if request.hopped:
            return None  # the worker that passed it on has asked, and once is what it costs
        found.lasting = False
        facts = self._facts(request, found)
        message = MESSAGES["RateLimitRequest"](domain=self._plan.domain)
        for descriptor in self._descriptors:
            part = descriptor.message(facts)
            if part is None:
                self._count("remoteRateLimit", "skipped")
            else:
                message.descriptors.append(part)
        if not message.descriptors:
            return None
        costs = {part.hits_addend.value if part.HasField("hits_addend") else 1 for part in message.descriptors}
        if len(costs) == 1 and costs != {1}:
            # For services that do not know a cost per descriptor.
            message.hits_addend = costs.pop()
        if self._waiting >= MOST_WAITING:
            return self._failed("too many requests wait for the service")
        return self._answer(message, found)

    async def _answer(self, message: Any, found: Found) -> Verdict:
        self._waiting += 1
        timeout = self._plan.timeout_ns / 1e9
        try:
            # The deadline of the call does not cover the connection.
            async with asyncio.timeout(timeout):
                answer = await self._ask(message, timeout=timeout)
        except TimeoutError:
            return self._failed("no answer in time")
        except GRPCError as error:
            return self._failed(f"answered with gRPC status {error.status.name}")
        except (OSError, ProtocolError, StreamTerminatedError) as error:
            return self._failed(f"cannot be reached: {type(error).__name__}")
        except Exception as error:  # an answer that cannot be parsed raises what the codec raises
            return self._failed(f"answered with what cannot be read: {type(error).__name__}")
        finally:
            self._waiting -= 1
        if answer.overall_code == OVER_LIMIT:
            self._count("remoteRateLimit", "refused")
            body = answer.raw_body if 0 < len(answer.raw_body) <= MOST_BODY else None
            lines = header_lines(answer.response_headers_to_add)
            return Refusal(429, RATE_LIMIT, b"rate limit exceeded", "over the limit of the service", lines, -32029, body, b"text/plain")
        if answer.overall_code != OK:
            return self._failed(f"answered with code {answer.overall_code}")
        self._count("remoteRateLimit", "admitted")
        lines = header_lines(answer.request_headers_to_add)
        # What the service says of a request is not the client's to say as well.
        found.remove += tuple(sorted({line.partition(b":")[0] for line in lines.split(b"\r\n") if line}))
        found.lines += lines
        return None

    def _failed(self, why: str) -> Verdict:
        self._count("remoteRateLimit", "error")
        if self._plan.fail_open:
            return None
        return Refusal(500, RATE_LIMIT, b"rate limit service unavailable", f"the rate limit service {why}", code=-32603)


def header_lines(headers: Any) -> bytes:
    """Header lines of what the service wants to add; what may not be written is left out."""
    out = []
    for header in list(headers)[:MOST_HEADERS]:
        name = header.key.lower()
        value = header.value or header.raw_value.decode("latin-1")
        if _TOKEN.fullmatch(name) and name not in _KEPT_BACK and len(value) <= MOST_VALUE and not _BAD_VALUE.search(value):
            out.append(f"{name}: {value.strip()}\r\n".encode())
    return b"".join(out)


def factory(plan: RemoteLimitPlan, host: SecurityHost) -> RemoteLimitStep:
    """The step of a plan."""
    from agw.security import cel
    from agw.security.facts import Facts

    return RemoteLimitStep(plan, cel.compile, lambda request, found: Facts(request, found.claims), host.count)
