"""What a client without (enough of) a token is told: the `WWW-Authenticate` lines of 401 and 403.

Rules:
- 401 names where the metadata is and which scopes any call needs; `error="invalid_token"` stands there only when a token was
  sent, since without one there is no error to speak of (RFC 6750 section 3.1);
- 403 names all scopes of the operation at once, so that one step-up is enough (MCP 2026-07-28, "Scope Challenge Handling");
- nothing in them says why a token was refused.

Source: RFC 6750 section 3, RFC 9728 section 5.1, RFC 9110 section 5.6.4 (quoted strings).
"""

from __future__ import annotations

from collections.abc import Iterable

from agw.runtime.plan_security import McpAuthPlan
from agw.security.contract import AUTHORIZATION, JWT_AUTH, Refusal
from agw.security.mcp_auth.places import RESOURCE_PREFIX, Asked, resource_of, well_known

UNAUTHENTICATED = -32001
"""JSON-RPC code of both refusals on MCP routes."""


def _quoted(text: str) -> str:
    """A quoted string; what a header must not hold is left out."""
    kept = "".join(char for char in text if " " <= char <= "~")
    return '"' + kept.replace("\\", "\\\\").replace('"', '\\"') + '"'


def line(plan: McpAuthPlan, asked: Asked, error: str = "", scopes: Iterable[str] = ()) -> bytes:
    """The complete header line."""
    url = well_known(RESOURCE_PREFIX, resource_of(plan.resource, asked, asked.path.decode("latin-1")))
    parts = [f"resource_metadata={_quoted(url)}"] if url else []
    wanted = " ".join(scopes)
    if wanted:
        parts.append(f"scope={_quoted(wanted)}")
    if error:
        parts.append(f"error={_quoted(error)}")
    return f"WWW-Authenticate: Bearer {', '.join(parts)}".rstrip().encode("latin-1") + b"\r\n"


def unauthenticated(plan: McpAuthPlan, asked: Asked, sent: bool, cause: str) -> Refusal:
    """401: no usable token. `sent`: one came with the request."""
    lines = line(plan, asked, "invalid_token" if sent else "", plan.scopes_required)
    return Refusal(401, JWT_AUTH, b"Authentication is required", cause, lines, UNAUTHENTICATED)


def insufficient(plan: McpAuthPlan, asked: Asked, scopes: Iterable[str], cause: str) -> Refusal:
    """403: the token is good and does not reach this far. `scopes` are all the operation needs."""
    lines = line(plan, asked, "insufficient_scope", dict.fromkeys(scopes))
    return Refusal(403, AUTHORIZATION, b"The token's scope does not cover this", cause, lines, UNAUTHENTICATED)
