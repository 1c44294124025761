"""`default` and `coalesce`: what they absorb, and what they must not."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agw.runtime.plan_security import RulePlan, RulesPlan
from agw.security import cel
from agw.security.cel_default import take_out
from agw.security.contract import McpFacts
from agw.security.facts import Facts
from agw.security.rules import RuleSet

PIECES = ["default(", "coalesce(", ")", ",", '"', "'", "jwt.a", "1", "\n", " ", "//", "[", "]", "{", "}", "\\", "+"]
CLAIMS = {"jwt": {"a": 1, "n": None, "m": {"x": "y"}, "bad": "not a number"}}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('default(jwt.sub, "none")', "none"), ("default(jwt.a, 2) + 1", 2), ("default(jwt.n, 1)", 1), ('default(jwt.zz.yy, "") == ""', True),
        ("coalesce(int(jwt.bad), 1 / 0, -1)", -1), ("coalesce(jwt.n, jwt.zz, jwt.m.x)", "y"), ("coalesce(jwt.n, jwt.n)", None),
        ('default(default(jwt.q, jwt.r), "deep") + ","', "deep,"), ('["a"].map(x, default(jwt.q, "z") + x)', ["za"]), ('"default(a)" + "x"', "default(a)x"),
        ('default("a,b)", "c") + default(jwt.q, [1, 2].map(i, string(i))[1])', "a,b)2"), ('default(mcp.tool.name, "no tool")', "no tool"),
        ('default(basicAuth.username, "anonymous")', "anonymous"), ("default(jwt.m, {}).x", "y"),
        ('default(jwt.q, r"\\d,)") + "."', "\\d,)."), ('coalesce("\\"),", 1)', '"),'), ("default(jwt.q, \'\'\'a\'),\'\'\')", "a'),"),
        ("default(jwt.q,\n  // a comment, with a comma)\n  2)", 2), ('merge(jwt.m, {"k": 1})', {"x": "y", "k": 1}), ('jwt.m.merge({"x": "z"}).x', "z"),
        ('merge({"a": "b"}, {"c": 1})', {"a": "b", "c": 1}),
    ],
)  # fmt: skip
def test_values(expression: str, value: Any) -> None:
    found = cel.compile(expression, "mcp").evaluate(Facts(None, CLAIMS))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("expression", ["default(int(jwt.bad), -1)", 'default(fail("x"), 1)', "default(jwt.a.b, 1)", "coalesce(jwt.zz, 1 / 0)"])
def test_other_failures_stay_failures(expression: str) -> None:
    assert isinstance(cel.compile(expression, "mcp").evaluate(Facts(None, CLAIMS)), cel.EvaluationError)


@pytest.mark.parametrize(
    ("expression", "line", "column", "text"),
    [
        ("default(jwt.a)", 1, 1, "takes an expression"), ("1 +\n default(jwt.a, 1, 2)", 2, 2, "takes an expression"),
        ('default(jwt.a, "x") + jwtt.b', 1, 27, "jwtt"), ("true ||\n default(jwt.a,\n  request.pth)", 3, 10, "request.pth"),
        ('["q"].map(x, default(x, "z"))', 1, 22, "there is no `x`"), (" + ".join(["default(jwt.a, 1)"] * 17), 1, 321, "at most 16"),
    ],
)  # fmt: skip
def test_faults_have_their_place(expression: str, line: int, column: int, text: str) -> None:
    with pytest.raises(cel.CelError) as caught:
        cel.compile(expression, "http")
    (fault, *_) = caught.value.faults
    assert (fault.line, fault.column) == (line, column) and text in fault.message


def about(arguments: bytes | None) -> McpFacts:
    return McpFacts("tools/call", "tool", "t", "rm", "rm", arguments=arguments)


def test_a_malformed_request_does_not_choose_the_default() -> None:
    rules = RuleSet(RulesPlan("mcp", [RulePlan('default(mcp.tool.arguments.path, "").startsWith("/etc")', "deny")]))
    assert rules.decide(Facts(None, {}, about(b'{"path": "/tmp"}'))).allowed
    assert rules.decide(Facts(None, {}, about(b"{}"))).allowed, "there is none: the default"
    assert not rules.decide(Facts(None, {}, about(b'{"path": "/etc/passwd"}'))).allowed
    assert not rules.decide(Facts(None, {}, about(b'{"path": "/tmp", "path": "/etc/passwd"}'))).allowed, "it cannot be known which one the tool reads"
    assert not rules.decide(Facts(None, {}, about(b"[1]"))).allowed
    assert rules.decide(Facts(None, {}, about(None), listing=True)).allowed, "and in lists nothing is known of arguments"
    claims = RuleSet(RulesPlan("http", [RulePlan('default(jwt.sub, "anonymous") == "anonymous"', "allow")]))
    assert claims.decide(Facts(None, {"jwt": {}})).allowed
    assert not claims.decide(Facts(None, {"jwt": {"sub": "root\0"}})).allowed


def test_what_an_expression_needs_includes_its_arguments() -> None:
    expression = cel.compile('default(jwt.team, request.headers["x-team"]) == "a"', "http")
    assert expression.needs == {"identity", "headers"}
    assert {"jwt", "request.headers", "has_jwt"} <= expression.names
    assert expression.members == {"jwt": frozenset({"team"}), "request.headers": frozenset({"x-team"})}
    assert isinstance(expression.constant, cel.EvaluationError)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
def test_no_text_makes_taking_it_apart_fail_otherwise(text: str) -> None:
    try:
        expression = cel.compile(text, "http")
    except cel.CelError:
        return
    expression.evaluate(Facts(None, CLAIMS))
    whole, taken = take_out(text)
    assert len(whole) == len(text) and whole.count("\n") == text.count("\n")
    assert all(len(argument) == len(text) for item in taken for argument in item.arguments)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ('"/id/1234/data/id/5/".regexReplace("/id/[0-9]*/", "/id/{id}/")', "/id/{id}/data/id/5/"),
        ('"blah id=1234 bar".regexReplace("id=(.+?) ", "[$1] ")', "blah [1234] bar"), ('"äöü".regexReplace("(?P<x>ö)", "<${x}$$$2$none>")', "ä<ö$>ü"),
        ('"ab".regexReplace("a" + "b", "12")', "12"), ('"ab".regexReplace("x", "12")', "ab"), ('jsonField("{\\"hi\\": 1}", "hi")', 1),
        ('base64Encode("hello")', "aGVsbG8="), ('string(base64Decode("aGVsbG8="))', "hello"), ("to_json([1])", "[1]"),
    ],
)  # fmt: skip
def test_further_functions(expression: str, value: Any) -> None:
    assert cel.compile(expression, "http").evaluate(Facts()) == value


def test_no_pattern_takes_long() -> None:
    facts = Facts(None, {"jwt": {"text": "a" * 100_000, "pattern": "(a+)+$"}})
    began = time.perf_counter()
    assert cel.compile('jwt.text.regexReplace("(a|a)*b", "")', "http").evaluate(facts) == "a" * 100_000
    assert cel.compile('(jwt.text + "b").regexReplace(jwt.pattern, "")', "http").evaluate(facts) == "a" * 100_000 + "b"
    assert isinstance(cel.compile('jwt.text.regexReplace("(?=a)" + jwt.text, "")', "http").evaluate(facts), cel.EvaluationError)
    assert time.perf_counter() - began < 2
