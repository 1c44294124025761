"""Tokens, keys, requests and a host for tests of authentication: real keys, everything else in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from agw.runtime.plan_security import CallPlan
from agw.security.contract import CallError, Document, Found, Headers, HttpAnswer, Verdict

NOW = 1_800_000_000
"""The time in these tests, seconds."""
ISSUER = "https://issuer.example"


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def b64_int(number: int, size: int = 0) -> str:
    return b64(number.to_bytes(size or (number.bit_length() + 7) // 8, "big"))


class Signer:
    """A key with its JWK and its way to sign. `kind` is rsa, rsa1024, P-256, P-384, P-521, Ed25519, Ed448 or oct."""

    def __init__(self, kind: str, kid: str | None = "k1", **members: Any) -> None:
        self.kind = kind
        self.kid = kid
        self.private: Any
        self.alg = "RS256"
        if kind.startswith("rsa"):
            self.private = rsa.generate_private_key(65537, int(kind[3:] or 2048))
            numbers = self.private.public_key().public_numbers()
            jwk = {"kty": "RSA", "n": b64_int(numbers.n), "e": b64_int(numbers.e)}
        elif kind.startswith("P-"):
            curve, self.alg, self.size = {
                "P-256": (ec.SECP256R1(), "ES256", 32), "P-384": (ec.SECP384R1(), "ES384", 48), "P-521": (ec.SECP521R1(), "ES512", 66),
            }[kind]  # fmt: skip
            self.private = ec.generate_private_key(curve)
            point = self.private.public_key().public_numbers()
            jwk = {"kty": "EC", "crv": kind, "x": b64_int(point.x, self.size), "y": b64_int(point.y, self.size)}
        elif kind.startswith("Ed"):
            self.alg = "EdDSA"
            self.private = ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else ed448.Ed448PrivateKey.generate()
            jwk = {"kty": "OKP", "crv": kind, "x": b64(self.private.public_key().public_bytes_raw())}
        else:
            self.alg = "HS256"
            self.private = b"0123456789abcdef" * 4
            jwk = {"kty": "oct", "k": b64(self.private)}
        self.jwk: dict[str, Any] = {**jwk, **({} if kid is None else {"kid": kid}), **members}

    def signature(self, data: bytes, alg: str) -> bytes:
        if alg.startswith("HS"):
            secret = self.private if isinstance(self.private, bytes) else b""
            return hmac.digest(secret, data, f"sha{alg[2:]}")
        if self.kind.startswith("Ed"):
            return bytes(self.private.sign(data))
        digest = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[alg[2:]]
        if alg.startswith("RS"):
            return bytes(self.private.sign(data, padding.PKCS1v15(), digest))
        if alg.startswith("PS"):
            return bytes(self.private.sign(data, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(digest)))
        return r.to_bytes(self.size, "big") + s.to_bytes(self.size, "big")

    def token(self, claims: dict[str, Any] | str | None = None, *, alg: str | None = None, header: dict[str, Any] | None = None, **changes: Any) -> bytes:
        """A token that this key signed; `claims` as text are taken as they are, `changes` change the usual claims (None removes one)."""
        alg = alg or self.alg
        head = header if header is not None else {"alg": alg, "typ": "JWT", **({} if self.kid is None else {"kid": self.kid})}
        if claims is None:
            claims = {name: value for name, value in {**usual_claims(), **changes}.items() if value is not None}
        text = claims if isinstance(claims, str) else json.dumps(claims)
        signed = f"{b64(json.dumps(head).encode())}.{b64(text.encode())}".encode()
        return signed + b"." + b64(self.signature(signed, alg)).encode()


def usual_claims() -> dict[str, Any]:
    return {"iss": ISSUER, "sub": "alice", "aud": "gateway", "exp": NOW + 300, "nbf": NOW - 10, "iat": NOW - 10, "scope": "read write"}


_made = lru_cache(maxsize=32)(Signer)


def signer(kind: str, kid: str | None = "k1") -> Signer:
    """One key per kind and id for all tests: RSA keys take a while to make."""
    return _made(kind, kid)


def jwks(*signers: Signer) -> str:
    return json.dumps({"keys": [item.jwk for item in signers]})


class Asked:
    """A request."""

    def __init__(
        self, headers: Headers | None = None, *, query: bytes | None = None, peer: bytes = b"192.0.2.1", certificate: bytes | None = None
    ) -> None:
        self.headers = headers or []
        self.query = query
        self.peer = peer
        self.certificate = certificate
        self.method = "GET"
        self.path = b"/"
        self.secure = certificate is not None
        self.hopped = False

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name]


def bearer(token: bytes) -> Asked:
    return Asked([(b"authorization", b"Bearer " + token)])


class Documents:
    """Documents in memory. `publish` makes a version; `want` answers with what `next_body` says."""

    def __init__(self) -> None:
        self.now: dict[str, Document] = {}
        self.watchers: list[Callable[[], object]] = []
        self.wanted = 0
        self.next_body: str | None = None
        self.answered = asyncio.Event()
        self.answered.set()

    def publish(self, url: str, body: str) -> None:
        before = self.now.get(url)
        self.now[url] = Document(body.encode(), 1 if before is None else before.version + 1)
        for watcher in self.watchers:
            watcher()

    def get(self, url: str) -> Document | None:
        return self.now.get(url)

    def want(self, url: str) -> None:
        self.wanted += 1

    def watch(self, url: str, changed: Callable[[], object]) -> None:
        self.watchers.append(changed)

    async def arrival(self, url: str, timeout_s: float) -> Document | None:
        await self.answered.wait()
        if self.next_body is not None:
            body, self.next_body = self.next_body, None
            self.publish(url, body)
        return self.now.get(url)


class Host:
    """What a worker lends to steps."""

    def __init__(self) -> None:
        self.documents = Documents()
        self.counted: list[tuple[str, str]] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.answers: list[HttpAnswer | CallError] = []
        self.calls: list[tuple[Headers, bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def caller(self, call: CallPlan, method: str, headers: Headers, body: bytes, path: str | None = None) -> HttpAnswer:
        self.calls.append((headers, body))
        await self.gate.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, CallError):
            raise answer
        return answer

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def count(self, what: str, result: str) -> None:
        self.counted.append((what, result))


def at_once(verdict: Verdict | Awaitable[Verdict]) -> Verdict:
    """A verdict that did not need waiting."""
    assert verdict is None or isinstance(verdict, tuple), "it waits"
    return verdict


async def settled(verdict: Verdict | Awaitable[Verdict]) -> Verdict:
    return verdict if verdict is None or isinstance(verdict, tuple) else await verdict


def key_of(kind: str, *parts: str) -> bytes:
    """The principal's key for one name."""
    found = Found()
    found.name(kind, *parts)
    return found.key()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
