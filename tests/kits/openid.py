"""A small OpenID provider for tests: real signatures, codes that work once, PKCE and client authentication checked."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from tests.kits.external import Answer, Asked, HttpPeer

SECRET = "s3cret:/ &é"


class OpenId:
    """`peer` serves it. `claims` go into every ID token; `changes` change them for one test."""

    def __init__(self) -> None:
        self.peer = HttpPeer(self._answer)
        self.codes: dict[str, dict[str, str]] = {}
        self.claims: dict[str, Any] = {"sub": "kim", "email": "kim@example.com"}
        self.changes: dict[str, Any] = {}
        self.auth_methods = ["client_secret_basic"]
        self.discovery_changes: dict[str, Any] = {}
        self.token_status = 200
        self.rotate()

    def rotate(self) -> None:
        """A new key under a new id."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.kid = hashlib.sha256(str(self.key.private_numbers().private_value).encode()).hexdigest()[:8]

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.peer.port}/realm"

    def discovery(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize", "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys", "token_endpoint_auth_methods_supported": self.auth_methods, **self.discovery_changes,
        }  # fmt: skip

    def jwks(self) -> dict[str, Any]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": self.kid, "alg": "ES256", "use": "sig"}, {"kty": "oct", "kid": "shared", "k": "c2VjcmV0" * 8}]}

    def authorize(self, location: str, **more: str) -> dict[str, str]:
        """What a browser brings back after the user logged in at `location`."""
        parts = urlsplit(location)
        asked = dict(parse_qsl(parts.query))
        assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{self.issuer}/authorize"
        assert asked["response_type"] == "code" and asked["code_challenge_method"] == "S256"
        code = f"code/{len(self.codes)}&"
        self.codes[code] = asked
        return {"code": code, "state": asked["state"], **more}

    def id_token(self, asked: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": asked["client_id"], "exp": now + 300, "iat": now, "nonce": asked["nonce"], **self.claims, **self.changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, self.key, "ES256", {"kid": self.kid})

    def _answer(self, asked: Asked) -> Answer:
        path = asked.target.removeprefix("/realm")
        if path == "/.well-known/openid-configuration":
            return 200, [("content-type", "application/json")], json.dumps(self.discovery()).encode()
        if path == "/keys":
            return 200, [("content-type", "application/json")], json.dumps(self.jwks()).encode()
        if path == "/token" and asked.method == "POST":
            return self._token(asked)
        return 404, [], b""

    def _token(self, asked: Asked) -> Answer:
        form = {name: values[0] for name, values in parse_qs(asked.body.decode(), strict_parsing=True).items()}
        if "authorization" in asked.headers:
            pair = base64.b64decode(asked.headers["authorization"].removeprefix("Basic ")).decode()
            client, secret = (unquote_plus(part) for part in pair.split(":"))
        else:
            client, secret = form["client_id"], form["client_secret"]
        login = self.codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        good = login is not None and login["code_challenge"] == challenge and login["redirect_uri"] == form["redirect_uri"]
        if secret != SECRET or not good or client != (login or {}).get("client_id") or form["grant_type"] != "authorization_code":
            return 400, [], b'{"error":"invalid_grant"}'
        assert login is not None
        return self.token_status, [("content-type", "application/json")], json.dumps({"id_token": self.id_token(login), "token_type": "Bearer"}).encode()
