"""Errors the gateway itself makes while it serves MCP, each with its JSON-RPC code and HTTP status.

One tree: whoever finds a problem raises an `RpcError`; the downstream side turns it into an answer once. Text is for the
caller and holds nothing a target said in confidence; `reason` is one word for metrics and the access log.

Source: JSON-RPC 2.0 section 5.1; MCP 2026-07-28, "Error codes" (-32020, -32021, -32022).
"""

from __future__ import annotations

from typing import Any

import orjson

PARSE = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL = -32603
RESOURCE_NOT_FOUND = -32002
URL_ELICITATION_REQUIRED = -32042
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022


class RpcError(Exception):
    """One JSON-RPC error.

    `status` is the HTTP status for a modern (2026-07-28) caller; a legacy caller gets 200 unless `always` says that the
    status is part of the meaning there too (an unknown session is 404 in every version). `lines` are complete header lines.
    """

    def __init__(
        self, code: int, message: str, *, status: int = 200, data: Any = None, reason: str = "", always: bool = False, lines: bytes = b""
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.data = data
        self.reason = reason
        self.always = always
        self.lines = lines

    @property
    def denied(self) -> bool:
        """Did a target turn the caller away?"""
        return self.reason == REAUTHORISE or self.status in (401, 403)

    def raw(self) -> bytes:
        """The `error` object as JSON text."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return orjson.dumps(error)


class TargetError(RpcError):
    """The target answered with this error: forwarded as the octets it came in."""

    def __init__(self, raw_error: bytes, *, status: int = 200) -> None:
        try:
            found = orjson.loads(raw_error)
        except orjson.JSONDecodeError:
            found = {}
        code = found.get("code") if isinstance(found, dict) else None
        super().__init__(code if isinstance(code, int) else INTERNAL, "the target's error", status=status)
        self._raw = raw_error

    def raw(self) -> bytes:
        return self._raw


def method_not_found(method: str) -> RpcError:
    return RpcError(METHOD_NOT_FOUND, f"Method not found: {method}", status=404)


def unknown_tool(name: str) -> RpcError:
    return RpcError(INVALID_PARAMS, f"Unknown tool: {name}", status=400)


def unknown_prompt(name: str) -> RpcError:
    return RpcError(INVALID_PARAMS, f"Unknown prompt: {name}", status=400)


def unknown_resource(uri: str, modern: bool) -> RpcError:
    """Legacy clients know -32002, modern ones must get -32602 (MCP 2026-07-28, resources)."""
    return RpcError(INVALID_PARAMS if modern else RESOURCE_NOT_FOUND, "Resource not found", status=400, data={"uri": uri})


def unknown_task() -> RpcError:
    return RpcError(INVALID_PARAMS, "Unknown task", status=400)


def unknown_session() -> RpcError:
    return RpcError(INVALID_REQUEST, "Session not found", status=404, reason="session", always=True)


def target_down(target: str, detail: str = "") -> RpcError:
    """The target could not be reached or did not answer. `detail` is the gateway's own wording, never the target's."""
    return RpcError(INTERNAL, f"Target {target} is not available" + (f": {detail}" if detail else ""), status=502, reason="upstream")


REAUTHORISE = "reauthorise"
"""`reason` of what `reauthorise` makes."""


def reauthorise(target: str) -> RpcError:
    """The target wants other credentials than the gateway has for this caller. Never its own 401: the caller would get a token for
    the target and show it to us. Nor 401 of ours: the caller's token is good."""
    return RpcError(
        INTERNAL, f"Target {target} needs to be authorised again: it does not accept the credentials the gateway has for it", status=502,
        data={"target": target, "reason": "reauthorization_required"}, reason=REAUTHORISE)
