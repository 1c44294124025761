"""The client metadata document: who agw is, for authorization servers that take the URL of such a document as a client's id.

Rules:
- it is served where the page is, for requests without query, before anybody is asked who he is: servers fetch it unknown;
- it holds nothing but what a registration would say.

Source: draft-ietf-oauth-client-id-metadata-document; MCP 2025-11-25 "Client ID Metadata Documents".
"""

from __future__ import annotations

import json

from agw.runtime.plan_security import ConsentPlan
from agw.security.consent.answers import document
from agw.security.contract import Found, Refusal, Request, SecurityHost


class ClientDocument:
    """The document of one page. `check` is `agw.security.contract.Step`."""

    def __init__(self, plan: ConsentPlan) -> None:
        from agw.security.upstream.grants import client_metadata

        own = next((grant for grant in plan.grants if grant.document and grant.client is None and grant.redirect_uri.startswith("https://")), None)
        self._answer: Refusal | None = None
        if own is not None:
            says = {"client_id": own.redirect_uri, **client_metadata(own), "token_endpoint_auth_method": "none"}
            self._answer = document(json.dumps(says).encode())

    def check(self, request: Request, found: Found) -> Refusal | None:
        """Answer who asks for the document; everybody else goes on."""
        found.lasting = False
        return self._answer if not request.query and request.method in ("GET", "HEAD") else None


def factory(plan: ConsentPlan, host: SecurityHost) -> ClientDocument:
    """The step of a plan."""
    return ClientDocument(plan)
