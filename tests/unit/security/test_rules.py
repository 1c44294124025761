"""Rule sets: the order of deny, require and allow, errors, kinds of MCP things, lists, memory, remarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.runtime.plan_security import RulePlan, RulesPlan
from agw.security import cel, message_rules
from agw.security.contract import McpFacts
from agw.security.facts import Facts
from agw.security.message_rules import MessageRules
from agw.security.rules import RuleSet, remarks

Effect = Literal["allow", "deny", "require"]
EXAMPLE = ['mcp.tool.name == "echo"', 'jwt.sub == "test-user" && mcp.tool.name == "get-sum"', 'mcp.tool.name == "get-env" && jwt.nested.key == "value"']
USER = {"jwt": {"sub": "test-user", "nested": {"key": "value"}}}


def plan(*rules: str | tuple[Effect, str], phase: Literal["network", "http", "mcp"] = "mcp") -> RulesPlan:
    return RulesPlan(phase, [RulePlan(item) if isinstance(item, str) else RulePlan(item[1], item[0]) for item in rules])


def tool(name: str, arguments: bytes | None = None, method: str = "tools/call") -> McpFacts:
    return McpFacts(method, "tool", "a", name, name, "", arguments)


def prompt(name: str) -> McpFacts:
    return McpFacts("prompts/get", "prompt", "a", name, name)


def allowed(rules: RulesPlan, mcp: McpFacts | None = None, claims: dict[str, Any] | None = None, listing: bool = False) -> bool:
    return RuleSet(rules).decide(Facts(None, claims, mcp, listing=listing)).allowed


_VALUE = {True: "true", False: "false", None: "jwt.missing == 1"}


@given(st.lists(st.tuples(st.sampled_from(["allow", "deny", "require"]), st.sampled_from([True, False, None])), max_size=6))
@settings(max_examples=300, deadline=None)
def test_decisions_follow_the_three_steps(rules: list[tuple[Any, bool | None]]) -> None:
    expected = (
        all(value is False for effect, value in rules if effect == "deny")
        and all(value is True for effect, value in rules if effect == "require")
        and (not any(effect == "allow" for effect, _ in rules) or any(value is True for effect, value in rules if effect == "allow"))
    )
    failed: list[int] = []
    found = RuleSet(plan(*((effect, _VALUE[value]) for effect, value in rules)), failed.append).decide(Facts())
    assert found.allowed is expected
    assert all(rules[number][1] is None for number in failed)
    if found.rule is not None:
        effect, value = rules[found.rule]
        assert found.allowed is (effect == "allow")
        assert value is (True if effect == "allow" else value)


def test_the_rules_of_the_example() -> None:
    rules = plan(*EXAMPLE)
    assert RuleSet(rules).needs == {"identity", "name"}
    assert [allowed(rules, tool(name), USER) for name in ("echo", "get-sum", "get-env", "other")] == [True, True, True, False]
    assert [allowed(rules, tool(name), {}) for name in ("echo", "get-sum", "get-env", "other")] == [True, False, False, False]


def test_a_set_that_allows_tools_allows_nothing_else() -> None:
    assert not allowed(plan(*EXAMPLE), prompt("echo"), USER)


def test_a_rule_that_denies_tools_says_nothing_of_prompts() -> None:
    failed: list[int] = []
    rules = RuleSet(plan(("deny", 'mcp.tool.name == "rm"')), failed.append)
    assert rules.decide(Facts(None, {}, prompt("rm"))).allowed
    assert not rules.decide(Facts(None, {}, tool("rm"))).allowed
    assert rules.decide(Facts(None, {}, tool("ls"))).allowed
    assert failed == []


def test_a_deny_rule_about_a_tool_that_fails_for_another_reason_denies_and_is_counted() -> None:
    failed: list[int] = []
    rules = RuleSet(plan("true", ("deny", 'mcp.tool.name == "rm" && jwt.level < 3')), failed.append)
    assert not rules.decide(Facts(None, {}, tool("rm"))).allowed
    assert failed == [1]
    assert rules.decide(Facts(None, {}, tool("ls"))).allowed


def test_a_require_rule_about_tools_fails_for_prompts() -> None:
    rules = plan(("require", 'mcp.tool.name.startsWith("read_")'))
    assert allowed(rules, tool("read_x"))
    assert not allowed(rules, tool("write_x"))
    assert not allowed(rules, prompt("read_x"))
    assert allowed(plan(("require", '!has(mcp.tool) || mcp.tool.name.startsWith("read_")')), prompt("x"))


def test_rules_see_arguments() -> None:
    rules = plan(("deny", 'mcp.tool.name == "read" && !mcp.tool.arguments.path.startsWith("/data/")'))
    assert allowed(rules, tool("read", b'{"path":"/data/x"}'))
    assert not allowed(rules, tool("read", b'{"path":"/etc/passwd"}'))
    assert not allowed(rules, tool("read", b"{}"))
    assert not allowed(rules, tool("read", b'{"path":"/data/x","path":"/etc/passwd"}'))
    assert not allowed(rules, tool("read"))
    assert allowed(rules, tool("other"))


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (("allow", 'mcp.tool.name == "x" && mcp.tool.arguments.a == 1'), True),
        (("allow", 'mcp.tool.name == "y" && mcp.tool.arguments.a == 1'), False),
        (("allow", 'mcp.methodName == "tools/call" && mcp.tool.name == "x"'), True),
        (("deny", 'mcp.tool.name == "x" && mcp.tool.arguments.a == 1'), True),
        (("deny", "has(mcp.tool.arguments.a)"), True),
        (("deny", 'mcp.tool.name == "x"'), False),
        (("require", "mcp.tool.arguments.a == 1"), True),
        (("require", 'jwt.sub == "a"'), False),
        (("deny", 'jwt.sub == "a"'), False),
    ],
)
def test_lists_show_what_may_be_called_with_some_arguments(rule: tuple[Effect, str], shown: bool) -> None:
    failed: list[int] = []
    found = RuleSet(plan(rule), failed.append).decide(Facts(None, {}, tool("x", None, "tools/list"), listing=True))
    assert found.allowed is shown
    assert bool(failed) is ("jwt" in rule[1])


@given(st.sampled_from(["x", "y", "rm"]), st.sampled_from(["tool", "prompt", "resource"]), st.booleans(), st.lists(st.integers(0, 8), max_size=5))
@settings(max_examples=200, deadline=None)
def test_what_is_allowed_is_shown_and_memory_changes_nothing(name: str, kind: str, known: bool, chosen: list[int]) -> None:
    pool: list[tuple[Effect, str]] = [
        ("allow", 'mcp.tool.name == "x"'), ("allow", 'mcp.prompt.name == "y" && jwt.sub == "a"'), ("deny", 'mcp.tool.name == "rm"'),
        ("allow", "mcp.tool.arguments.a == 1"), ("deny", "mcp.tool.arguments.a == 2"), ("require", "has(jwt.sub)"), ("allow", "jwt.sub == 'a'"),
        ("deny", 'mcp.resource.name == "y" || jwt.sub == "b"'), ("require", 'mcp.methodName.endsWith("/call")'),
    ]  # fmt: skip
    rules = plan(*(pool[number] for number in chosen))
    claims = {"jwt": {"sub": "a"}} if known else {}
    mcp = McpFacts("tools/call", kind, "t", name, name, "", b'{"a":1}')
    by_rules = RuleSet(rules).decide(Facts(None, claims, mcp))
    made = MessageRules(rules)
    assert made.decide(claims, mcp) == made.decide(claims, mcp, key=b"k") == made.decide(claims, mcp, key=b"k") == by_rules
    if by_rules.allowed:
        assert made.decide(claims, mcp._replace(method="tools/list", arguments=None), listing=True).allowed


def test_messages_about_nothing_are_decided_by_rules_about_methods_only() -> None:
    assert MessageRules(plan(*EXAMPLE)).decide({}, McpFacts("initialize")).allowed
    rules = MessageRules(plan('jwt.sub == "a"', ("deny", 'mcp.methodName == "logging/setLevel"'), ("require", 'mcp.methodName != "ping"')))
    assert rules.decide({}, McpFacts("initialize")).allowed
    refused = rules.decide({}, McpFacts("logging/setLevel"))
    assert (refused.allowed, refused.rule) == (False, 1)
    refused = rules.decide({}, McpFacts("ping"))
    assert (refused.allowed, refused.rule) == (False, 2)


def test_decisions_are_remembered_by_identity_and_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = MessageRules(plan('mcp.tool.name == "x" && jwt.sub == "a"'))
    assert rules.lasting
    assert rules.decide({"jwt": {"sub": "a"}}, tool("x"), key=b"a").allowed
    assert not rules.decide({"jwt": {"sub": "b"}}, tool("x"), key=b"b").allowed
    assert not rules.decide({}, tool("x")).allowed
    assert rules.decide({}, tool("x"), key=b"a").allowed, "the key stands for the claims"
    monkeypatch.setattr(message_rules, "CACHED", 4)
    for number in range(20):
        rules.decide({}, tool(f"t{number}"), key=b"a")
    assert len(rules._known) <= 5
    assert not MessageRules(plan("mcp.tool.arguments.a == 1")).lasting
    assert not MessageRules(plan('request.headers["a"] == "b"')).lasting
    assert not MessageRules(plan("source.address == '1.1.1.1'")).lasting


def test_results_tell_every_rule() -> None:
    found = RuleSet(plan("true", ("deny", "false"), ("require", "jwt.a == 1"))).results(Facts())
    assert found[:2] == [True, False]
    assert isinstance(found[2], cel.EvaluationError)


def test_a_rule_that_is_neither_true_nor_false_is_an_error() -> None:
    failed: list[int] = []
    for effect in ("allow", "deny", "require"):
        assert not RuleSet(plan((effect, "jwt.a")), failed.append).decide(Facts(None, {"jwt": {"a": "true"}})).allowed  # type: ignore[arg-type]
    assert failed == [0, 0, 0]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["true"], []),
        (['1 == 2 && mcp.tool.name == "x"'], [(0, "never match")]),
        ([("require", "jwt.a == 1 && false")], [(0, "refuses everything")]),
        ([("deny", "jwt.a == 1 || true")], [(0, "denies everything")]),
        (["jwt.a == 1", "jwt.a  ==  1"], [(1, "number 1")]),
        (["jwt.a == 1", ("deny", "jwt.a == 1")], []),
        (['mcp.tool.name == "a"', 'mcp.tool.name == "b"'], []),
    ],
)
def test_remarks(rules: list[Any], expected: list[tuple[int, str]]) -> None:
    found = remarks(plan(*rules))
    assert [number for number, _ in found] == [number for number, _ in expected]
    assert all(part in text for (_, text), (_, part) in zip(found, expected, strict=True))


def test_facts_that_break_are_no_facts() -> None:
    class Broken(dict[str, Any]):
        def get(self, *_: object) -> Any:
            raise KeyError

    check: Callable[[], Any] = lambda: RuleSet(plan(("deny", "jwt.a == 1"))).decide(Facts(None, Broken(x=1)))  # noqa: E731
    assert not check().allowed
