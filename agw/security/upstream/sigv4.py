"""AWS Signature Version 4: a request, whole, to the header lines that sign it.

Unlike other credentials this one depends on the request as it goes out, so it is no `CredentialSource`: who sends a request
whose body is known asks `Sigv4.sign` last, after everything else about it is decided.

Rules:
- signed are Host, the date, the session token, and the headers the caller names; a header that another hop may change is not;
- the path is signed as it is sent, encoded once more, as every service but S3 wants it;
- keys derived for a day are kept for that day: one per signer.

Source: AWS, "Create a signed AWS API request", Signature Version 4.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from urllib.parse import quote_from_bytes, unquote_to_bytes

from agw.runtime.plan_security import AwsSign
from agw.security.contract import Headers
from agw.security.headers import is_value

_ALGORITHM = "AWS4-HMAC-SHA256"
_BLANKS = re.compile(rb"[ \t]+")
_UNRESERVED = "-._~"


class Sigv4:
    """Signs with one key for one service in one region."""

    __slots__ = ("_clock", "_day", "_key", "_plan")

    def __init__(self, plan: AwsSign, clock: Callable[[], float] = time.time) -> None:
        """Errors: ValueError when something is missing, or cannot stand in a header."""
        for name, text in (("access key", plan.access_key), ("secret key", plan.secret_key), ("region", plan.region), ("service", plan.service)):
            if not text or not text.isascii() or not text.isprintable():
                raise ValueError(f"aws: the {name} is empty or not visible ASCII")
        if not plan.session_token.isascii() or not is_value(plan.session_token.encode("ascii", "replace")):
            raise ValueError("aws: the session token holds octets that no header value can")
        self._plan = plan
        self._clock = clock
        self._day = ""
        self._key = b""

    def sign(self, method: str, authority: bytes, path: bytes, query: bytes | None, body: bytes, headers: Headers | None = None) -> bytes:
        """Header lines to add. `authority` is what Host says, `path` and `query` are as they are sent, `headers` (names in lower case) are signed too."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock()))
        token = self._plan.session_token.encode("ascii")
        signed: dict[bytes, bytes] = {}
        more = [(b"x-amz-security-token", token)] if token else []
        for name, value in [*(headers or []), (b"host", authority), (b"x-amz-date", stamp.encode()), *more]:
            text = _BLANKS.sub(b" ", value.strip(b" \t"))
            signed[name] = signed[name] + b"," + text if name in signed else text
        names = ";".join(name.decode("ascii") for name in sorted(signed))
        canonical = b"\n".join((
            method.encode("ascii"), _path(path), _query(query), b"".join(name + b":" + signed[name] + b"\n" for name in sorted(signed)),
            names.encode("ascii"), hashlib.sha256(body).hexdigest().encode("ascii"),
        ))  # fmt: skip
        day = stamp[:8]
        scope = f"{day}/{self._plan.region}/{self._plan.service}/aws4_request"
        text_to_sign = f"{_ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
        signature = hmac.new(self._key_of(day), text_to_sign.encode("ascii"), hashlib.sha256).hexdigest()
        lines = f"x-amz-date: {stamp}\r\n" + (f"x-amz-security-token: {self._plan.session_token}\r\n" if token else "")
        lines += f"authorization: {_ALGORITHM} Credential={self._plan.access_key}/{scope}, SignedHeaders={names}, Signature={signature}\r\n"
        return lines.encode("ascii")

    def _key_of(self, day: str) -> bytes:
        if day != self._day:
            key = b"AWS4" + self._plan.secret_key.encode("ascii")
            for part in (day, self._plan.region, self._plan.service, "aws4_request"):
                key = hmac.digest(key, part.encode("ascii"), "sha256")
            self._day, self._key = day, key
        return self._key


def _path(path: bytes) -> bytes:
    return quote_from_bytes(path or b"/", safe="/" + _UNRESERVED).encode("ascii")


def _query(query: bytes | None) -> bytes:
    """Parameters in the one form: names and values encoded anew, sorted by both."""
    if not query:
        return b""
    pairs: list[tuple[str, str]] = []
    for part in query.split(b"&"):
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((quote_from_bytes(unquote_to_bytes(name), safe=_UNRESERVED), quote_from_bytes(unquote_to_bytes(value), safe=_UNRESERVED)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs)).encode("ascii")
