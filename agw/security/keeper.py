"""The keeper of a gate: asks the steps about whoever the gate does not know, and makes identities of what they found.

Rules:
- steps are asked in order, each knows what those before it found; the first refusal ends it;
- a step that looks at the body is asked once as much of it is here; who was refused before never sends it;
- most steps answer at once; for one that does not, the request waits, bounded by WAIT_S and by its own client's patience;
- whatever breaks, is late or finds no room refuses, and is counted as `authorization`, `error`; what breaks is logged;
- a place among those who wait is given back however the waiting ends, also before it began;
- a decision is remembered only when every step said that it depends on nothing but what the gate shows again;
- a step that has `watch` says when what it verified may not hold any more: the gate then forgets everybody;
- an identity is remembered for at most KEPT_S, so that a key taken out of use ends soon whatever else happens.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from agw._fast.gate import Gate, Identity, License
from agw._fast.policy import HeaderEdits
from agw.runtime.plan import PolicyPlan
from agw.security.contract import AUTHORIZATION, JWT_AUTH, Found, McpFacts, Reader, Refusal, Request, SecurityHost, Step, Verdict
from agw.security.messages import Messages
from agw.security.steps import make_steps

if TYPE_CHECKING:
    from agw._fast.call import Call
    from agw._fast.entry import Entry
    from agw.security.limits import Limits

log = logging.getLogger(__name__)

WAIT_S = 15.0
KEPT_S = 300.0
MAX_WAITING = 1024
"""Requests at a time whose keeper waits for somebody else."""

BROKEN = Refusal(500, AUTHORIZATION, b"the gateway cannot decide about this request now", "a policy failed", code=-32603)
CROWDED = Refusal(503, AUTHORIZATION, b"too many requests wait for a decision", "too many requests wait for a policy's answer", code=-32603)
SLOW = Refusal(503, AUTHORIZATION, b"no decision about this request in time", "a policy did not answer in time", code=-32603)
TWICE = Refusal(400, JWT_AUTH, b"a header with credentials came twice", "a header with credentials came twice", code=-32600)


class Keeper:
    """Decides for one gate. `gate.keeper` is set to it by whoever makes it."""

    def __init__(self, gate: Gate, policies: PolicyPlan, host: SecurityHost, limits: Limits | None = None) -> None:
        self.gate = gate
        self.host = host
        self.steps: list[Step] = make_steps(policies, host)
        self.readers: list[Any] = [step if hasattr(step, "wants_body") else None for step in self.steps]
        """Those of them that are a `contract.Reader`."""
        self.choosers: list[Any] = [getattr(step, "choose", None) for step in self.steps]
        """`conditional.Conditional.choose` of those that are one of several."""
        self.messages = Messages(policies, host, limits)
        self.waiting = 0
        for step in self.steps:
            watch: Any = getattr(step, "watch", None)
            if watch is not None:
                watch(gate.forget_all)

    # ------------------------------------------------------------------------------------------ requests

    def enter(self, entry: Entry) -> None:
        """Decide about a request, now or later. Called by the exchange."""
        if not entry.distinct:
            entry.refuse(TWICE)
            return
        self._walk(entry, Found(), 0)

    def _walk(self, entry: Entry, found: Found, at: int) -> None:
        for number in range(at, len(self.steps)):
            step, reader = self.steps[number], self.readers[number]
            if self.choosers[number] is not None:
                step = self.choosers[number](entry, found)
                if step is None:
                    continue
                reader = step if hasattr(step, "wants_body") else None
            if reader is not None and self._reads(entry, found, number, reader):
                return
            answer = step.check(entry, found)
            if answer is None:
                continue
            if isinstance(answer, Refusal):
                entry.refuse(answer)
                return
            if self.waiting >= MAX_WAITING:
                _abandon(answer)
                self._fail(entry, CROWDED)
                return
            self.waiting += 1
            task = self.host.spawn(self._wait(entry, found, number, answer))
            # A task that is cancelled before its first step runs nothing of its coroutine, not even a `finally`.
            task.add_done_callback(partial(self._waited, answer))
            entry.on_close = task.cancel
            return
        self._admit(entry, found)

    def _reads(self, entry: Entry, found: Found, number: int, step: Reader) -> bool:
        """Give a step the body it wants to see. True: the walk is over, or goes on when the body is here."""
        wanted: int = step.wants_body(entry)
        if not wanted:
            return False
        if not step.takes_part and (_declared_length(entry) > wanted or (entry.body is not None and len(entry.body) > wanted)):
            entry.refuse(step.too_long())
            return True
        if entry.body is None or (not entry.whole and entry.body_asked < wanted):
            entry.read_body(wanted, lambda: self._go_on(entry, found, number))
            return True
        if not entry.whole and not step.takes_part:
            entry.refuse(step.too_long())
            return True
        found.body = entry.body[:wanted]
        return False

    async def _wait(self, entry: Entry, found: Found, number: int, answer: Awaitable[Verdict]) -> None:
        failure: Refusal | None = None
        verdict: Verdict = None
        try:
            verdict = await asyncio.wait_for(answer, WAIT_S)
        except TimeoutError:
            failure = SLOW
        except Exception:
            log.exception("a policy failed", extra={"route": entry.labels[3]})
            failure = BROKEN
        entry.on_close = None
        if not entry.open:
            return
        if failure is not None:
            self._fail(entry, failure)
            return
        if verdict is not None:
            entry.refuse(verdict)
            return
        self._go_on(entry, found, number + 1)

    def _go_on(self, entry: Entry, found: Found, number: int) -> None:
        try:
            self._walk(entry, found, number)
        except Exception:
            log.exception("a policy failed", extra={"route": entry.labels[3]})
            self._fail(entry, BROKEN)

    def _waited(self, answer: Awaitable[Verdict], _: object) -> None:
        self.waiting -= 1
        _abandon(answer)

    def _fail(self, entry: Entry, refusal: Refusal) -> None:
        """It cannot be decided, so it is refused."""
        self.host.count("authorization", "error")
        entry.refuse(refusal)

    def _admit(self, entry: Entry, found: Found) -> None:
        charges = self.messages.request_charges(found, entry)
        if isinstance(charges, Refusal):
            entry.refuse(charges)
            return
        left = min(found.expires - time.time(), KEPT_S)
        if left <= 0:
            entry.refuse(Refusal(401, JWT_AUTH, b"the credential has expired", "the credential expired while it was looked at"))
            return
        edits = HeaderEdits([name.decode("latin-1") for name in found.remove], [], []).derived(found.lines) if found.remove or found.lines else None
        who = Identity(
            found.key(), found.claims, token=found.token, scopes=found.scopes, expires_ns=entry.now + int(left * 1e9), log_fields=found.log_fields,
            edits=edits)
        entry.admit(who, License(charges), found.lasting and self.messages.charges_last)

    # ------------------------------------------------------------------------------------------ messages

    @property
    def by_name(self) -> bool:
        """Does what is visible depend on identity and names alone?"""
        return self.messages.by_name

    @property
    def described(self) -> bool:
        """Must `McpFacts.tool` be told of tools?"""
        return self.messages.described

    def visible(self, identity: Identity, facts: McpFacts, call: Call) -> bool:
        """May this caller know of the thing? Limits do not count."""
        return self.messages.visible(identity, facts, call)

    def lacking(self, identity: Identity, tools: Sequence[str], call: Call) -> Refusal | None:
        """The step-up for calls of these tools; None when the caller's scopes reach."""
        return self.messages.lacking(identity, tools, call)

    def judge(self, identity: Identity, facts: McpFacts, call: Call) -> Refusal | None:
        """May this caller send the message now? Charges its limits."""
        return self.messages.judge(identity, facts, call)

    def licence(self, identity: Identity, facts: McpFacts, call: Call, stamp: int) -> License | None:
        """What such calls are charged for when they need not be judged again; None when they must be. `stamp`: CallTable.stamp."""
        return self.messages.licence(identity, facts, call, stamp)

    def close(self) -> None:
        """The gate is no longer in use."""
        for step in self.steps:
            close: Any = getattr(step, "close", None)
            if close is not None:
                close()


def _declared_length(request: Request) -> int:
    """What the head says about the length of the body; 0 when it does not."""
    said = request.values(b"content-length")
    return int(said[0]) if said and said[0].isdigit() else 0


def _abandon(answer: object) -> None:
    """Nobody waits for it any more, or ever did."""
    end: Any = getattr(answer, "close", None) or getattr(answer, "cancel", None)
    if end is not None:
        end()
