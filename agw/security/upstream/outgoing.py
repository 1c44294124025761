"""A request as it goes out to an upstream, for credentials that are made of the request itself (`backendAuth.aws`).

Rules:
- it is what the upstream will read: path, query and headers on the wire, after every edit; nothing may change afterwards;
- `body` None is a body that streams: its octets are not at hand, so no signature can cover them.
"""

from __future__ import annotations

import hashlib

from agw.security.contract import Headers


class Outgoing:
    """Implements `agw.security.contract.Request`. Header names in lower case, `Host` among them; `secure`: it goes over TLS."""

    __slots__ = ("_body", "certificate", "headers", "hopped", "method", "path", "peer", "query", "secure")

    def __init__(self, method: str, path: bytes, query: bytes | None, headers: Headers, body: bytes | None = b"", *, secure: bool = False) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.secure = secure
        self.peer = b""
        self.certificate: bytes | None = None
        self.hopped = False
        self._body = body

    @property
    def body_sha256(self) -> bytes | None:
        """The body's hash as 64 hexadecimal digits; None while the body is not known."""
        return None if self._body is None else hashlib.sha256(self._body).hexdigest().encode()

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
        return [value for key, value in self.headers if key == name]
