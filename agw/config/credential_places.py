"""Where the credentials of one `backendAuth` stand, and that they leave each other alone.

Rules kept here:
- two credentials never stand in the same place;
- what a signature covers is not added to after it was made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.plan_security import AwsSign, Credential, CrossAppAccess, LocationPlan

if TYPE_CHECKING:
    from agw.config.check import Context

Placed = tuple[Path, LocationPlan]
"""A place, and where in the file it is chosen."""

_AWS = ("authorization", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256")


def places_of(credential: Credential) -> list[LocationPlan]:
    """Where a credential stands."""
    if isinstance(credential, CrossAppAccess):
        return [credential.grant.location]
    if isinstance(credential, AwsSign):
        return [LocationPlan(name=name) for name in _AWS]
    return [credential.location]


def check_places(context: Context, places: list[Placed]) -> None:
    """Report places that are taken twice, or that a signature would cover."""
    seen: set[tuple[str, str]] = set()
    is_signed = any(path[-1] == "aws" for path, _ in places)
    for path, location in places:
        if (location.kind, location.name) in seen:
            context.findings.problem(path, f"the {location.kind} {quoted(location.name)} has a credential already; give this one another location")
        elif is_signed and path[-1] != "aws" and (location.kind == "query" or location.name.startswith("x-amz-")):
            context.findings.problem(path, "aws signs the query and every x-amz- header as they are; put this credential into another header")
        seen.add((location.kind, location.name))
