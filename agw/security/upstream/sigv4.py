"""`backendAuth.aws`: requests signed with AWS Signature Version 4.

Rules:
- what is signed is the request as it goes out: method, path, query, Host, Content-Type, every x-amz-* header and the body's hash;
  whoever asks hands over that request, not the one the client sent, and changes nothing afterwards;
- a body that is not at hand can only go unsigned, which S3 alone accepts and only over TLS; for other services that is no credential;
- x-amz-date, x-amz-security-token and x-amz-content-sha256 are the signer's: what the client sent under these names does not go on;
- the secret key is in no header, error or repr; derived keys are for one day, region and service, and only the last one is kept.

Source: AWS "Signature Version 4 signing process"; the vectors in tests are of its published test suite.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from urllib.parse import quote, unquote_to_bytes

from agw.runtime.credentials import AWS_HEADERS
from agw.runtime.plan_security import AwsSign
from agw.security.contract import Headers, Request
from agw.security.headers import is_value
from agw.security.upstream.source import CredentialError, Identity, Presented

ALGORITHM = b"AWS4-HMAC-SHA256"
UNSIGNED = b"UNSIGNED-PAYLOAD"
EMPTY = hashlib.sha256(b"").hexdigest().encode()
"""The hash of no body."""
MAX_PARAMETERS = 1000

_OWN = tuple(name.encode() for name in AWS_HEADERS)
_BLANKS = re.compile(rb"[ \t]+")
_NAME = re.compile(r"[A-Za-z0-9-]{1,64}")
_ACCESS_KEY = re.compile(r"[A-Za-z0-9_]{4,128}")
_UNRESERVED = "-_.~"


class AwsSource:
    """Signs requests with one access key."""

    signs = True

    __slots__ = ("_clock", "_derived", "_plan", "_scope")

    def __init__(self, plan: AwsSign, clock: Callable[[], float] = time.time) -> None:
        """Errors: ValueError for a key, region or service that cannot be one."""
        if not _ACCESS_KEY.fullmatch(plan.access_key) or not plan.secret_key or not plan.secret_key.isascii():
            raise ValueError("aws needs an access key id and its secret")
        if not _NAME.fullmatch(plan.region) or not _NAME.fullmatch(plan.service):
            raise ValueError("aws needs a region and a service, like us-east-1 and execute-api")
        if plan.session_token and (not plan.session_token.isascii() or not is_value(plan.session_token.encode())):
            raise ValueError("the session token holds characters that no header value can")
        self._plan = plan
        self._clock = clock
        self._derived: tuple[bytes, bytes] = (b"", b"")
        self._scope = f"{plan.region}/{plan.service}/aws4_request".encode()

    def __repr__(self) -> str:
        return f"AwsSource({self._plan.region}, {self._plan.service})"

    def ready(self, identity: Identity | None, request: Request | None) -> Presented | None:
        """The signature of `request`, which is the outgoing one (`Outgoing`; any other is taken to be without body unless it says one).

        Errors: CredentialError (missing) without a request, without Host, and for a body that is not at hand.
        """
        if request is None:
            raise CredentialError("missing", "aws: there is no request to sign")
        known: bytes | None = getattr(request, "body_sha256", None)
        if known is None:
            known = self._unknown(request)
        return self._signed(request, known)

    async def fetch(self, identity: Identity | None, request: Request | None) -> Presented:
        """The same as `ready`."""
        presented = self.ready(identity, request)
        assert presented is not None, "signing waits for nobody"
        return presented

    def invalidate(self, identity: Identity | None, request: Request | None = None) -> None:
        """Nothing: every signature is new."""

    def _unknown(self, request: Request) -> bytes:
        """What stands for a body that is not at hand."""
        is_stream = hasattr(request, "body_sha256")
        if not is_stream and not any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in request.headers):
            return EMPTY
        if self._plan.service == "s3" and request.secure:
            return UNSIGNED
        raise CredentialError("missing", f"aws: {self._plan.service} wants the body signed, and the body is not at hand")

    def _signed(self, request: Request, body_sha256: bytes) -> Presented:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._clock())).encode()
        own: Headers = [(b"x-amz-date", stamp)]
        if self._plan.session_token:
            own.append((b"x-amz-security-token", self._plan.session_token.encode()))
        if self._plan.service == "s3" or body_sha256 == UNSIGNED:
            own.append((b"x-amz-content-sha256", body_sha256))
        names, canonical = canonical_headers(request.headers, own)
        method, query = request.method.encode("latin-1"), canonical_query(request.query or b"")
        whole = b"\n".join((method, self._path(request.path), query, canonical, names, body_sha256))
        scope = stamp[:8] + b"/" + self._scope
        text = b"\n".join((ALGORITHM, stamp, scope, hashlib.sha256(whole).hexdigest().encode()))
        signature = hmac.digest(self._key(stamp[:8]), text, "sha256").hex().encode()
        credential = self._plan.access_key.encode() + b"/" + scope
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in own)
        return Presented(lines + b"authorization: %b Credential=%b, SignedHeaders=%b, Signature=%b\r\n" % (ALGORITHM, credential, names, signature))

    def _path(self, path: bytes) -> bytes:
        """S3 signs the path as it is; everybody else encodes what is encoded already once more."""
        if self._plan.service == "s3":
            return path or b"/"
        return quote(path or b"/", safe="/" + _UNRESERVED).encode("ascii")

    def _key(self, day: bytes) -> bytes:
        if self._derived[0] != day:
            key = b"AWS4" + self._plan.secret_key.encode("ascii")
            for part in (day, self._plan.region.encode(), self._plan.service.encode(), b"aws4_request"):
                key = hmac.digest(key, part, "sha256")
            self._derived = (day, key)
        return self._derived[1]


def canonical_query(query: bytes) -> bytes:
    """Parameters decoded, encoded in the one way, sorted by name and value; a `+` is a blank. Errors: CredentialError."""
    if not query:
        return b""
    parts = query.split(b"&")
    if len(parts) > MAX_PARAMETERS:
        raise CredentialError("refused", f"aws: more than {MAX_PARAMETERS} parameters")
    pairs: list[tuple[bytes, bytes]] = []
    for part in parts:
        if part:
            name, _, value = part.partition(b"=")
            pairs.append((_encoded(name), _encoded(value)))
    return b"&".join(name + b"=" + value for name, value in sorted(pairs))


def canonical_headers(headers: Headers, own: Headers) -> tuple[bytes, bytes]:
    """(names joined by `;`, the lines) of what is signed: Host, Content-Type, x-amz-*. Errors: CredentialError (missing) without one Host."""
    signed: dict[bytes, list[bytes]] = {name: [value] for name, value in own}
    for name, value in headers:
        if name in (b"host", b"content-type") or (name.startswith(b"x-amz-") and name not in _OWN):
            signed.setdefault(name, []).append(_BLANKS.sub(b" ", value.strip(b" \t")))
    if len(signed.get(b"host", ())) != 1:
        raise CredentialError("missing", "aws: the request has no Host, or several")
    names = sorted(signed)
    return b";".join(names), b"".join(name + b":" + b",".join(signed[name]) + b"\n" for name in names)


def _encoded(text: bytes) -> bytes:
    return quote(unquote_to_bytes(text.replace(b"+", b" ")), safe=_UNRESERVED).encode("ascii")
