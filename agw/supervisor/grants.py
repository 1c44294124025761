"""Where users' grants are kept: in the state directory, else for one life of the supervisor.

Rules:
- nothing is made before a plan has credentials that users grant (`UserGrant`);
- without a state directory a private directory is made, and removed when the supervisor ends: workers share it, no restart does;
- one choice holds for the supervisor's life.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from agw.runtime.plan import Plan
from agw.runtime.plan_security import BackendAuthPlan, UserGrant
from agw.supervisor.sockets import SocketError

log = logging.getLogger(__name__)

NAME = "grants"


class GrantDirectory:
    """The directory of one supervisor."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # systemd lists several directories separated by colons; the first is the unit's own.
        self._state = environ.get("STATE_DIRECTORY", "").partition(":")[0]
        self._own = ""

    def of(self, plan: Plan) -> str:
        """The directory for a plan, "" when nothing is kept there. Errors: SocketError when there is no place for one."""
        if not keeps_grants(plan):
            return ""
        if self._state:
            return os.path.join(self._state, NAME)
        if not self._own:
            try:
                self._own = tempfile.mkdtemp(prefix="agw-grants-")
            except OSError as error:
                raise SocketError(error.errno or 0, f"no directory for grants of users: {error.strerror}; give one (STATE_DIRECTORY)") from None
            log.warning("grants of users are not kept over restarts; give a state directory (STATE_DIRECTORY)")
        return self._own

    def close(self) -> None:
        """Remove what was made for this life only."""
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = ""


def keeps_grants(plan: Plan) -> bool:
    """Has any backend or target credentials that its users grant?"""
    return any(isinstance(credential, UserGrant) for auth in _auths(plan) for credential in auth.credentials)


def _auths(plan: Plan) -> Iterator[BackendAuthPlan]:
    for route in plan.routes:
        for policies in (route.policies, *(ref.policies for ref in route.backends)):
            if policies is not None and policies.backend_auth is not None:
                yield policies.backend_auth
    for backend in plan.mcp:
        for target in backend.targets:
            if target.auth is not None:
                yield target.auth
