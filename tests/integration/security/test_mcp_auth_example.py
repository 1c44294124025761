"""The reference's example of MCP authentication, as its comments describe it: only the three ports are others, and `npx` is a script of ours.

Scenario B leads to a host of the internet; what the gateway says without it is checked.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Start
from tests.kits.gateway import ROOT, Gateway, free_ports
from tests.kits.oauth_client import OAuthClient
from tests.peers.issuer import Issuer
from tests.peers.mcp_client import Endpoint, initialize

REFERENCE = os.environ.get("AGW_REFERENCE", "")
EXAMPLE = Path(REFERENCE) / "agentgateway-examples" / "mcp-authentication" / "config.yaml"
pytestmark = pytest.mark.skipif(not REFERENCE, reason="AGW_REFERENCE does not name a directory with agentgateway's examples")


def npx(directory: Path) -> dict[str, str]:
    """An environment whose `npx` starts a server of the tests instead of fetching one."""
    directory.mkdir()
    offer = json.dumps({"name": "everything", "tools": ["echo"], "era": "dual"})
    script = directory / "npx"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} {ROOT}/tests/peers/mcp_stdio.py '{offer}'\n")
    script.chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_the_file_loads_unchanged() -> None:
    command = [sys.executable, "-m", "agw", "validate", "-f", str(EXAMPLE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "ok (1 binds, 3 routes, 2 backends)" in done.stdout + done.stderr


def serve(start: Start, tmp_path: Path, port: int, plain: Issuer, keycloak: Issuer) -> Gateway:
    others = {"3000": port, "9000": plain.port, "7080": keycloak.port}
    text = re.sub(r"localhost:(3000|9000|7080)", lambda match: f"localhost:{others[match[1]]}", EXAMPLE.read_text())
    text, count = re.subn(r"^  port: 3000$", f"  port: {port}", text, flags=re.MULTILINE)
    assert count == 1
    # Listeners of the process are no part of the example.
    own = {"ADMIN_ADDR": f"unix:{tmp_path}/admin", "STATS_ADDR": f"unix:{tmp_path}/stats", "READINESS_ADDR": f"unix:{tmp_path}/ready"}
    return start(text, env={**npx(tmp_path / "bin"), **own})


def named_as_in_the_file(issuer: Issuer, **more: Any) -> None:
    """Document and tokens name the issuer as the file does; `more` are claims."""
    issuer.claimed_issuer = issuer.url.replace("127.0.0.1", "localhost")
    issuer.decide = lambda call, claims: {**claims, "iss": issuer.claimed_issuer, **more}


def lists_tools(url: str, client: OAuthClient, port: int) -> None:
    answer = Endpoint(port, url).modern("tools/list", headers=client.bearer)
    assert [tool["name"] for tool in answer.result["tools"]] == ["echo"], answer


def test_each_scenario_does_what_it_says(start: Start, tmp_path: Path) -> None:
    with Issuer() as plain, Issuer(path="/realms/mcp") as keycloak:
        (port,) = free_ports(1)
        plain.aliases = {"/.well-known/jwks.json": "/jwks"}
        keycloak.aliases = {"/protocol/openid-connect/certs": "/jwks", "/clients-registrations/openid-connect": "/register"}
        keycloak.response_iss = None
        named_as_in_the_file(plain)
        named_as_in_the_file(keycloak, aud="mcp_proxy")
        plain.response_iss = plain.claimed_issuer
        serve(start, tmp_path, port, plain, keycloak)
        base = f"http://localhost:{port}"

        # A: stdio behind an authorization server that needs no adapter.
        endpoint = Endpoint(port, "/stdio/mcp")
        answer = endpoint.post(initialize())
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == f'Bearer resource_metadata="{base}/.well-known/oauth-protected-resource/stdio/mcp"'
        client = OAuthClient(f"{base}/stdio/mcp")
        client.authorize({"resource_metadata": f"{base}/.well-known/oauth-protected-resource/stdio/mcp"})
        assert client.resource == {
            "resource": f"{base}/stdio/mcp", "authorization_servers": [plain.claimed_issuer], "scopes_supported": ["read:all"],
            "bearer_methods_supported": ["header", "body", "query"], "resource_documentation": f"{base}/stdio/docs",
            "resource_policy_uri": f"{base}/stdio/policies",
        }  # fmt: skip
        assert client.scope == "read:all"
        lists_tools("/stdio/mcp", client, port)
        assert endpoint.modern("tools/list", headers={"Authorization": f"Bearer {plain.token(aud='elsewhere', iss=plain.claimed_issuer)}"}).status == 401
        document = Endpoint(port, "/.well-known/oauth-authorization-server/stdio/mcp").send("GET")
        assert json.loads(document.body) == plain.metadata, "the server's own, for clients that look for it here"

        # C: the same behind Keycloak; clients find it through the gateway.
        client = OAuthClient(f"{base}/keycloak/mcp")
        client.authorize({"resource_metadata": f"{base}/.well-known/oauth-protected-resource/keycloak/mcp"})
        assert client.resource["authorization_servers"] == [f"{base}/keycloak/mcp"]
        assert client.server["registration_endpoint"] == f"{base}/.well-known/oauth-authorization-server/keycloak/mcp/client-registration"
        assert keycloak.count("/clients-registrations/openid-connect") == 1
        lists_tools("/keycloak/mcp", client, port)
        assert Endpoint(port, "/stdio/mcp").modern("tools/list", headers=client.bearer).status == 401, "a token is for one of them"

        # B: strict without saying so.
        answer = Endpoint(port, "/remote/mcp").post(initialize())
        assert answer.status == 401
        document = Endpoint(port, "/.well-known/oauth-protected-resource/remote/mcp").send("GET", headers={"Origin": "http://inspector"})
        assert json.loads(document.body)["scopes_supported"] == ["offline_access"]
        assert document.headers["access-control-allow-origin"] in ("*", "http://inspector")
