"""`sources`: which client addresses may come at all.

Rules:
- a denied block wins over an allowed one; with allowed blocks, whatever is in none of them is refused;
- an IPv4 address in IPv6 form (::ffff:a.b.c.d) counts as IPv4, in blocks too; a zone (fe80::1%eth0) is ignored;
- a look-up costs one dictionary access per prefix length in use, however many blocks there are;
- verdicts are remembered for CACHED addresses; when there are more, all are forgotten.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from agw.runtime.plan_security import SourcesPlan
from agw.security.contract import AUTHORIZATION, Found, Refusal, Request, SecurityHost, Verdict
from agw.security.facts import shows_peer

CACHED: Final = 8192
_REFUSED = Refusal(403, AUTHORIZATION, b"not allowed", "sources: the client's address is not allowed")


class Blocks:
    """A set of CIDR blocks. Errors: ValueError for one that is none."""

    def __init__(self, blocks: Iterable[str]) -> None:
        by_length: dict[tuple[int, int], set[int]] = {}
        for text in blocks:
            version, number, length = parse_block(text)
            shift = (32 if version == 4 else 128) - length
            by_length.setdefault((version, shift), set()).add(number >> shift)
        self._tables = {
            version: [(shift, frozenset(numbers)) for (at, shift), numbers in sorted(by_length.items()) if at == version] for version in (4, 6)
        }

    def __contains__(self, address: object) -> bool:
        version, number = address if isinstance(address, tuple) else (0, 0)
        return any(number >> shift in numbers for shift, numbers in self._tables.get(version, ()))


def parse_block(text: str) -> tuple[int, int, int]:
    """(IP version, first address as a number, prefix length) of a block or single address. Errors: ValueError."""
    network = ipaddress.ip_network(text.strip(), strict=False)
    if network.version == 6 and network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
        return 4, int(network.network_address.ipv4_mapped), network.prefixlen - 96
    return network.version, int(network.network_address), network.prefixlen


def parse_address(octets: bytes) -> tuple[int, int]:
    """(IP version, number) of an address. Errors: ValueError."""
    found = ipaddress.ip_address(octets.partition(b"%")[0].decode("ascii"))
    mapped = getattr(found, "ipv4_mapped", None)
    return (4, int(mapped)) if mapped is not None else (found.version, int(found))


class Sources:
    """The step."""

    def __init__(self, plan: SourcesPlan, host: SecurityHost) -> None:
        self.allow = Blocks(plan.allow) if plan.allow else None
        self.deny = Blocks(plan.deny)
        self.host = host
        self._known: dict[bytes, bool] = {}

    def admits(self, peer: bytes) -> bool:
        """May this address come? One that is none (a Unix socket) may when no block is allowed explicitly."""
        known = self._known.get(peer)
        if known is None:
            if len(self._known) >= CACHED:
                self._known.clear()
            known = self._known[peer] = self._decide(peer)
        return known

    def _decide(self, peer: bytes) -> bool:
        try:
            address = parse_address(peer)
        except ValueError:
            return self.allow is None
        return address not in self.deny and (self.allow is None or address in self.allow)

    def check(self, request: Request, found: Found) -> Verdict:
        """Refuses addresses that may not come. Another address with the same credentials must be asked about anew."""
        if not shows_peer(request):
            found.lasting = False
        if self.admits(request.peer):
            return None
        self.host.count("sources", "denied")
        return _REFUSED


def factory(plan: SourcesPlan, host: SecurityHost) -> Sources:
    """The step of a plan."""
    return Sources(plan, host)
