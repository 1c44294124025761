"""`networkAuthorization`: rules about a connection, before it has said anything.

Rules:
- a connection is its address, its port and, with TLS, the verified client certificate; `source` is what `agw.security.source` makes of them;
- decisions by the address alone are remembered for CACHED addresses; when there are more, all are forgotten;
- a rule that cannot be evaluated is counted and refuses as in every rule set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agw.runtime.plan_security import RulesPlan
from agw.security.contract import SecurityHost
from agw.security.facts import ADDRESS, Facts
from agw.security.rules import RuleSet

CACHED: Final = 8192


class NetworkRules:
    """The rules of all listeners."""

    def __init__(self, plan: RulesPlan, host: SecurityHost) -> None:
        self.rules = RuleSet(plan, lambda _: host.count("networkAuthorization", "error"))
        self.host = host
        plain = {*ADDRESS, "source.port"}
        asked = {name.removeprefix("has_") for name in self.rules.names}
        self.needs_certificate = any(name.startswith("source") and name not in plain for name in asked)
        """Does a rule ask about the client's certificate, so that a TLS connection is decided about after its handshake?"""
        self._by_address = self.rules.names <= ADDRESS
        self._known: dict[str, bool] = {}

    def admits(self, address: str, port: int = 0, source: Mapping[str, Any] | None = None) -> bool:
        """May this connection be made? `address` as `source.address_of` gives it; `source` are the certificate's facts."""
        allowed = self._known.get(address) if self._by_address else None
        if allowed is None:
            claims = {"source": {**(source or {}), "address": address, "rawAddress": address}}
            allowed = self.rules.decide(Facts(None, claims, extra={"source.port": port})).allowed
            if self._by_address:
                if len(self._known) >= CACHED:
                    self._known.clear()
                self._known[address] = allowed
        if not allowed:
            self.host.count("networkAuthorization", "denied")
        return allowed
