"""A pytest plugin: the data-path suite with TLS on both sides of the gateway.

    pytest -p tests.integration.tls.over tests/integration/http

`AGW_TLS_SIDES=down` or `up` leaves the other side plain. The plugin replaces Client, Upstream and Gateway of the kits before
any test imports them. These tests fail over TLS, and rightly so:

- whatever expects `X-Forwarded-Proto: http` or `Location: http://` (test_request_head_is_rebuilt_field_by_field,
  test_forwarded_is_replaced_by_default, test_redirects);
- test_connections_of_*_are_bounded: one connection too many is closed, not answered with 503;
- test_client_that_leaves_ends_the_upstream_request[with the request-first request-close]: session tickets reach a socket that
  is closed already, and its kernel resets the connection, now and then before the request was passed on.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

import tests.kits.gateway as kit_gateway
import tests.peers.client as kit_client
import tests.peers.upstream as kit_upstream
from agw.runtime.plan import TlsClientPlan, TlsServerPlan
from tests.peers.authority import Authority, serving, trusting
from tests.peers.tls import TlsClient, TlsUpstream

SIDES = os.environ.get("AGW_TLS_SIDES", "both")
CA = Authority()
PAIR = CA.issue("localhost", "127.0.0.1", "::1")


class OverClient(TlsClient):
    def __init__(self, port: int, **how: Any) -> None:
        super().__init__(port, trusting(CA.pem), **how)


class OverUpstream(TlsUpstream):
    def __init__(self, *how: Any, **more: Any) -> None:
        super().__init__(serving(PAIR), *how, **more)


class OverGateway(kit_gateway.Gateway):
    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **{**options, "wrapper": [*options.get("wrapper", ()), sys.executable, str(Path(__file__).with_name("serve.py"))]})
        listeners = {"*": TlsServerPlan(*PAIR)} if SIDES != "up" else {}
        clusters = {"*": TlsClientPlan(server_name="localhost", ca=CA.pem)} if SIDES != "down" else {}
        (self.directory / "tls.json").write_bytes(msgspec.json.encode({"listeners": listeners, "clusters": clusters}))


kit_gateway.Gateway = OverGateway  # type: ignore[misc]
if SIDES != "up":
    kit_client.Client = OverClient  # type: ignore[misc]
if SIDES != "down":
    kit_upstream.Upstream = OverUpstream  # type: ignore[misc]
