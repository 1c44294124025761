"""`oidc`: people log in with their browser at an OpenID provider, and sealed cookies remember it.

Rules:
- authorization code with PKCE (S256), state and nonce; the browser gets nothing it could read or change;
- a session is what cookies say that only these keys can have sealed, for this client and callback;
- only a browser that goes to a page is sent away; everything else gets 401.

Source: OpenID Connect Core 1.0 section 3.1, RFC 6749, RFC 7636, RFC 9207, RFC 9700.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agw.security.oidc.step import Oidc

if TYPE_CHECKING:
    from agw.runtime.plan_security import OidcPlan
    from agw.security.contract import SecurityHost


def factory(plan: OidcPlan, host: SecurityHost) -> Oidc:
    """The step of an `oidc` policy. Errors: ValueError for a plan without usable cookie keys or key set."""
    return Oidc(plan, host)
