"""MCP authorization with the SDKs' own OAuth clients, through `agw serve` as resource server, at an issuer with real signatures.

`make interop` runs it, or `bash tests/interop/run.sh oauth [--only LEG]`. The issuer is tests/peers/issuer.py; each leg is a way to
authorize, and each client goes it from the first 401: metadata, registration, authorization code with PKCE, tokens, tools/list, tools/call.

| leg | authorization server |
|---|---|
| direct | the issuer's own metadata and registration; then a step-up to a tool's scope |
| keycloak | metadata and registration through the gateway |
| entra | the same, authorize and token, too; the server refuses `resource` and cannot register |
| refresh | direct, with tokens that end after four seconds |

Exit code 0: all checks passed, the issuer saw what it should, every gateway ended with 0 and without an error in its log.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cases
import run
from processes import Gateway, Process, free_port, http_target
from run import HERE, PYTHONS, ROOT

sys.path.insert(0, str(ROOT))
from tests.peers.issuer import Issuer

LOGS = ROOT / "build" / "interop" / "oauth"
CHECKS = ["connect", "list", "call", "step_up", "refresh"]
REDIRECT = "http://127.0.0.1:1/callback"
LIVES_S = 4
"""How long a token of the leg `refresh` is good."""

CLIENTS = [
    cases.Client("python mcp 2.3 auto", "mcp2", "oauth_python.py", "auto"),
    cases.Client("python mcp 2.3 legacy", "mcp2", "oauth_python.py", "legacy"),
    cases.Client("python mcp 1.30", "mcp1", "oauth_python.py"),
    cases.Client("typescript sdk 1.32", "node", "oauth.mjs", "sdk"),
    cases.Client("typescript client 2.4 default", "node", "oauth.mjs", "default"),
    cases.Client("typescript client 2.4 auto", "node", "oauth.mjs", "auto"),
]


@dataclass
class Leg:
    """A way to authorize. `prepare` makes the issuer what it is called, `policy` is besides issuer, keys and resource."""

    name: str
    path: str
    policy: dict[str, Any]
    prepare: Callable[[Issuer], None]
    registrations: str
    """The issuer's path of registrations, "" when there are to be none."""
    resource: bool = True
    profile: dict[str, Any] = field(default_factory=dict)


def plain(issuer: Issuer) -> None:
    """As it is."""


def keycloak(issuer: Issuer) -> None:
    """Endpoints where that product has them; no `iss` in responses, since clients know the gateway as the server."""
    issuer.aliases = {"/clients-registrations/openid-connect": "/register"}
    issuer.response_iss = None


def entra(issuer: Issuer) -> None:
    """No `resource`, no registration, one confidential client."""
    issuer.response_iss = None
    issuer.refuses_resource = True
    issuer.omit_metadata = {"registration_endpoint"}
    issuer.accept_registration = False
    issuer.add_client("app", "very secret", redirect_uris=[REDIRECT])
    issuer.decide = lambda call, claims: {**claims, "aud": "api://app"}


def short(issuer: Issuer) -> None:
    """Tokens that end soon."""
    issuer.expires_in = LIVES_S
    issuer.ends_before = 60     # that much the gateway forgives to clocks


ECHO = {"tool": "echo", "arguments": {"text": "grüße"}, "text": "grüße"}
SCOPED = {"tool": "add", "arguments": {"a": 2, "b": 3}, "text": "5"}
LEGS = [
    Leg("direct", "", {"scopesRequired": ["mcp"], "toolScopes": {"add": ["math"]}}, plain, "/register", profile={"scoped": SCOPED}),
    Leg("keycloak", "/realms/mcp", {"provider": {"keycloak": {}}}, keycloak, "/clients-registrations/openid-connect"),
    Leg("entra", "/tenant/v2.0", {"provider": {"entra": {}}, "clientId": "app", "clientSecret": "very secret", "audiences": ["api://app"]}, entra, "", False),
    Leg("refresh", "", {}, short, "/register", profile={"refresh": {"wait_s": LIVES_S + 1}}),
]


def seen(leg: Leg, issuer: Issuer, url: str, results: run.Results) -> list[str]:
    """What the issuer saw, and should not have, or missed."""
    wrong = []
    tokens = [call for call in issuer.calls if call.path == f"{issuer.path}/token"]
    authorized = [call for call in issuer.calls if call.path == f"{issuer.path}/authorize"]
    grants = [call["grant_type"] for call in tokens]
    ups = 1 if leg.profile.get("scoped") else 0
    if grants.count("authorization_code") != 1 + ups or len(authorized) != 1 + ups:
        wrong.append(f"{len(authorized)} authorizations, grants {grants}")
    if bool(leg.profile.get("refresh")) != ("refresh_token" in grants):
        wrong.append(f"grants {grants}")
    registered = issuer.count(leg.registrations) if leg.registrations else issuer.count("/register")
    if registered != (1 if leg.registrations else 0):
        wrong.append(f"{registered} registrations")
    for call in (*tokens, *authorized):
        resources = [value for name, value in (*call.query, *call.form) if name == "resource"]
        if resources != ([url] if leg.resource else []):
            wrong.append(f"{call.path} with resource {resources}")
    if not all(dict(call.query).get("code_challenge_method") == "S256" for call in authorized):
        wrong.append("an authorization without PKCE")
    return wrong


def row(leg: Leg, client: cases.Client, agw: Path, upstream: int, workers: int, wrong: list[str]) -> run.Results:
    """One client goes one way, at an issuer and a gateway of its own."""
    name = f"{leg.name}-{client.script.partition('.')[0]}-{client.interpreter}-{client.mode or 'old'}"
    with Issuer(path=leg.path) as issuer:
        leg.prepare(issuer)
        policy = {"issuer": issuer.url, "audiences": [], "jwks": {"url": issuer.jwks_url}, "resourceMetadata": {}, **leg.policy}
        port = free_port()
        policy["resourceMetadata"] = {"resource": f"http://127.0.0.1:{port}/mcp"}
        with Gateway(f"agw-{name}", agw, [http_target(upstream)], LOGS, workers, port=port, policies={"mcpAuthentication": policy}) as gateway:
            profile = {"modern": True, "checks": CHECKS, "echo": ECHO, **leg.profile}
            results = run.drive(client, gateway.url, profile)
            wrong.extend(f"{leg.name}, {client.name}: the issuer saw {line}" for line in seen(leg, issuer, gateway.url, results))
            if (code := gateway.stop()) != 0:
                wrong.append(f"{gateway.name} exited with {code}")
            wrong.extend(gateway.complaints())
    return results


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests/interop/run.sh oauth")
    parser.add_argument("--agw", type=Path, default=ROOT / ".venv" / "bin" / "agw")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="only the legs whose name contains this")
    parser.add_argument("--client", default="", help="only the clients whose name contains this")
    options = parser.parse_args()
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    run.put_scripts()
    began = time.monotonic()
    wrong: list[str] = []
    passed = failed = 0
    port = free_port()
    with Process("dual-era", [str(PYTHONS["mcp2"]), str(HERE / "servers" / "dual_era.py"), "--port", str(port)], port, LOGS):
        for leg in LEGS:
            for client in CLIENTS:
                if options.only not in leg.name or options.client not in client.name:
                    continue
                results = row(leg, client, options.agw, port, options.workers, wrong)
                marks = {True: "ok", False: "FAIL", None: "-"}
                cells = "  ".join(f"{check} {marks[results[check][0]] if check in results else '-'}" for check in CHECKS)
                print(f"  {leg.name:9} {client.name:30} {cells}", flush=True)
                for check, (ok, detail) in results.items():
                    passed += ok is True
                    failed += ok is False
                    if ok is False:
                        print(f"    {check}: {detail}", flush=True)
    for line in wrong:
        print(line)
    print(f"{passed} checks passed, {failed} failed, {len(wrong)} complaints, {time.monotonic() - began:.0f} s; logs in {LOGS.relative_to(ROOT)}")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
