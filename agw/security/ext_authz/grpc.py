"""Asking a service that speaks Envoy's `envoy.service.auth.v3.Authorization/Check`.

Rules:
- a verdict is a status, or one of the two responses; an empty answer decides nothing (a permission is always said);
- the service's headers replace those of the client unless it says `append`; a header it removes is gone even when it also sets it;
- dynamic metadata becomes `extauthz`.

What Envoy's API has beyond that is not done: headers for the answer to a permitted request, changes of the query.
Source: envoy/service/auth/v3/external_auth.proto.
"""

from __future__ import annotations

import time
from typing import Any

from google.protobuf import json_format

from agw.runtime.plan_security import ExtAuthzPlan
from agw.security import headers
from agw.security.contract import EXT_AUTH, Found, Headers, Refusal, Request
from agw.security.ext_authz import channel
from agw.security.ext_authz.http import refusal_of
from agw.security.ext_authz.messages import CHECK, CheckRequest, CheckResponse
from agw.security.ext_authz.step import Permission, ServiceFailure
from agw.security.ext_authz.values import Compile, Value, ValueFailure

MAX_HEADERS = 100
"""Header changes of one answer; more of a refusal are left out, more of a permission make it none."""

_APPEND, _ADD_IF_ABSENT, _OVERWRITE, _OVERWRITE_IF_EXISTS = 0, 1, 2, 3
_JWT_NAMESPACE = "envoy.filters.http.jwt_authn"


class GrpcService:
    """An authorization service over gRPC."""

    def __init__(self, plan: ExtAuthzPlan, compile: Compile | None) -> None:
        """Errors: ValueError for an expression that cannot be compiled."""
        self._place = (plan.host, plan.port, plan.tls)
        self._context = plan.context
        self._metadata = [(name, Value(text, f"metadata.{name}", compile)) for name, text in plan.metadata_cel.items()]
        self._include = frozenset(name.lower() for name in plan.include_headers)
        self._body_bytes = plan.body_bytes
        self._partial = plan.allow_partial
        self._as_bytes = plan.pack_as_bytes
        self._channel = channel.acquire(*self._place)
        self._open = True

    def close(self) -> None:
        """Let go of the connection, once."""
        if self._open:
            self._open = False
            channel.release(*self._place)

    async def ask(self, request: Request, found: Found) -> Permission | Refusal:
        """See `Service`."""
        body = found.body or b""
        if self._body_bytes and len(body) > self._body_bytes and not self._partial:
            return Refusal(413, EXT_AUTH, b"request body too large", "the body is longer than includeRequestBody.maxRequestBytes")
        message = self._message(request, found, body[: self._body_bytes])
        try:
            reply = await self._channel.call(CHECK, message, CheckResponse)
        except channel.CallFailed as error:
            raise ServiceFailure(str(error)) from None
        return _verdict(reply, request)

    def _message(self, request: Request, found: Found, body: bytes) -> Any:
        message = CheckRequest()
        attributes = message.attributes
        attributes.source.address.socket_address.address = _text(request.peer)
        attributes.request.time.FromNanoseconds(time.time_ns())
        http = attributes.request.http
        pseudo, fields = _fields(request)
        http.id = fields.get("x-request-id", "")
        http.method, http.path, http.host, http.scheme = pseudo[":method"], pseudo[":path"], pseudo[":authority"], pseudo[":scheme"]
        http.protocol = "HTTP/1.1"
        http.size = _size(request)
        for name, value in (pseudo | fields).items():
            if not self._include or name in self._include:
                http.headers[name] = value
        if self._body_bytes and self._as_bytes:
            http.raw_body = body
        elif self._body_bytes:
            http.body = _text(body)
        for name, value in self._context.items():
            attributes.context_extensions[name] = value
        self._add_metadata(attributes.metadata_context.filter_metadata, request, found)
        return message

    def _add_metadata(self, target: Any, request: Request, found: Found) -> None:
        if not self._metadata and "jwt" in found.claims:
            _fill(target[_JWT_NAMESPACE], {"jwt_payload": found.claims["jwt"]}, _JWT_NAMESPACE)
        for name, value in self._metadata:
            given = value(request, found, {})
            _fill(target[name], given if isinstance(given, dict) else {"value": given}, name)


def _fill(struct: Any, value: dict[str, Any], name: str) -> None:
    try:
        struct.update(value)
    except (TypeError, ValueError):
        raise ValueFailure(f"metadata.{name}: not a JSON value") from None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _fields(request: Request) -> tuple[dict[str, str], dict[str, str]]:
    """The head as Envoy writes it: pseudo headers, and one text per name."""
    fields: dict[str, str] = {}
    for name, value in request.headers:
        key, text = _text(name), _text(value)
        fields[key] = f"{fields[key]}{'; ' if key == 'cookie' else ','}{text}" if key in fields else text
    path = request.path + (b"?" + request.query if request.query is not None else b"")
    pseudo = {":method": request.method, ":path": _text(path), ":authority": fields.pop("host", ""), ":scheme": "https" if request.secure else "http"}
    return pseudo, fields


def _size(request: Request) -> int:
    lengths = request.values(b"content-length")
    if len(lengths) == 1 and lengths[0].isdigit() and len(lengths[0]) < 19:
        return int(lengths[0])
    return -1 if request.values(b"transfer-encoding") else 0


def _verdict(reply: Any, request: Request) -> Permission | Refusal:
    which = "denied" if reply.HasField("denied_response") else "ok" if reply.HasField("ok_response") else ""
    if not which and not reply.HasField("status"):
        raise ServiceFailure("an answer without status decides nothing")
    if which == "denied" or reply.status.code != 0:
        denied = reply.denied_response
        status = denied.status.code if 300 <= denied.status.code <= 599 else 403
        given: Headers = []
        for option in denied.headers[:MAX_HEADERS]:
            name, value = _pair(option)
            if not _appends(option):
                given = [item for item in given if item[0] != name]
            given.append((name, value))
        return refusal_of(status, given, denied.body.encode("utf-8", "surrogatepass"), None)
    if len(reply.ok_response.headers) > MAX_HEADERS or len(reply.ok_response.headers_to_remove) > MAX_HEADERS:
        raise ServiceFailure(f"an answer with more than {MAX_HEADERS} header changes")
    lines, remove = _changes(reply.ok_response, request)
    metadata: dict[str, Any] = json_format.MessageToDict(reply.dynamic_metadata)
    metadata |= json_format.MessageToDict(reply.ok_response.dynamic_metadata)
    return Permission(lines, remove, metadata)


def _changes(ok: Any, request: Request) -> tuple[bytes, tuple[bytes, ...]]:
    """Header lines for the upstream, and what is taken off before."""
    removed = [name.encode("utf-8", "surrogatepass").lower() for name in ok.headers_to_remove]
    gone = {name for name in removed if headers.is_name(name)}
    lines: list[tuple[bytes, bytes]] = []
    replaced: set[bytes] = set()
    for option in ok.headers:
        name, value = _pair(option)
        if not headers.is_name(name):
            continue
        if not headers.is_value(value):
            replaced.add(name)  # what cannot be said is not left to the client to say
            continue
        present = bool(request.values(name)) or any(name == other for other, _ in lines)
        if not _appends(option):
            action = option.append_action
            if (action == _ADD_IF_ABSENT and present) or (action == _OVERWRITE_IF_EXISTS and not present):
                continue
            lines = [item for item in lines if item[0] != name]
            replaced.add(name)
        lines.append((name, value))
    kept = b"".join(headers.line(name, value) for name, value in lines if name not in gone)
    return kept, tuple(sorted(gone | replaced))


def _pair(option: Any) -> tuple[bytes, bytes]:
    header = option.header
    return header.key.encode("utf-8", "surrogatepass").lower(), header.raw_value or header.value.encode("utf-8", "surrogatepass")


def _appends(option: Any) -> bool:
    """Whether a value is added to those that are there; without a word it replaces them, as the API says for these messages."""
    return bool(option.append.value)
