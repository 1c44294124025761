"""agw as OAuth client: the conformance suite's client scenarios that need no user, with `agw serve` as the client under test.

Such a scenario brings an MCP server and its authorization server, and starts a command with the server's URL. The command is this file: it
looks up what an operator would write into the configuration (metadata, endpoints), starts agw with that as a target's `backendAuth`, and
lists tools through it. What the suite judges are agw's token requests, and that its MCP requests carry the token.

Rules:
- agw does no discovery for `backendAuth`: the configuration names the endpoints, so what the suite says about discovery is this file's;
- scenarios with a user (authorization code) are not agw's as client: a user authorizes at his own client.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import conformance
from processes import Gateway, free_port
from run import ROOT

sys.path.insert(0, str(ROOT))
from tests.peers.mcp_client import Endpoint, Session

SCENARIOS = ("auth/client-credentials-basic", "auth/client-credentials-jwt", "auth/enterprise-managed-authorization", "auth/wif-jwt-bearer")
LIMIT_S = 60


def fetched(url: str) -> dict[str, Any]:
    """A JSON document."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def well_known(name: str, url: str) -> dict[str, Any]:
    """The document of that name about a URL: below the origin, before the path."""
    parts = urlsplit(url)
    return fetched(f"{parts.scheme}://{parts.netloc}/.well-known/{name}{parts.path.rstrip('/')}")


def credentials(scenario: str, context: dict[str, Any], url: str) -> tuple[dict[str, Any], dict[str, str]]:
    """`backendAuth` of the target at `url`, and what a caller of agw shows."""
    resource = well_known("oauth-protected-resource", url)
    server = well_known("oauth-authorization-server", resource["authorization_servers"][0])
    token = urlsplit(server["token_endpoint"])
    here = {"host": f"{token.scheme}://{token.netloc}", "path": token.path}
    client: dict[str, Any] = {"clientId": context["client_id"]}
    if "client_secret" in context:
        client["clientSecret"] = context["client_secret"]
    if "private_key_pem" in context:
        client |= {
            "method": "privateKeyJwt", "signingKey": context["private_key_pem"], "alg": context["signing_algorithm"], "assertionAudience": server["issuer"],
        }  # fmt: skip
    if scenario.startswith("auth/client-credentials"):
        return {"oauthClientCredentials": {"tokenUrl": server["token_endpoint"], "clientAuth": client, "resource": resource["resource"]}}, {}
    if scenario == "auth/wif-jwt-bearer":
        public = {**client, "method": "clientSecretPost"}
        grant = {**here, "grantType": "jwtBearer", "clientAuth": public, "resources": [resource["resource"]]}
        return {"oauthTokenExchange": grant}, {"Authorization": f"Bearer {context['valid_jwt']}"}
    provider = urlsplit(context["idp_token_endpoint"])
    access = {
        "identityProvider": {
            "host": f"{provider.scheme}://{provider.netloc}", "path": provider.path,
            "clientAuth": {"clientId": context["idp_client_id"], "method": "clientSecretPost"},
        },
        "resourceAuthorizationServer": {**here, "clientAuth": client},
        "audience": server["issuer"],
        "resources": [resource["resource"]],
    }  # fmt: skip
    return {"crossAppAccess": access}, {"Authorization": f"Bearer {context['idp_id_token']}"}


class Showing(Endpoint):
    """An endpoint for a caller who shows something."""

    def __init__(self, port: int, shown: dict[str, str]) -> None:
        super().__init__(port)
        self.shown = shown

    def connect(self, method: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        return super().connect(method, body, {**self.shown, **(headers or {})})


def drive(agw: Path, logs: Path, url: str) -> None:
    """What the suite starts as a client."""
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    auth, shown = credentials(scenario, json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"]), url)
    target = {"name": "target", "mcp": {"host": url}, "policies": {"backendAuth": auth}}
    with Gateway(scenario.replace("/", "-"), agw, [target], logs, 1, port=free_port()) as gateway:
        with Session(Showing(gateway.port, shown)) as session:
            tools = session.request("tools/list").result["tools"]
            print(f"{len(tools)} tools through agw")
            assert tools
        assert gateway.stop() == 0 and not gateway.complaints(), gateway.complaints()


def run(agw: Path, node: Path, modules: Path, logs: Path) -> conformance.Statuses:
    """All scenarios. Errors: RuntimeError when one left no results."""
    found: conformance.Statuses = {}
    program = modules / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
    command = shlex.join([sys.executable, str(Path(__file__).resolve()), str(agw), str(logs)])
    for scenario in SCENARIOS:
        out = logs / scenario.replace("/", "-")
        done = subprocess.run(
            [str(node), str(program), "client", "--command", command, "--scenario", scenario, "--timeout", "40000", "-o", str(out)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        found |= conformance.results(out / "auth", done.stdout + done.stderr)
    return found


if __name__ == "__main__":
    drive(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
