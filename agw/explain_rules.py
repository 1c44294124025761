"""`agw explain --as`: which rule decides about a caller, and what every rule gives by itself.

Rules:
- the claims are taken as they are: no signature is checked, no credential is needed;
- rules are evaluated by the code that serves requests, over the head that `explain` was given;
- a message is asked about only when it is named (`--tool`, `--prompt`, `--resource`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from agw._fast.http1 import normalised_path
from agw.runtime.plan import Plan, PolicyPlan
from agw.runtime.plan_security import RulesPlan
from agw.security.contract import Headers, McpFacts
from agw.security.facts import Facts
from agw.security.message_rules import MessageRules
from agw.security.rules import Decision, RuleSet

ROOTS = frozenset(("jwt", "apiKey", "basicAuth", "source", "extauthz"))
METHODS = {"tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read"}


class Asked(NamedTuple):
    """Who asks, and about which thing of MCP; `kind` "" is none."""

    claims: dict[str, Any]
    kind: str = ""
    name: str = ""
    target: str = ""
    arguments: bytes | None = None


class Head(NamedTuple):
    """The request as rules see it (`contract.Request`)."""

    method: str
    path: bytes
    query: bytes | None
    headers: Headers
    labels: tuple[str, str, str, str, str]
    peer: bytes = b"127.0.0.1"
    secure: bool = False
    certificate: bytes | None = None
    hopped: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header; `name` in lower case."""
        return [value for key, value in self.headers if key == name]


def head_of(head: bytes, labels: tuple[str, str, str, str, str], *, tls: bool) -> Head:
    """The head (which has been routed, so it is well formed) as rules see it: the path in its one normal form."""
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, _ = line.split(" ")
    path, separator, query = target.partition("?")
    headers: Headers = []
    for field in fields:
        name, _, value = field.partition(":")
        headers.append((name.lower().encode("latin-1"), value.strip(" \t").encode("latin-1")))
    normal = normalised_path(path.encode("latin-1"))
    return Head(method, normal or path.encode("latin-1"), query.encode("latin-1") if separator else None, headers, labels, secure=tls)


def read_claims(file: str | None) -> dict[str, Any]:
    """The claims in a file: those of a JWT, or an object of roots such as `jwt` and `apiKey`. Errors: OSError, ValueError."""
    if file is None:
        return {}
    with open(file, "rb") as stream:
        data = stream.read(1_048_577)
    if len(data) > 1_048_576:
        raise ValueError(f"{file}: more than 1 MiB")
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"{file}: no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: give an object of claims")
    roots = bool(found) and found.keys() <= ROOTS and all(isinstance(value, dict) for value in found.values())
    return found if roots else {"jwt": found}


def rule_lines(plan: Plan, policies: PolicyPlan, head: Head, asked: Asked) -> list[str]:
    """What the rules of the gateway and of the route say, line by line."""
    claims = {**asked.claims, "source": {"address": head.peer.decode("ascii"), **asked.claims.get("source", {})}}
    head = head._replace(peer=str(claims["source"]["address"]).encode("ascii", "replace"))
    lines: list[str] = []
    if plan.network_rules is not None:
        facts = Facts(head, claims, extra={"source.port": claims["source"].get("port", 0)})
        lines += _set_lines("networkAuthorization", plan.network_rules, facts, RuleSet(plan.network_rules).decide(facts))
    for title, rules_plan in (("authorization", policies.authorization), ("authorization of the backend", policies.backend_authorization)):
        if rules_plan is not None:
            facts = Facts(head, claims)
            lines += _set_lines(title, rules_plan, facts, RuleSet(rules_plan).decide(facts))
    if policies.mcp_authorization is not None and asked.kind:
        about = f"mcpAuthorization: {asked.kind} {asked.name}" + (f" of {asked.target}" if asked.target else "")
        mcp = McpFacts(METHODS[asked.kind], asked.kind, asked.target, asked.name, asked.name, "", asked.arguments)
        rules = MessageRules(policies.mcp_authorization)
        facts = Facts(head, claims, mcp)
        lines += _set_lines(about, policies.mcp_authorization, facts, rules.decide(claims, mcp, head))
        shown = rules.decide(claims, mcp._replace(arguments=None), head, listing=True).allowed
        lines.append(f"          {'shown' if shown else 'hidden'} in lists")
    return lines


def _set_lines(title: str, plan: RulesPlan, facts: Facts, decision: Decision) -> list[str]:
    which = "" if decision.rule is None else f", rule {decision.rule + 1}"
    lines = [f"rules:    {title}: {'allowed' if decision.allowed else 'denied'}{which}: {decision.why}"]
    for number, (rule, result) in enumerate(zip(plan.rules, RuleSet(plan).results(facts), strict=True), 1):
        told = {True: "true", False: "false"}.get(result) if isinstance(result, bool) else "error"
        lines.append(f"          {number}. {rule.effect} {told}: {' '.join(rule.expression.split())}")
        if not isinstance(result, bool):
            lines.append(f"             {result.missing + ' is not known' if result.missing else result.text}")
    return lines
