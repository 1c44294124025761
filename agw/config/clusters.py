"""The clusters of a plan while it is built: one for everything that means the same upstream in the same way.

The same address with and without TLS, or with another certificate, is another cluster: their connections must not mix.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agw.config.values import Endpoint
from agw.runtime.plan import ClusterPlan, TlsClientPlan

Kind = Literal["host", "mcp"]


class Clusters:
    """All clusters of a plan while it is built."""

    def __init__(self, host_defaults: ClusterPlan, mcp_defaults: ClusterPlan) -> None:
        self.plans: list[ClusterPlan] = []
        self._by_identity: dict[tuple[str, str, str, Endpoint, bytes], int] = {}
        self._defaults = {"host": _limits(host_defaults), "mcp": _limits(mcp_defaults)}

    def add(self, kind: Kind, name: str, target: str, endpoint: Endpoint, tls: TlsClientPlan | None = None) -> int:
        """The index of this cluster, made on first use. `name` and `target` are labels; "" is no target."""
        identity = (kind, name, target, endpoint, b"" if tls is None else msgspec.msgpack.encode(tls))
        index = self._by_identity.get(identity)
        if index is None:
            index = self._by_identity[identity] = len(self.plans)
            self.plans.append(
                ClusterPlan(
                    name=name,
                    kind=kind,
                    host=endpoint.host,
                    port=endpoint.port,
                    unix_path=endpoint.unix_path,
                    authority=endpoint.authority,
                    path=endpoint.path,
                    target=target,
                    tls=tls,
                    **self._defaults[kind],
                )
            )
        return index


_LIMIT_FIELDS = tuple(name for name in ClusterPlan.__struct_fields__ if name.endswith("_ns") or name.startswith("max_"))


def _limits(plan: ClusterPlan) -> dict[str, int]:
    return {name: getattr(plan, name) for name in _LIMIT_FIELDS}
