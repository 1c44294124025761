"""What was taken out of use ends on connections that are open, too: the gate remembers, and so does the connection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kits.gateway import Gateway
from tests.kits.tokens import ISSUER, jwks, signer
from tests.peers.client import Client
from tests.peers.upstream import Peer, Upstream

OLD, NEW = "an-old-key-0123456789", "a-new-key-0123456789"


def configuration(upstream: str, keys: list[str], rules: list[Any], audience: str = "gateway") -> dict[str, Any]:
    def route(name: str, policies: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "matches": [{"path": {"pathPrefix": f"/{name}"}}], "policies": policies, "backends": [{"host": upstream}]}

    key = {"apiKey": {"mode": "strict", "keys": [{"key": each, "metadata": {"name": "kim"}} for each in keys]}}
    token = {"jwtAuth": {"mode": "strict", "issuer": ISSUER, "audiences": [audience], "jwks": jwks(signer("P-256", "ec"))}}
    return {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "config": {"connectionTerminationDeadline": "1s"},
        "routes": [route("keys", key), route("rules", {**key, "authorization": {"rules": rules}}), route("jwt", token)],
    }


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(Peer.serve) as server:
        yield server


def test_a_reload_ends_what_connections_remember(upstream: Upstream) -> None:
    before = configuration(upstream.host, [OLD, NEW], ["true"])
    shown = f"Authorization: Bearer {OLD}".encode()
    token = b"Authorization: Bearer " + signer("P-256", "ec").token({"iss": ISSUER, "aud": "gateway", "sub": "kim", "exp": 4_000_000_000})
    with Gateway(before, workers=1) as gateway, Client(gateway.port) as one, Client(gateway.port) as two, Client(gateway.port) as three:
        for _ in range(2):
            assert [one.get("/keys", shown).status, two.get("/rules", shown).status, three.get("/jwt", token).status] == [200, 200, 200]
        # The key stays, the rule does not let it in any more; the token's audience is another.
        gateway.reload(configuration(upstream.host, [OLD, NEW], [{"deny": 'apiKey.name == "kim"'}], "another"))
        assert [one.get("/keys", shown).status, two.get("/rules", shown).status, three.get("/jwt", token).status] == [200, 403, 401]
        gateway.reload(configuration(upstream.host, [NEW], ["true"]))
        reached = len(upstream.requests)
        assert [one.get("/keys", shown).status, two.get("/rules", shown).status] == [401, 401]
        assert len(upstream.requests) == reached
        assert one.get("/keys", f"Authorization: Bearer {NEW}".encode()).status == 200
