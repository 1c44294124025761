"""Where a credential stands in a message: the model of `location`, and its form in the plan.

Rules kept here:
- exactly one of header, query parameter, cookie and, for what is only read, expression;
- a header without `prefix` is the credential itself; a prefix says its own blank, as in `Bearer `;
- what frames a message or names its host is no place for a credential.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from agw.config import values
from agw.config.modelling import Model, about
from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.plan_security import LocationPlan

if TYPE_CHECKING:
    from agw.config.check import Context

_PREFIX = re.compile(r"[!-~](?:[ -~]{0,62}[!-~])? ?")
_QUERY_NAME = re.compile(r"[A-Za-z0-9_.~\[\]-]{1,64}")


class HeaderLocation(Model, frozen=True):
    """A header of the message."""

    name: Annotated[str, about("Name of the header.")]
    prefix: Annotated[str | None, about("What stands before the credential, with its blank: `Bearer `; nothing when not given.")] = None


class NamedLocation(Model, frozen=True):
    """A query parameter or cookie."""

    name: Annotated[str, about("Name of the query parameter or cookie.")]


class Location(Model, frozen=True):
    """Where a credential stands; exactly one key."""

    header: Annotated[HeaderLocation | None, about("In a header.")] = None
    query_parameter: Annotated[NamedLocation | None, about("In a parameter of the query.")] = None
    cookie: Annotated[NamedLocation | None, about("In a cookie.")] = None
    expression: Annotated[str | None, about("A CEL expression over named request headers; only where a credential is read.")] = None


def location_plan(context: Context, value: Location | None, path: Path, default: LocationPlan, *, read: bool = False) -> LocationPlan:
    """The place in plan form; `default` when none is given or after a problem. `path` is that of `value`. `read`: nothing is put there."""
    if value is None:
        return default
    chosen = context.choice(value, path, ("header", "query_parameter", "cookie", "expression"))
    findings = context.findings
    if chosen == "expression" and value.expression is not None:
        if not read:
            findings.problem((*path, "expression"), "an expression finds a credential and cannot put one anywhere; give header, queryParameter or cookie")
            return default
        return _expression(context, value.expression, (*path, "expression"), default)
    if chosen == "header" and value.header is not None:
        below = (*path, "header")
        name = findings.value((*below, "name"), values.changed_header, value.header.name, default.name)
        prefix = "" if not value.header.prefix else findings.value((*below, "prefix"), _prefix, value.header.prefix, "")
        if name == "cookie":
            findings.problem((*below, "name"), "`cookie` holds several values; write location.cookie with the name of the cookie")
        return LocationPlan("header", name, prefix)
    if chosen == "query_parameter" and value.query_parameter is not None:
        below = (*path, "queryParameter")
        findings.warning(below, "a query is written to logs and browser histories; a header is not")
        return LocationPlan("query", findings.value((*below, "name"), _query_name, value.query_parameter.name, "key"), "")
    if chosen == "cookie" and value.cookie is not None:
        return LocationPlan("cookie", findings.value((*path, "cookie", "name"), _cookie_name, value.cookie.name, "key"), "")
    return default


def _expression(context: Context, text: str, path: Path, default: LocationPlan) -> LocationPlan:
    from agw.config import rules  # which needs the models
    from agw.security import cel

    if not rules.expression(context, text, path, "http"):
        return default
    compiled = cel.compile(text, "http")
    headers = compiled.members.get("request.headers")
    if compiled.returns not in ("string", "dyn"):
        context.findings.problem(path, f"the expression gives {compiled.returns}, and a credential is text")
    elif compiled.needs != {"headers"} or not headers or "cookie" in headers:
        hint = 'like request.headers["x-token"], which are taken off the request; use queryParameter for the query and cookie for cookies'
        context.findings.problem(path, f"the expression may look at headers that it names and at nothing else, {hint}")
    else:
        for name in headers:
            context.findings.value(path, values.changed_header, name, name)
        return LocationPlan("expression", text, "", sorted(name.lower() for name in headers))
    return default


def _prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no prefix of a header value; write it like \"Bearer \", in visible ASCII with at most one blank at its end")
    return text


def _query_name(text: str) -> str:
    if not _QUERY_NAME.fullmatch(text):
        raise ValueError(f"{quoted(text)} is no name of a query parameter that needs no escaping; write it like api_key")
    return text


def _cookie_name(text: str) -> str:
    try:
        values.header_name(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is no name of a cookie; write it like session") from None
    return text
