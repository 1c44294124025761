"""An MCP backend as routes refer to it: its plan compiled, and the worker's service once there is one.

Rules:
- made by the compile step in the supervisor too, so it opens nothing and imports nothing of the MCP package;
- the service behind it belongs to the worker and lives on over reloads: the newest endpoint of a backend's name is what the
  service follows, older ones keep pointing to it until their last request is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from agw._fast.pool import Cluster
from agw.runtime.credentials import BackendAuth
from agw.runtime.plan import McpPlan

if TYPE_CHECKING:
    from agw._fast.call import Call
    from agw._fast.fetch import Fetch
    from agw._fast.policy import Choice


class Service(Protocol):
    """What serves an endpoint's requests."""

    def handle(self, call: Call) -> None:
        """One request from the data path; never raises."""
        ...

    def resume(self, call: Call, target: int, fetch: Fetch) -> None:
        """One request whose answer from a target has begun."""
        ...


class McpEndpoint:
    """One MCP backend. `clusters`, `labels` and `auths` are by target; `label` is the backend's own number in the counters.

    `credentials`: lower-case headers in which callers of some route to it prove who they are: nothing of these is a target's.
    """

    __slots__ = ("auths", "choices", "clusters", "credentials", "identity", "label", "labels", "plan", "schema_clusters", "service")

    def __init__(
        self, plan: McpPlan, clusters: list[Cluster | None], label: int, labels: list[int], identity: bytes,
        schema_clusters: list[Cluster | None], auths: list[BackendAuth | None],
    ) -> None:
        self.plan = plan
        self.clusters = clusters
        self.label = label
        self.labels = labels
        self.identity = identity
        self.schema_clusters = schema_clusters
        self.auths = auths
        self.choices: list[Choice] = []
        self.credentials: frozenset[bytes] = frozenset()
        self.service: Service | None = None

    def handle(self, call: Call) -> None:
        """What the data path calls."""
        if self.service is None:
            raise RuntimeError("an endpoint without a service")
        self.service.handle(call)

    def resume(self, call: Call, target: int, fetch: Fetch) -> None:
        """What the data path calls when an answer that has begun is not one to relay."""
        if self.service is None:
            raise RuntimeError("an endpoint without a service")
        self.service.resume(call, target, fetch)
