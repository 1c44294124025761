"""Virtual servers: picked tools under new names."""

from __future__ import annotations

import asyncio

from agw.mcp.federation.catalogue import Settings
from agw.mcp.federation.virtual import View, virtual_problems
from agw.mcp.transport import TransportError
from agw.runtime.plan import VirtualServerPlan, VirtualToolPlan
from tests.unit.mcp.federation.targets import ME, Farm, Target, tools

PLAN = VirtualServerPlan(
    name="desk",
    tools=[
        VirtualToolPlan(target="b", tool="search", name="find", title="Find", description="Finds."),
        VirtualToolPlan(target="a", tool="echo"),
        VirtualToolPlan(target="a", tool="missing"),
    ],
)


def test_list_and_call() -> None:
    async def test() -> None:
        farm = Farm(Target(tools=tools("echo", "other")), Target(tools=tools("search", description="old", x=1.5)))
        view = View(PLAN, farm.naming)
        listing = await farm.catalogue.listing("tools", ME)
        shown = view.apply(listing)
        assert shown.result(False, 0) == (
            b'{"tools":[{"name":"find","inputSchema":{"type":"object"},"description":"Finds.","x":1.5,"title":"Find"},'
            b'{"name":"echo","inputSchema":{"type":"object"}}]}'
        )
        assert view.apply(listing).merge is shown.merge
        assert view.resolve("find") == (1, "search")
        assert view.resolve("echo") == (0, "echo")
        assert view.resolve("missing") == (0, "missing")
        assert view.resolve("other") is None
        assert view.resolve("b_search") is None
        assert view.public("find") == "b_search"
        assert view.targets == [0, 1]

    asyncio.run(test())


def test_a_target_that_is_down_leaves_a_gap() -> None:
    async def test() -> None:
        farm = Farm(Target(tools=tools("echo")), Target(), settings=Settings(fail_open=True))
        farm.targets[1].failing = TransportError("connect", "refused")
        shown = View(PLAN, farm.naming).apply(await farm.catalogue.listing("tools", ME))
        assert [item.public for item in shown.merge.items] == ["echo"]
        assert shown.failed == ("b",)

    asyncio.run(test())


def test_a_pick_is_offered_where_another_target_has_its_name() -> None:
    async def test() -> None:
        farm = Farm(Target(tools=tools("search", title="a")), Target(tools=tools("search", title="b")), mode="never")
        plan = VirtualServerPlan(name="x", tools=[VirtualToolPlan(target="b", tool="search")])
        shown = View(plan, farm.naming).apply(await farm.catalogue.listing("tools", ME))
        assert [(item.target, b'"title": "b"' in item.raw or b'"title":"b"' in item.raw) for item in shown.merge.items] == [(1, True)]

    asyncio.run(test())


def test_plans_are_checked() -> None:
    assert virtual_problems([PLAN], ["a", "b"]) == ([], [])
    assert "no target 'b'" in virtual_problems([PLAN], ["a"]).errors[0]
    assert len(virtual_problems([PLAN, PLAN], ["a", "b"]).errors) == 1
    twice = VirtualServerPlan(name="x", tools=[VirtualToolPlan(target="a", tool="t"), VirtualToolPlan(target="b", tool="t")])
    assert "given twice" in virtual_problems([twice], ["a", "b"]).errors[0]
    long = VirtualServerPlan(name="x/y", tools=[VirtualToolPlan(target="a", tool="t" * 129)])
    assert len(virtual_problems([long], ["a"]).errors) == 2
