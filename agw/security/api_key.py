"""`apiKey`: keys that the operator gave out, known here by their SHA-256 only.

Rules:
- what is presented is hashed at once, the hash looked up and compared in constant time; the time says nothing about keys;
- the key's metadata is `apiKey` for rules and limits; the hash names the principal, so a key is the same caller everywhere.
"""

from __future__ import annotations

import hmac
import json
from typing import Any

from agw.runtime.plan_security import ApiKeyPlan
from agw.security.authentication import Policy, bearer_challenges, digest, is_plain, log_field
from agw.security.contract import API_KEY_AUTH, Found, Request, SecurityHost, Verdict
from agw.security.credentials_in import Malformed, reader

MAX_KEY = 4096
"""Octets of a key that a caller may present."""


class ApiKeyAuth:
    """The step."""

    __slots__ = ("_keys", "_policy", "_read")

    def __init__(self, plan: ApiKeyPlan, host: SecurityHost) -> None:
        self._read = reader(plan.location)
        challenge, rejection = bearer_challenges(plan.location)
        self._policy = Policy(host, "apiKey", API_KEY_AUTH, plan.mode, challenge, rejection)
        self._keys: dict[bytes, tuple[bytes, str]] = {}
        for entry in plan.keys:
            hashed = bytes.fromhex(entry.sha256)
            self._keys.setdefault(hashed, (hashed, entry.metadata))

    def check(self, request: Request, found: Found) -> Verdict:
        """Look the request's key up."""
        key = self._read(request)
        if key is None:
            return self._policy.missing()
        if isinstance(key, Malformed):
            return self._policy.bad(key.cause)
        if len(key) > MAX_KEY:
            return self._policy.bad(f"the key is longer than {MAX_KEY} octets")
        presented = digest(key)
        entry = self._keys.get(presented)
        if entry is None or not hmac.compare_digest(entry[0], presented):
            return self._policy.bad("no such key")
        # Parsed each time: what later steps do to their copy stays with this request.
        metadata: dict[str, Any] = json.loads(entry[1])
        found.claims["apiKey"] = metadata
        found.name("apiKey", presented.hex())
        found.token = found.token or key
        name = metadata.get("name")
        if isinstance(name, str) and is_plain(name):
            found.log_fields += log_field("apiKey.name", name)
        return self._policy.good()


def factory(plan: ApiKeyPlan, host: SecurityHost) -> ApiKeyAuth:
    """The step of an `apiKey` policy."""
    return ApiKeyAuth(plan, host)
