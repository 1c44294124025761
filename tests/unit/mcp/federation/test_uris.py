"""URIs of several targets: rewritten, routed by knowledge, matched against templates."""

from __future__ import annotations

import pytest

from agw.mcp.federation.templates import MAX_TEMPLATE, compile_template
from agw.mcp.federation.uris import UriOwners, Uris


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("file:///a", "fs+file:///a"),
        ("git+ssh://h/p", "fs+git+ssh://h/p"),
        ("ui://app/x", "ui://fs+app/x"),
        ("UI://app", "UI://fs+app"),
        ("notes://{id}{?q}", "fs+notes://{id}{?q}"),
        ("{+any}", "fs+{+any}"),
        ("https://x/y", "https://x/y"),
        ("HTTP://x", "HTTP://x"),
        ("httpx://x", "fs+httpx://x"),
    ],
)
def test_rewriting(uri: str, public: str) -> None:
    uris = Uris(["db", "fs"], True)
    assert uris.public(1, uri) == public
    assert uris.split(public) == (None if public == uri else (1, uri))


def test_split_knows_targets_in_any_case_and_nothing_else() -> None:
    uris = Uris(["db", "fs"], True)
    assert uris.split("FS+file:///A+b") == (1, "file:///A+b")
    assert uris.split("git+ssh://h") is None
    assert uris.split("ui://app") is None
    assert uris.split("fs") is None
    assert Uris(["db", "fs"], False).split("fs+file:///a") is None
    assert Uris(["db", "fs"], False).public(1, "file:///a") == "file:///a"


def test_listed_before_linked() -> None:
    owners = UriOwners(3)
    owners.learn(2, uris=["mem://listed"], templates=["mem://users/{id}"])
    for uri in ("mem://listed", "mem://users/7", "mem://free"):
        owners.saw(1, uri)
    assert owners.owner("mem://listed") == 2
    assert owners.owner("mem://users/7") == 2
    assert owners.owner("mem://free") == 1


def test_links_do_not_move_to_later_targets_and_are_bounded() -> None:
    owners = UriOwners(3, max_links=2)
    owners.learn(0, uris=["a:1"])
    owners.learn(1, uris=["b:1"])
    owners.saw(1, "x:1")
    owners.saw(2, "x:1")
    assert owners.owner("x:1") == 1
    owners.saw(1, "x:2")
    owners.saw(1, "x:3")
    assert owners.owner("x:1") is None


def test_prefixes() -> None:
    owners = UriOwners(2)
    owners.learn(0, uris=["file:///a/b/c.txt", "file:///shared/1"])
    owners.learn(1, uris=["file:///d/e", "file:///shared/2"], templates=["log://host/{day}"])
    assert owners.owner("file:///a/b/other") == 0
    assert owners.owner("file:///a/b/c.txt#part") == 0
    assert owners.owner("file:///d/") == 1
    assert owners.owner("log://host/x/y") == 1
    assert owners.owner("file:///shared/3") is None
    assert owners.owner("file:///z") is None


def test_the_only_target_with_resources() -> None:
    owners = UriOwners(2)
    assert owners.owner("x:1") is None
    owners.learn(1, uris=["y:1"])
    assert owners.owner("x:1") == 1
    owners.learn(1, uris=[])
    assert owners.owner("x:1") is None


def test_template_text_is_known() -> None:
    owners = UriOwners(2)
    owners.learn(1, templates=["a://{x}", "b://{x}/{y}"])
    owners.learn(0, templates=["a://{y}"])
    assert owners.owner("a://{x}") == 0
    assert owners.owner("b://{x}/{y}") == 1


@pytest.mark.parametrize(
    ("template", "uri", "matching"),
    [
        ("a://{x}", "a://b", True),
        ("a://{x}", "a://b/c", False),
        ("a://{x}/end", "a://b/end", True),
        ("a://{x}/end", "a://b/End", False),
        ("a://{+path}", "a://b/c?d#e", True),
        ("a://h{/p*}", "a://h/b/c", True),
        ("a://h{/p*}", "a://hb", False),
        ("a://h{?q}", "a://h?q=1", True),
        ("a://h{?q}", "a://h", True),
        ("a://h{?q}", "a://hq", False),
        ("a://{x}.txt", "a://b.c.txt", True),
        ("a://{x}{y}z", "a://z", True),
        ("a://b", "a://b", True),
        ("a://b", "a://bc", False),
        ("a://é/{x}", "a://%C3%A9/1", True),
        ("a://{x}", "a://é", True),
    ],
)
def test_templates(template: str, uri: str, matching: bool) -> None:
    compiled = compile_template(template)
    assert compiled is not None
    assert compiled.matches(uri) is matching


@pytest.mark.parametrize("template", ["a://{", "a://}", "{}", "{!x}", "{{x}}", "x" * (MAX_TEMPLATE + 1)])
def test_no_templates(template: str) -> None:
    assert compile_template(template) is None


def test_templates_cost_no_backtracking() -> None:
    compiled = compile_template("a:" + "{x}" * 300 + "!")
    assert compiled is not None
    assert not compiled.matches("a:" + "b" * 8000)  # exponential or cubic matching would not end
