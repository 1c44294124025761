"""`authorization`: rules about the head of a request and who sends it. 403 for what they do not allow."""

from __future__ import annotations

from agw.runtime.plan_security import RulesPlan
from agw.security.contract import AUTHORIZATION, Found, Refusal, Request, SecurityHost, Verdict
from agw.security.facts import ADDRESS, Facts, shows_peer
from agw.security.rules import RuleSet


class HttpRules:
    """The step."""

    def __init__(self, plan: RulesPlan, host: SecurityHost) -> None:
        self.rules = RuleSet(plan, lambda _: host.count("authorization", "error"))
        self.lasting = self.rules.needs <= {"identity"}
        self.by_peer = self.rules.needs <= {"identity", "source"} and all(
            name in ADDRESS for name in self.rules.names if name.startswith(("source.", "has_source"))
        )
        self.host = host

    def check(self, request: Request, found: Found) -> Verdict:
        """Refuses what the rules do not allow; a decision on more than the identity is made anew for every request."""
        if not self.lasting and not (self.by_peer and shows_peer(request)):
            found.lasting = False
        decision = self.rules.decide(Facts(request, found.claims))
        if decision.allowed:
            self.host.count("authorization", "allowed")
            return None
        self.host.count("authorization", "denied")
        which = "" if decision.rule is None else f" (rule {decision.rule + 1})"
        return Refusal(403, AUTHORIZATION, b"not allowed", f"authorization: {decision.why}{which}")


def factory(plan: RulesPlan, host: SecurityHost) -> HttpRules:
    """The step of a plan."""
    return HttpRules(plan, host)
