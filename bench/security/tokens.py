"""An issuer of RS256 tokens: a key of 2048 bits, its JWKS in a file, and as many tokens as are asked for, each for a subject of its own."""

import base64
import itertools
import json
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

ISSUER = "https://issuer.example"
AUDIENCE = "bench"
_LASTS_S = 86_400
_MANY = 2000
_PIECE = 500


class Issuer:
    """Makes its key when the first token is asked for."""

    def __init__(self, directory: Path) -> None:
        """The JWKS will be in `directory`."""
        self.jwks = directory / "jwks.json"
        self._numbers = itertools.count()
        self._known: list[str] = []
        self._key = b""

    def known(self, count: int) -> list[str]:
        """The first `count` tokens, the same for every caller."""
        if not self.jwks.exists():
            self._begin()
        if count > len(self._known):
            self._known += self.fresh(count - len(self._known))
        return self._known[:count]

    def fresh(self, count: int) -> list[str]:
        """Tokens nobody has seen."""
        if not self._key:
            self._begin()
        numbers = list(itertools.islice(self._numbers, count))
        if count < _MANY:
            return _sign(self._key, numbers)
        with ProcessPoolExecutor() as pool:
            pieces = pool.map(_sign, itertools.repeat(self._key), _pieces(numbers))
            return [token for piece in pieces for token in piece]

    def _begin(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import rsa
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        key = rsa.generate_private_key(65537, 2048)
        self._key = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_numbers()
        jwk = {"kty": "RSA", "kid": "one", "alg": "RS256", "use": "sig", "n": _number(public.n), "e": _number(public.e)}
        self.jwks.write_text(json.dumps({"keys": [jwk]}))


def with_token(request: bytes, token: str) -> bytes:
    """The request with the token in its Authorization header."""
    return request.replace(b"\r\nUser-Agent: ", b"\r\nAuthorization: Bearer %b\r\nUser-Agent: " % token.encode(), 1)


def _pieces(numbers: list[int]) -> Iterable[list[int]]:
    return (numbers[at : at + _PIECE] for at in range(0, len(numbers), _PIECE))


def _sign(key: bytes, numbers: Iterable[int]) -> list[str]:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    private = _loaded(key)
    assert isinstance(private, rsa.RSAPrivateKey)
    now = int(time.time())
    header = _part({"alg": "RS256", "kid": "one", "typ": "JWT"})
    found = []
    for number in numbers:
        name = f"client-{number:06d}"
        claims = {
            "iss": ISSUER, "aud": [AUDIENCE], "sub": name, "exp": now + _LASTS_S, "iat": now, "jti": f"{number:032x}",
            "scope": "mcp:read mcp:call", "groups": ["engineering", "operations"], "email": f"{name}@example.com",
        }  # fmt: skip
        signed = header + b"." + _part(claims)
        found.append((signed + b"." + _b64(private.sign(signed, padding.PKCS1v15(), hashes.SHA256()))).decode())
    return found


@cache
def _loaded(key: bytes) -> object:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    return load_der_private_key(key, None)


def _part(members: dict[str, object]) -> bytes:
    return _b64(json.dumps(members, separators=(",", ":")).encode())


def _number(value: int) -> str:
    return _b64(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()


def _b64(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")
