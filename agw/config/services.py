"""Services that policies name by address or by an entry of `backends`: where they are and how they speak TLS.

Rules kept here:
- a backend's own TLS is the service's, `policies[]` on it included, unless the policy that names it says otherwise;
- entries under conditions are asked in order, at most MAX_ENTRIES; only the last may go without a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from agw.config import rules, values
from agw.config.model_external import ServicePolicies
from agw.config.problem import Path
from agw.config.tls import client_tls, secured
from agw.config.values import NOT_YET, Endpoint
from agw.runtime.plan import TlsClientPlan

if TYPE_CHECKING:
    from agw.config.check import Context

MAX_ENTRIES = 64


class Named(Protocol):
    """What says where a service is."""

    @property
    def host(self) -> str | None: ...
    @property
    def backend(self) -> str | None: ...
    @property
    def policies(self) -> ServicePolicies | None: ...


class Conditional(Protocol):
    """An entry of `conditional`."""

    @property
    def condition(self) -> str | None: ...


C = TypeVar("C", bound=Conditional)
P = TypeVar("P", bound=msgspec.Struct)


def service_of(context: Context, value: Named, path: Path) -> tuple[Endpoint, TlsClientPlan | None] | None:
    """The service and its TLS (None: plain); None after a problem that leaves nobody to ask."""
    findings = context.findings
    chosen = context.choice(value, path, ("host", "service", "backend"))  # type: ignore[arg-type]  # whatever is Named is a struct of the model
    given = value.policies.backend_tls if value.policies is not None else None
    tls = None if given is None else client_tls(context, given, (*path, "policies", "backendTLS"))
    if chosen == "service":
        findings.problem((*path, "service"), f"`service` {NOT_YET}; write the address: host: name:port")
    elif chosen == "host" and value.host is not None:
        endpoint = findings.value((*path, "host"), values.host_endpoint, value.host, Endpoint("invalid", 1))
        return secured(context, endpoint, value.host, tls, (*path, "host"))
    elif chosen == "backend" and value.backend is not None:
        found = context.outside.host_of(context, value.backend, (*path, "backend"))
        if found is not None:
            text, own = found
            # What is wrong with the address is told where it stands.
            endpoint = _parsed(text)
            return secured(context, endpoint, text, tls or own, (*path, "backend"))
    return None


def _parsed(text: str) -> Endpoint:
    try:
        return values.host_endpoint(text)
    except ValueError:
        return Endpoint("invalid", 1)


def under_conditions(
    context: Context, entries: Sequence[C], path: Path, beside: bool, make: Callable[[Context, C, Path], Iterable[P]]
) -> list[P]:
    """The plans of `conditional` entries, which `make` makes one by one; the first whose condition holds is asked. `path` is where
    `conditional` stands, `beside`: is there a service beside it?"""
    if beside:
        context.findings.problem(path, "`conditional` and a service beside it exclude each other; write the service as its last entry, without condition")
    if not 1 <= len(entries) <= MAX_ENTRIES and context.is_complete(path):
        context.findings.problem(path, f"{len(entries)} entries; there must be 1 to {MAX_ENTRIES}")
    out: list[P] = []
    for index, entry in enumerate(entries):
        condition = _condition(context, entry.condition, (*path, index), index == len(entries) - 1)
        out += [msgspec.structs.replace(plan, condition=condition) for plan in make(context, entry, (*path, index))]
    return out


def _condition(context: Context, text: str | None, path: Path, last: bool) -> str:
    """The condition of an entry; "" for one without."""
    if text is None:
        if not last:
            context.findings.warning(path, "an entry without `condition` is always chosen; those behind it are never reached")
        return ""
    rules.expression(context, text, (*path, "condition"), "http", truth=True)
    return text
