"""`csrf`: other sites must not make a browser act for its user.

Rules (https://developer.mozilla.org/docs/Web/HTTP/Headers/Sec-Fetch-Site, RFC 6454):
- safe methods pass; so does whatever no browser sent, which is without both `Sec-Fetch-Site` and `Origin`;
- an origin on the list passes;
- `Sec-Fetch-Site: same-origin` and `none` (typed by the user) pass; browsers write it, pages cannot;
- without that header, `Origin` must be of the request's own scheme, host and port;
- everything else is refused: another site, another subdomain, `Origin: null`, either header twice.
"""

from __future__ import annotations

from agw.runtime.plan_security import CsrfPlan
from agw.security.contract import AUTHORIZATION, Found, Refusal, Request, SecurityHost, Verdict

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class Csrf:
    """The step."""

    def __init__(self, plan: CsrfPlan, host: SecurityHost) -> None:
        self.origins = frozenset(_canonical(text.lower()) for text in plan.additional_origins)
        self.host = host

    def check(self, request: Request, found: Found) -> Verdict:
        """Decides by method, Sec-Fetch-Site, Origin and Host, none of which a gate shows again."""
        found.lasting = False
        if request.method in SAFE:
            return None
        sites, origins = request.values(b"sec-fetch-site"), request.values(b"origin")
        if not sites and not origins:
            return None
        if len(sites) > 1 or len(origins) > 1:
            return self._refused("a header came twice")
        origin = _canonical(origins[0].decode("latin-1").lower()) if origins else ""
        if origin and origin in self.origins:
            return None
        if sites:
            return None if sites[0].lower() in (b"same-origin", b"none") else self._refused("another site sent it")
        hosts = request.values(b"host")
        own = _canonical(f"{'https' if request.secure else 'http'}://{hosts[0].decode('latin-1').lower()}") if len(hosts) == 1 else ""
        return None if own and origin == own else self._refused("another origin sent it")

    def _refused(self, cause: str) -> Refusal:
        self.host.count("csrf", "denied")
        return Refusal(403, AUTHORIZATION, b"cross-site request refused", f"csrf: {cause}")


def _canonical(origin: str) -> str:
    """The origin (lower case) without its scheme's default port."""
    if origin.startswith("https://"):
        return origin.removesuffix(":443")
    return origin.removesuffix(":80") if origin.startswith("http://") else origin


def factory(plan: CsrfPlan, host: SecurityHost) -> Csrf:
    """The step of a plan."""
    return Csrf(plan, host)
