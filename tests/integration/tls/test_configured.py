"""TLS as a configuration file says it: from certificate files to requests, on both sides."""

from __future__ import annotations

from pathlib import Path

from tests.integration.tls.conftest import Dial, Pki
from tests.kits.gateway import Gateway, ask, free_port, wait_until
from tests.peers.tls import TlsClient, TlsUpstream
from tests.peers.upstream import Peer, Upstream


def test_from_files_to_requests(pki: Pki, dial: Dial, tmp_path: Path) -> None:
    for name, text in (("cert.pem", pki.pair.cert), ("key.pem", pki.pair.key), ("ca.pem", pki.ca.pem)):
        (tmp_path / name).write_text(text)
    with TlsUpstream(pki.server()) as up:
        route = {"backends": [{"host": f"https://localhost:{up.port}", "policies": {"backendTLS": {"root": str(tmp_path / "ca.pem")}}}]}
        tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
        config = {"binds": [{"port": 0, "address": "127.0.0.1", "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": [route]}]}]}
        with Gateway(config, workers=2) as gateway:
            client = dial(gateway)
            for _ in range(3):
                assert client.get("/").body == b"ok"
            assert [request.get(b"x-forwarded-proto") for request in up.requests] == [[b"https"]] * 3
            assert up.requests[0].get(b"host") == [f"localhost:{up.port}".encode()]


def test_a_hop_between_workers_knows_the_scheme(pki: Pki, tmp_path: Path) -> None:
    """Between workers nothing is encrypted, and no name was agreed on: who took the request has checked it."""
    for name, text in (("cert.pem", pki.pair.cert), ("key.pem", pki.pair.key)):
        (tmp_path / name).write_text(text)
    port = free_port()
    with TlsUpstream(pki.server()) as up:
        route = {"backends": [{"host": f"https://127.0.0.1:{up.port}", "policies": {"backendTLS": {"insecure": True}}}]}
        tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
        config = {"binds": [{"port": port, "address": "127.0.0.1", "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": [route]}]}]}
        with Gateway(config, workers=1) as gateway:
            (name,) = [words[-1] for line in Path("/proc/net/unix").read_text().splitlines()
                       if (words := line.split())[-1].startswith("@agw.") and words[-1].endswith(f"127.0.0.1:{port}") and words[3] == "00010000"]  # fmt: skip
            for hop, scheme in (("2", b"https"), ("1", b"http")):
                assert ask(f"unix:{name}", "GET", "/", headers={"agw-hop": hop, "agw-peer": "192.0.2.1"}).status == 200
                assert up.requests[-1].get(b"x-forwarded-proto") == [scheme]
            with TlsClient(gateway.port, pki.client()) as client:
                assert client.get("/", b"agw-hop: 1").status == 200
            assert up.requests[-1].get(b"x-forwarded-proto") == [b"https"]


def test_a_new_certificate_needs_no_reload_and_drops_no_connection(pki: Pki, dial: Dial, tmp_path: Path) -> None:
    names = [tmp_path / name for name in ("cert.pem", "key.pem")]
    for path, text in zip(names, pki.ca.issue("localhost", "old.test"), strict=True):
        path.write_text(text)
    with Upstream(Peer.serve) as up:
        route = {"backends": [{"host": up.host}]}
        tls = {"cert": str(names[0]), "key": str(names[1])}
        config = {
            "binds": [{"port": 0, "address": "127.0.0.1", "listeners": [{"protocol": "HTTPS", "tls": tls, "routes": [route]}]}],
            "config": {"watchInterval": "50ms"},
        }
        with Gateway(config, workers=2) as gateway:
            old = dial(gateway)
            assert old.get("/").body == b"ok"
            for path, text in zip(names, pki.ca.issue("localhost", "new.test"), strict=True):
                path.write_text(text)
            gateway.wait_log("files of the configuration have changed; loading it anew")

            def renewed() -> bool:
                with TlsClient(gateway.port, pki.client()) as client:
                    return ("DNS", "new.test") in client.sock.tls.getpeercert()["subjectAltName"]

            wait_until(renewed, 10, "the new certificate")
            assert old.get("/").body == b"ok", "the connection from before goes on"
