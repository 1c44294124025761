"""Calls of policies to services of the plan, over the worker's connection pools.

Rules:
- an answer is whole and bounded, whatever its status; a redirect is one, too: the policy decides what it means;
- `CallPlan.cluster` counts in the plan that the policy stands in, so each snapshot has its own caller. The clusters behind it
  are shared: after a reload what runs on the old snapshot still reaches its service;
- the caller's connection is never the cause of a retry: a request goes out again only by the rules of `_fast.fetch`.
"""

from __future__ import annotations

from agw._fast.exchange import Context
from agw._fast.pool import Cluster
from agw.runtime.origin import Origin, TransportError
from agw.runtime.plan_security import CallPlan
from agw.security.contract import CallError, Headers, HttpAnswer

MAX_ANSWER = 1024 * 1024
"""Octets of an answer's body, after its content coding."""
DEFAULT_TIMEOUT_NS = 5_000_000_000
"""For a plan that names none: no call waits for ever."""
BODILESS = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class ClusterCaller:
    """Implements `agw.security.contract.Caller`. `clusters` in the order of the plan."""

    def __init__(self, context: Context, clusters: list[Cluster]) -> None:
        self._origins = [Origin(context, cluster) for cluster in clusters]

    async def __call__(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None = None) -> HttpAnswer:
        """See Caller."""
        try:
            # Neither part is ever more than one line: `_fast.fetch` checks both.
            name, target = method.encode("ascii"), (call.path if path is None else path).encode("ascii")
        except UnicodeEncodeError:
            raise CallError("protocol", "the request cannot be sent: method or path is not ASCII") from None
        content = body if body or method not in BODILESS else None
        timeout_s = (call.timeout_ns if call.timeout_ns > 0 else DEFAULT_TIMEOUT_NS) / 1e9
        try:
            answer = await self._origins[call.cluster].fetch(
                name, target, headers, content, timeout_s=timeout_s, max_bytes=MAX_ANSWER, redirects=True)
        except TransportError as error:
            raise CallError(error.kind, str(error)) from None
        return HttpAnswer(answer.status, list(answer.headers), answer.body)
