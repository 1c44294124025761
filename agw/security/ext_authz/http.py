"""Asking an HTTP service: the request's head, or what the policy makes of it, sent to it; its status is the verdict.

    2xx          passes; chosen headers of the answer replace those of the client
    401          a redirect to a login page, when the policy has one
    other < 500  refused with the service's status, a bounded body and the headers a client needs to act on it
    5xx          no verdict

Rules:
- the service sees the headers that are listed (`authorization` when none are), and those the policy adds;
- Host is the one of the service's cluster;
- nothing of an answer goes on the wire unchecked.
"""

from __future__ import annotations

import re
from typing import Any

from agw.runtime.plan_security import ExtAuthzPlan
from agw.security import headers
from agw.security.contract import EXT_AUTH, Caller, Found, Headers, HttpAnswer, Refusal, Request
from agw.security.ext_authz.step import Permission, ServiceFailure
from agw.security.ext_authz.values import Compile, Value, ValueFailure, optional

MAX_BODY = 65_536
"""Octets of a refusal that reach the caller; a longer one is replaced by the gateway's own."""

MAX_LOCATION = 8192
PASSED_ON = (b"www-authenticate", b"location", b"set-cookie", b"retry-after", b"cache-control", b"x-request-id")
"""Headers of a refusal that reach the caller, besides its content type."""

_METHOD = re.compile(rb"[A-Z]{1,20}")
_TARGET = re.compile(rb"/[!-\"$-~]*")
_LOCATION = re.compile(rb"(?:https?://|/(?![/\\]))[!-~]*")


class HttpService:
    """An authorization service over HTTP."""

    def __init__(self, plan: ExtAuthzPlan, caller: Caller, compile: Compile | None) -> None:
        """Errors: ValueError for an expression that cannot be compiled."""
        assert plan.call is not None, "the plan of an HTTP service names it"
        self._call = plan.call
        self._caller = caller
        self._path = optional(plan.path_cel, "path", compile)
        self._redirect = optional(plan.redirect_cel, "redirect", compile, "response")
        self._body = optional(plan.body_cel, "body", compile)
        self._include = [name.encode().lower() for name in plan.include_headers] or [b"authorization"]
        self._add = [(name.encode().lower(), Value(text, f"addRequestHeaders.{name}", compile)) for name, text in plan.add_headers_cel.items()]
        self._method = next((value for name, value in self._add if name == b":method"), None)
        self._copy = tuple(dict.fromkeys(name.encode().lower() for name in plan.response_headers))
        self._metadata = [(name, Value(text, f"metadata.{name}", compile, "response")) for name, text in plan.metadata_cel.items()]
        self._body_bytes = plan.body_bytes
        self._partial = plan.allow_partial

    def close(self) -> None:
        """Connections belong to the plan's clusters."""

    async def ask(self, request: Request, found: Found) -> Permission | Refusal:
        """See `Service`."""
        path = self._target(request, found)
        body = self._sent_body(request, found)
        if isinstance(body, Refusal):
            return body
        answer = await self._caller(self._call, self._sent_method(request, found), self._sent_headers(request, found), body, path)
        if 200 <= answer.status < 300:
            return self._permission(request, found, answer)
        if answer.status >= 500 or answer.status < 300:
            raise ServiceFailure(f"the service answered {answer.status}")
        if answer.status == 401 and self._redirect is not None:
            return self._sent_away(self._redirect.octets(request, found, {"response": _response(answer)}))
        return refusal_of(answer.status, answer.headers, answer.body, PASSED_ON)

    def _target(self, request: Request, found: Found) -> str:
        if self._path is None:
            target = request.path + (b"?" + request.query if request.query is not None else b"")
        else:
            target = self._path.octets(request, found, {}).strip()
        if not _TARGET.fullmatch(target):
            raise ValueFailure("path: no path that can be asked for")
        return target.decode("ascii")

    def _sent_method(self, request: Request, found: Found) -> str:
        if self._method is None:
            return request.method
        method = self._method.octets(request, found, {})
        if not _METHOD.fullmatch(method):
            raise ValueFailure("addRequestHeaders.:method: no method")
        return method.decode("ascii")

    def _sent_headers(self, request: Request, found: Found) -> Headers:
        out: Headers = []
        added = {name for name, _ in self._add}
        for name in self._include:
            if name not in added and headers.is_name(name):
                out += [(name, value) for value in request.values(name)]
        for name, value in self._add:
            if name.startswith(b":"):
                continue
            octets = value.octets(request, found, {})
            if not headers.is_value(octets):
                raise ValueFailure(f"addRequestHeaders.{name.decode('latin-1')}: no header value")
            if headers.is_name(name):
                out.append((name, octets))
        return out

    def _sent_body(self, request: Request, found: Found) -> bytes | Refusal:
        if self._body is not None:
            return self._body.octets(request, found, {})
        if not self._body_bytes or not found.body:
            return b""
        if len(found.body) > self._body_bytes and not self._partial:
            return Refusal(413, EXT_AUTH, b"request body too large", "the body is longer than includeRequestBody.maxRequestBytes")
        return found.body[: self._body_bytes]

    def _permission(self, request: Request, found: Found, answer: HttpAnswer) -> Permission:
        lines = b"".join(headers.line(name, value) for name, value in answer.headers if name in self._copy)
        metadata: dict[str, Any] = {}
        roots = {"response": _response(answer)} if self._metadata else {}
        for name, value in self._metadata:
            try:
                metadata[name] = value(request, found, roots)
            except ValueFailure:
                continue  # a header the service did not send: the value is absent, and rules that need it do not hold
        return Permission(lines, self._copy, metadata)

    def _sent_away(self, target: bytes) -> Refusal:
        if len(target) > MAX_LOCATION or not _LOCATION.fullmatch(target):
            raise ValueFailure("redirect: no place to send a browser to")
        lines = b"Location: " + target + b"\r\nCache-Control: no-store\r\n"
        return Refusal(302, EXT_AUTH, b"login required", "the authorization service answered 401", lines, body=b"")


def refusal_of(status: int, given: Headers, body: bytes, passed_on: tuple[bytes, ...] | None) -> Refusal:
    """What the service says to a refused caller, as far as it may go on the wire; `passed_on` None takes all of its headers."""
    content_type = b"text/plain; charset=utf-8"
    lines = b""
    for name, value in given:
        if name == b"content-type":
            content_type = value if headers.is_value(value) else content_type
        elif passed_on is None or name in passed_on:
            lines += headers.line(name, value)
    text = body if body and len(body) <= MAX_BODY else None
    return Refusal(status, EXT_AUTH, b"not authorized", f"the authorization service refused with {status}", lines, body=text, content_type=content_type)


def _response(answer: HttpAnswer) -> dict[str, Any]:
    """The answer as the root `response` of expressions."""
    fields: dict[str, str] = {}
    for name, value in answer.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        fields[key] = f"{fields[key]},{text}" if key in fields else text
    return {"code": answer.status, "headers": fields, "body": answer.body}
