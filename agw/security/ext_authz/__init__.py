"""`extAuthz`: another service decides whether a request may pass, over HTTP or Envoy's gRPC.

Rules:
- what the service says holds for one request; only `cache` makes it last, and only a permission is ever kept;
- a service that is down, slow or unintelligible decides nothing: `on_failure` says what happens then;
- headers the service may set never come from the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agw.security.ext_authz import expressions
from agw.security.ext_authz.step import ExtAuthz

if TYPE_CHECKING:
    from agw.runtime.plan_security import ExtAuthzPlan
    from agw.security.contract import SecurityHost
    from agw.security.ext_authz.values import Compile


def factory(plan: ExtAuthzPlan, host: SecurityHost, compile: Compile = expressions.compile) -> ExtAuthz:
    """The step of one `extAuthz`. Errors: ValueError for an expression that cannot be compiled. `compile` is CEL but in tests.

    `close()` of the step lets go of its connections; call it when the step is not asked any more.
    """
    if plan.protocol == "http":
        from agw.security.ext_authz.http import HttpService

        return ExtAuthz(plan, host, HttpService(plan, host.caller, compile), compile)
    from agw.security.ext_authz.grpc import GrpcService  # grpclib and protobuf: only routes that ask over gRPC pay for them

    return ExtAuthz(plan, host, GrpcService(plan, compile), compile)
