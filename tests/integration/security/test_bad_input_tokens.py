"""Bad tokens through the running gateway: refused, counted, told to the operator, and nothing about them told to who sent them.

The vectors are in tests/vectors/security/bad_tokens.json: what differs from a good token, who signs it, and what the operator reads (a pattern).
"""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from tests.kits.gateway import Gateway, wait_until
from tests.kits.tokens import ISSUER, b64, jwks, signer
from tests.peers.client import Answer, Client
from tests.peers.upstream import Peer, Upstream

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "security" / "bad_tokens.json").read_text())
RSA, EC, ATTACKER, OTHER = signer("rsa", "rsa"), signer("P-256", "ec"), signer("rsa2048", "rsa"), signer("P-256", "other")
OTHER_ISSUER = "https://other.example"
SAID = b'{"error":{"status":401,"reason":"JwtAuth","message":"the credential is not valid"}}'


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(Peer.serve) as server:
        yield server


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[Gateway]:
    providers = [
        {"issuer": ISSUER, "audiences": ["gateway"], "jwks": jwks(RSA, EC), "algorithms": ["RS256", "ES256", "HS256"]},
        {"issuer": OTHER_ISSUER, "audiences": ["gateway"], "jwks": jwks(OTHER)},
    ]
    alone = [{"issuer": OTHER_ISSUER, "audiences": ["gateway"], "jwks": jwks(OTHER)}]

    def route(path: str, **jwt: Any) -> dict[str, Any]:
        policy = {"jwtAuth": {"mode": "strict", **jwt}}
        return {"name": path, "matches": [{"path": {"pathPrefix": f"/{path}"}}], "policies": policy, "backends": [{"host": upstream.host}]}

    config = {
        "gateways": {"default": {"port": 0, "address": "127.0.0.1"}}, "config": {"connectionTerminationDeadline": "1s"},
        "routes": [route("both", providers=providers), route("other", providers=alone), route("easy", providers=providers, mode="permissive"),
                   route("maybe", providers=providers, mode="optional")],
        "frontendPolicies": {"accessLog": {"enabled": True}, "http": {"maxFieldBytes": 32768, "maxHeadBytes": 40000}},
    }  # fmt: skip
    with Gateway(config, workers=1) as running:
        yield running


def grown(value: Any) -> Any:
    """A value of the vectors: `times` repeats a text, `in` is seconds from now."""
    if isinstance(value, dict) and "times" in value:
        return value["text"] * value["times"]
    if isinstance(value, dict) and "in" in value:
        return time.time() + value["in"]
    return value


def claims_of(vector: dict[str, Any]) -> bytes:
    raw = vector.get("raw_claims")
    now = int(time.time())
    if isinstance(raw, str):
        return raw.replace("EXP", str(now + 300)).replace("ISS", ISSUER).encode()
    if raw is not None and "hex" in raw:
        return bytes.fromhex(raw["hex"])
    if raw is not None and "quotes" in raw:
        return b'{"a":' + b"[" * 40 + b'"\\' * raw["quotes"]
    if raw is not None and "deep" in raw:
        return b'{"a":' + b"[" * raw["deep"] + b"]" * raw["deep"] + b"}"
    if raw is not None:
        return f'{{"iss":"{ISSUER}","aud":"gateway","sub":"a","exp":{"9" * raw["digits"]}}}'.encode()
    claims = {"iss": ISSUER, "sub": "alice", "aud": "gateway", "exp": now + 300}
    for name, value in vector.get("claims", {}).items():
        claims[name] = grown(value)
    return json.dumps({name: value for name, value in claims.items() if value is not None}).encode()


def header_of(vector: dict[str, Any]) -> bytes:
    if "raw_header" in vector:
        return str(vector["raw_header"]).encode()
    header = {"alg": "RS256", "typ": "JWT", "kid": "rsa"}
    for name, value in vector.get("header", {}).items():
        header[name] = ATTACKER.jwk if value == "of the attacker" else grown(value)
    return json.dumps({name: value for name, value in header.items() if value is not None}).encode()


def signature_of(how: str, signed: bytes) -> bytes:
    public = RSA.private.public_key()
    secrets = {
        "hmac of the public PEM": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        "hmac of the modulus": base64.urlsafe_b64decode(RSA.jwk["n"] + "=="),
        "hmac of the jwk": json.dumps(RSA.jwk).encode(),
        "hmac of nothing": b"",
    }
    if how in secrets:
        return hmac.digest(secrets[how], signed, "sha256")
    if how == "nothing":
        return b""
    if how == "zeros":
        return bytes(64)
    return {"rsa": RSA, "ec": EC, "attacker": ATTACKER}[how].signature(signed, "ES256" if how == "ec" else "RS256")


def edited(how: str, token: bytes) -> bytes:
    head, claims, signature = token.split(b".")
    if how == "padded":
        return b".".join((head, claims, signature + b"=="))
    if how == "blank":
        return b".".join((head, claims[:5] + b" " + claims[5:], signature))
    if how == "trailing bits":
        return b".".join((head, claims, signature[:-1] + bytes([signature[-1] + 1])))  # 256 octets leave four bits that must be zero
    if how == "standard alphabet":
        return b".".join((head, claims, b"+/" + signature[2:]))
    if how == "five parts":
        return token + b".AA.AA"
    if how == "cut":
        return b".".join((head, claims, signature[:-4]))
    middle = len(claims) // 2
    return b".".join((head, claims[:middle] + (b"A" if claims[middle : middle + 1] != b"A" else b"B") + claims[middle + 1 :], signature))


def token_of(vector: dict[str, Any]) -> bytes:
    """The token of a vector."""
    signed = f"{b64(header_of(vector))}.{b64(claims_of(vector))}".encode()
    token = signed + b"." + b64(signature_of(vector["sign"], signed)).encode()
    return edited(vector["edit"], token) if "edit" in vector else token


def ask(gateway: Gateway, path: str, token: bytes, client: Client | None = None) -> Answer:
    if client is not None:
        return client.get(path, b"Authorization: Bearer " + token)
    with Client(gateway.port) as one:
        return one.get(path, b"Authorization: Bearer " + token)


def records(gateway: Gateway, path: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, gateway.stdout().splitlines()) if line.get("http.path") == path]


def decisions(gateway: Gateway, result: str) -> float:
    return gateway.metrics().total("auth_decisions_total", policy="jwt", result=result)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_a_bad_token(gateway: Gateway, upstream: Upstream, vector: dict[str, Any]) -> None:
    path = f"/both/{VECTORS.index(vector)}"
    token = token_of(vector)
    before, reached = decisions(gateway, "refused"), len(upstream.requests)
    for _ in range(2):  # the second time it may be remembered, which nobody can tell from outside
        answer = ask(gateway, path, token)
        assert (answer.status, answer.body) == (401, SAID)
        assert answer.get(b"www-authenticate") == [b'Bearer error="invalid_token"']
    assert len(upstream.requests) == reached, "nothing of it went on"
    assert decisions(gateway, "refused") == before + 2
    for record in wait_until(lambda: found if len(found := records(gateway, path)) == 2 else [], what="two records"):
        assert record["reason"] == "JwtAuth"
        assert re.search(vector["cause"], record["error"]), record
        assert token.decode("latin-1")[-20:] not in json.dumps(record)


def good(**claims: Any) -> bytes:
    return token_of({"sign": "rsa", "claims": claims})


def test_a_good_token_gets_in_whatever_came_before_on_its_connection(gateway: Gateway) -> None:
    with Client(gateway.port) as client:
        for vector in VECTORS[:10]:
            assert ask(gateway, "/both", token_of(vector), client).status == 401
            assert ask(gateway, "/both", good(), client).status == 200


def test_a_token_of_one_route_is_none_of_another_on_the_same_connection(gateway: Gateway, upstream: Upstream) -> None:
    token, reached = good(), len(upstream.requests)
    with Client(gateway.port) as client:
        for _ in range(3):
            assert ask(gateway, "/both", token, client).status == 200
            assert ask(gateway, "/other", token, client).status == 401
        both = token_of({"sign": "rsa"})
        assert ask(gateway, "/other", both, client).status == 401
    assert len(upstream.requests) == reached + 3


def test_two_credentials_are_none(gateway: Gateway, upstream: Upstream) -> None:
    token, reached = good(), len(upstream.requests)
    bad = token_of(VECTORS[1])
    with Client(gateway.port) as client:
        assert ask(gateway, "/both", token, client).status == 200
        for first, second in ((token, token), (token, bad), (bad, token)):
            for path in ("/both", "/easy", "/maybe"):
                answer = client.get(path, b"Authorization: Bearer " + first, b"authorization: Bearer " + second)
                assert answer.status == 400
                assert json.loads(answer.body)["error"]["message"] == "a header with credentials came twice"
        # One line with two credentials is another one, and no good one.
        assert client.get("/both", b"Authorization: Bearer " + token + b", Bearer " + token).status == 401
        assert client.get("/both", b"Authorization: Bearer " + token + b" " + token).status == 401
        assert client.get("/both", b"Authorization: Bearer  " + token).status == 401
        assert client.get("/both", b"Authorization: Bearer\t" + token).status == 401
    assert len(upstream.requests) == reached + 1


def test_permissive_takes_a_bad_one_for_none_and_optional_does_not(gateway: Gateway, upstream: Upstream) -> None:
    bad = token_of(VECTORS[1])
    ignored, reached = decisions(gateway, "ignored"), len(upstream.requests)
    assert ask(gateway, "/easy", bad).status == 200
    assert decisions(gateway, "ignored") == ignored + 1
    assert upstream.requests[reached].get(b"authorization") == [], "and it is no business of the backend's"
    assert ask(gateway, "/maybe", bad).status == 401
    with Client(gateway.port) as client:
        assert client.get("/maybe").status == 200
