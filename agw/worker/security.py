"""What a worker lends to the policies of its snapshots: documents, calls, tasks and counters.

Rules:
- one `WorkerSecurity` per worker, one `Lent` per snapshot: indexes into the plan mean that snapshot's plan. A gate that lives on
  over a reload may keep what it was lent, because its identity includes the clusters it calls (`agw.runtime.gates`);
- nothing here knows a policy: who builds the keepers gets a `Lent` from `attach` and hands it on;
- a counter that does not exist is told once and costs no request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

from agw._fast.exchange import Context
from agw.runtime.documents import Fetched
from agw.runtime.plan import ProcessPlan
from agw.runtime.plan_security import RulesPlan
from agw.runtime.snapshot import Snapshot
from agw.security.contract import SecurityHost
from agw.shm.layout import DECISION_WORDS
from agw.worker.caller import ClusterCaller
from agw.worker.documents import DocumentTable
from agw.worker.outside import OutsideCaller

if TYPE_CHECKING:
    from agw.security.upstream.store import GrantStore

log = logging.getLogger(__name__)

MAX_MISNAMED = 64
SAID = {"allowed": "ok", "denied": "refused", "bad": "refused", "unavailable": "error", "unusable": "error", "admitted": "ok", "skipped": "ignored",
        "unreachable": "error", "consent": "missing"}
"""How policies call what the metric has one word for."""
NAMED = {"mcpAuthentication": "mcp", "networkAuthorization": "network", "remoteRateLimit": "remoteLimit",
         "oauthClientCredentials": "credentials", "oauthTokenExchange": "credentials", "crossAppAccess": "credentials", "jwtSign": "credentials"}
"""Policies by the names they have in a configuration, where the metric has a shorter one."""


class WorkerSecurity:
    """Lives as long as the worker. `ask` sends "I want this URL" to the supervisor; `kept` are the documents it has."""

    def __init__(self, context: Context, ask: Callable[[str], None], kept: Iterable[Fetched] = ()) -> None:
        self.documents = DocumentTable(ask, kept)
        self.outside = OutsideCaller(context)
        self._context = context
        self._process = ProcessPlan()
        self._store: tuple[tuple[str, ...], GrantStore] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._misnamed: set[tuple[str, str]] = set()

    def attach(self, snapshot: Snapshot) -> SecurityHost:
        """What the gates of a new snapshot get. Call it before the snapshot's first request."""
        self.documents.attach(document.url for document in snapshot.plan.documents)
        self._process = snapshot.plan.process
        return Lent(self, ClusterCaller(self._context, snapshot.by_index))

    @property
    def grants(self) -> GrantStore:
        """The store of users' grants, opened when the first policy wants it, under the newest keys. Errors: StoreError."""
        from agw.security.upstream.store import GrantStore, StoreError  # cryptography: only plans with grants pay for it

        process = self._process
        identity = (process.grant_directory, *process.session_keys)
        if self._store is None or self._store[0] != identity:
            if not process.grant_directory or not process.session_keys:
                raise StoreError("there is no directory for grants")
            self._store = (identity, GrantStore(process.grant_directory, [bytes.fromhex(key) for key in process.session_keys]))
        return self._store[1]

    def network(self, plan: RulesPlan) -> Callable[[bytes, int], bool]:
        """Decides about connections, by address and port."""
        from agw.security.network_rules import NetworkRules
        from agw.security.source import address_of

        rules = NetworkRules(plan, self.count)
        return lambda peer, port: rules.admits(address_of(peer), port)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """See SecurityHost."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal error in a policy", exc_info=error)

    def count(self, what: str, result: str) -> None:
        """See SecurityHost."""
        word = DECISION_WORDS.get((NAMED.get(what, what), SAID.get(result, result)))
        if word is not None:
            self._context.slot.add_gauge(word, 1)
        elif (what, result) not in self._misnamed and len(self._misnamed) < MAX_MISNAMED:
            self._misnamed.add((what, result))
            log.error("a decision without a counter", extra={"policy": what, "result": result})

    async def close(self) -> None:
        """The worker leaves: what still runs is given up."""
        self.documents.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Lent:
    """Of one snapshot. Implements `agw.security.contract.SecurityHost`."""

    def __init__(self, worker: WorkerSecurity, caller: ClusterCaller) -> None:
        self.documents = worker.documents
        self.caller = caller
        self.outside = worker.outside
        self._worker = worker

    @property
    def grants(self) -> GrantStore:
        """See SecurityHost."""
        return self._worker.grants

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """See SecurityHost."""
        return self._worker.spawn(work)

    def count(self, what: str, result: str) -> None:
        """See SecurityHost."""
        self._worker.count(what, result)
