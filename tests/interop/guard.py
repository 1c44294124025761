"""A gateway that is an OAuth resource server in front of the fixture, for a suite that knows no tokens, and what the suite has about authorization servers.

The suite's server scenarios cannot authorize. So a forwarder before the gateway puts a token into every request: what the suite says and
hears is otherwise untouched, and the gateway is strict.

Rules:
- the token is a real one of tests/peers/issuer.py, for this resource;
- without the forwarder's token the same gateway says 401, which is asserted first.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import conformance
from processes import Gateway, Target, free_port, http_target
from run import ROOT

sys.path.insert(0, str(ROOT))
from tests.peers.issuer import Issuer

HEAD_LIMIT = 65_536
AUTHORIZATION_LIMIT_S = 60
AUTHORIZATION = conformance.Leg("authorization", "@modelcontextprotocol/conformance", ())


class Bearer:
    """Forwards connections to a port, with `Authorization` in the one request that each of them carries."""

    def __init__(self, port: int, token: str) -> None:
        self._upstream, self._token = port, token
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Bearer:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            octets = b""
            while b"\r\n\r\n" not in octets and len(octets) < HEAD_LIMIT:
                more = client.recv(HEAD_LIMIT)
                if not more:
                    return
                octets += more
            line, _, rest = octets.partition(b"\r\n")
            rest = re.sub(rb"(?i)(?<=\n)connection:[^\r]*\r\n", b"", b"\n" + rest)[1:]
            with socket.create_connection(("127.0.0.1", self._upstream), 10) as upstream:
                upstream.settimeout(None)
                upstream.sendall(line + f"\r\nAuthorization: Bearer {self._token}\r\nConnection: close\r\n".encode() + rest)
                threading.Thread(target=_pump, args=(client, upstream), daemon=True).start()
                _pump(upstream, client)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


class Guarded:
    """A gateway as resource server, and the forwarder before it. `url` is where clients go."""

    def __init__(self, gateway: Gateway, url: str) -> None:
        self.gateway, self.url, self.name = gateway, url, gateway.name

    def stop(self) -> int | None:
        return self.gateway.stop()

    def complaints(self) -> list[str]:
        return self.gateway.complaints()


def policies(issuer: Issuer, resource: str, **more: Any) -> dict[str, Any]:
    """A resource server, with rules that look at every message and let it pass."""
    authentication = {"issuer": issuer.url, "audiences": [], "jwks": {"url": issuer.jwks_url}, "resourceMetadata": {"resource": resource}, **more}
    rules = {"rules": [{"deny": 'jwt.sub == "mallory"'}, 'jwt.sub == "alice"']}
    return {"mcpAuthentication": authentication, "mcpAuthorization": rules}


@contextmanager
def guarded(name: str, agw: Path, targets: list[Target], logs: Path, workers: int, **backend: Any) -> Iterator[Guarded]:
    """As `Gateway`, but strict. Errors: AssertionError when it lets in who has no token."""
    port = free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    with Issuer() as issuer, Gateway(name, agw, targets, logs, workers, port=port, policies=policies(issuer, resource), **backend) as gateway:
        try:
            urllib.request.urlopen(urllib.request.Request(resource, b"{}", {"content-type": "application/json"}), timeout=10)
        except urllib.error.HTTPError as answer:
            with answer:
                assert answer.code == 401 and "resource_metadata=" in answer.headers["www-authenticate"], answer.code
        else:
            raise AssertionError("somebody without a token got in")
        with Bearer(port, issuer.token(aud=resource, lifetime=7200, scope="mcp")) as forwarder:
            yield Guarded(gateway, f"http://127.0.0.1:{forwarder.port}/mcp")


def authorization(agw: Path, node: Path, modules: Path, logs: Path) -> conformance.Statuses:
    """The suite's scenarios for authorization servers, at the gateway before a server that is fully adapted (`provider: entra`).

    Metadata, authorization and tokens all go through the gateway. Errors: RuntimeError if there are no results.
    """
    port, back = free_port(), free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    with Issuer(path="/tenant/v2.0") as issuer:
        issuer.response_iss = None
        issuer.refuses_resource = True
        issuer.add_client("app", "very secret", redirect_uris=[f"http://127.0.0.1:{back}/callback"])
        policy = policies(issuer, resource, provider={"entra": {}}, clientId="app", clientSecret="very secret")
        with Gateway("authorization-agw", agw, [http_target(free_port())], logs, 1, port=port, policies=policy):
            out = logs / "authorization"
            program = modules / AUTHORIZATION.package / "dist" / "index.js"
            options = ["--url", resource, "--client-id", "app", "--client-secret", "very secret", "--resource", resource, "-p", str(back), "-o", str(out)]
            process = subprocess.Popen([str(node), str(program), "authorization", *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            timer = threading.Timer(AUTHORIZATION_LIMIT_S, process.kill)
            timer.start()
            try:
                said = _as_a_user(process)
            finally:
                timer.cancel()
                process.kill()
                process.wait()
    return conformance.results(out, said)


def _as_a_user(process: subprocess.Popen[str]) -> str:
    """Go where the suite says a user should go, as soon as it listens for the way back."""
    assert process.stdout is not None
    said, where = "", ""
    for line in process.stdout:
        said += line
        if "code_challenge=" in line:
            where = line.strip()
        if line.startswith("Callback server started") and where:
            urllib.request.urlopen(where, timeout=10).close()
    return said
