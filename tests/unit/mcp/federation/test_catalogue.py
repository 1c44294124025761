"""The catalogue over targets that answer, fail, change and lie."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agw.mcp.errors import INTERNAL, INVALID_PARAMS, RpcError, TargetError, method_not_found
from agw.mcp.federation.catalogue import Audience, Settings
from agw.mcp.federation.cursors import Cursors
from agw.mcp.federation.drain import Limits
from agw.mcp.seal import KeyRing
from agw.mcp.transport import TransportError
from tests.unit.mcp.federation.targets import ME, YOU, Farm, Target, tools

DOWN = TransportError("connect", "refused", sent=False)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine."""

    def test_in_a_loop() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    test_in_a_loop.__doc__ = test.__doc__
    return test_in_a_loop


async def code_of(work: Coroutine[Any, Any, Any]) -> int:
    with pytest.raises(RpcError) as caught:
        await work
    return caught.value.code


# ------------------------------------------------------------------------------------------------------------ merging


@run
async def test_order_is_the_configuration_s_then_the_target_s() -> None:
    first, second = Target(tools=tools("z", "y")), Target(tools=tools("x", "z"))
    first.gate = asyncio.Event()
    farm = Farm(first, second)
    listing = asyncio.create_task(farm.names())
    while not second.asked:
        await asyncio.sleep(0)
    first.gate.set()
    assert await listing == ["a_z", "a_y", "b_x", "b_z"]


@run
async def test_all_pages_are_in_the_list() -> None:
    target = Target(tools=tools(*map(str, range(25))))
    target.page = 4
    farm = Farm(target)
    assert await farm.names() == [str(n) for n in range(25)]
    assert target.asked[1][1] == b'""'


@run
async def test_octets_of_items_survive() -> None:
    farm = Farm(Target(), Target())
    item = b'{"inputSchema":{"$defs":{"n" : 1.0},"maximum":123456789012345678901},"name":"t"}'

    async def answer(method: str, cursor: bytes | None, audience: Audience) -> bytes:
        return b'{"tools": [%b]}' % item

    farm.targets[0].answer = answer  # type: ignore[method-assign]
    raw = await farm.catalogue.result("tools", ME, False)
    assert raw == b'{"tools":[%b]}' % item.replace(b'"t"', b'"a_t"')


@run
async def test_resources_and_templates() -> None:
    lists = {"resources": [{"uri": "x:1"}, {"uri": "https://h"}, {"uri": "ui://u"}], "templates": [{"uriTemplate": "x:{y}"}]}
    farm = Farm(Target(**lists), Target(**lists))
    assert await farm.names("resources") == ["a+x:1", "https://h", "ui://a+u", "b+x:1", "ui://b+u"]
    assert await farm.result("templates") == {"resourceTemplates": [{"uriTemplate": "a+x:{y}"}, {"uriTemplate": "b+x:{y}"}]}
    assert ("duplicates", -1, 1) in farm.events


@run
async def test_items_without_a_name_or_with_one_twice_are_dropped() -> None:
    farm = Farm(Target(tools=[{"name": 7}, {}, "x", *tools("t"), *tools("t", title="again")]))
    assert [tool["name"] for tool in (await farm.result())["tools"]] == ["t"]
    assert ("dropped", 0, 4) in farm.events


@run
async def test_header_annotations() -> None:
    good = {"name": "good", "inputSchema": {"properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}}
    bad = {"name": "bad", "inputSchema": {"properties": {"r": {"type": "number", "x-mcp-header": "Region"}}}}
    farm = Farm(Target(tools=[good, bad]), Target(tools=[good, bad]), settings=Settings(http_targets=frozenset({0})))
    assert await farm.names() == ["a_good", "b_good", "b_bad"]
    item = await farm.catalogue.find("tools", ME, "a_good")
    assert item is not None
    assert (item.target, item.name, item.headers) == (0, "good", {"Region": ("r",)})
    assert json.loads(item.schema or b"") == good["inputSchema"]


@run
async def test_bounds_of_a_list() -> None:
    farm = Farm(Target(tools=tools("1", "2", "3")), settings=Settings(limits=Limits(items=2)))
    assert await farm.names() == ["1", "2"]
    assert ("cut", 0, 1) in farm.events


@run
async def test_a_target_without_the_list_has_an_empty_one() -> None:
    farm = Farm(Target(prompts=[{"name": "p"}]), Target())
    farm.targets[0].extra = {"ttlMs": 9000, "cacheScope": "public"}
    farm.targets[1].failing = method_not_found("prompts/list")
    found = await farm.result("prompts", modern=True)
    assert found == {"prompts": [{"name": "a_p"}], "resultType": "complete", "ttlMs": 9000, "cacheScope": "public"}


# ------------------------------------------------------------------------------------------------------------ caching


@run
async def test_a_fresh_list_is_one_object_and_asks_nobody() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    first = await farm.catalogue.result("tools", ME, True)
    assert await farm.catalogue.result("tools", ME, True) is first
    assert await farm.catalogue.result("tools", ME, False) is await farm.catalogue.result("tools", ME, False)
    assert farm.catalogue.ready("tools", ME) is not None
    assert farm.catalogue.ready("prompts", ME) is None
    assert farm.asked() == 2


@run
async def test_time_runs_out() -> None:
    farm = Farm(Target(tools=tools("t")), settings=Settings(ttl_s=30))
    await farm.names()
    farm.clock.now += 29.9
    await farm.names()
    assert farm.asked() == 1
    farm.clock.now += 0.1
    farm.targets[0].lists["tools/list"] = tools("u")
    assert await farm.names() == ["u"]


@run
async def test_an_unchanged_list_stays_the_same_object() -> None:
    farm = Farm(Target(tools=tools("t")))
    before = (await farm.catalogue.listing("tools", ME)).merge
    farm.clock.now += 31
    assert (await farm.catalogue.listing("tools", ME)).merge is before
    assert (await farm.catalogue.listing("tools", YOU)).merge is before
    assert farm.asked() == 3


@run
async def test_a_modern_target_says_how_long() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    farm.targets[0].extra = {"ttlMs": 60_000, "cacheScope": "public"}
    farm.targets[1].extra = {"ttlMs": 100_000, "cacheScope": "private"}
    found = await farm.result(modern=True)
    assert (found["ttlMs"], found["cacheScope"]) == (60_000, "private")
    farm.clock.now += 20.5
    assert (await farm.result(modern=True))["ttlMs"] == 39_000
    farm.clock.now += 50
    await farm.result(modern=True)
    assert [len(target.asked) for target in farm.targets] == [2, 1]


@run
async def test_a_ttl_of_zero_means_every_time_and_silence_is_no_promise() -> None:
    farm = Farm(Target(tools=tools("t")))
    assert (await farm.result(modern=True))["ttlMs"] == 0
    farm.clock.now += 31
    farm.targets[0].extra = {"ttlMs": 0, "cacheScope": "private"}
    for _ in range(3):
        assert (await farm.result(modern=True))["ttlMs"] == 0
    assert farm.asked() == 4


@run
async def test_public_is_shared_between_principals_and_private_is_not() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    farm.targets[0].extra = {"ttlMs": 60_000, "cacheScope": "public"}
    await farm.names(audience=ME)
    await farm.names(audience=YOU)
    await farm.names(audience=Audience(b"me", b"other version"))
    assert [len(target.asked) for target in farm.targets] == [2, 3]


@run
async def test_a_list_that_turns_private_is_not_shared_any_more() -> None:
    farm = Farm(Target(tools=tools("public")))
    farm.targets[0].extra = {"ttlMs": 1000, "cacheScope": "public"}
    await farm.names(audience=ME)
    farm.clock.now += 2
    farm.targets[0].extra = {"ttlMs": 1_000_000, "cacheScope": "private"}
    farm.targets[0].lists["tools/list"] = tools("mine")
    assert await farm.names(audience=ME) == ["mine"]
    farm.targets[0].lists["tools/list"] = tools("yours")
    assert await farm.names(audience=YOU) == ["yours"]


@run
async def test_everybody_waits_for_the_same_answers() -> None:
    target = Target(tools=tools("t"))
    target.gate = asyncio.Event()
    farm = Farm(target)
    waiting = [asyncio.create_task(farm.names()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    target.gate.set()
    assert await asyncio.gather(*waiting[1:]) == [["t"]] * 19
    assert farm.asked() == 1


@run
async def test_audiences_are_bounded() -> None:
    farm = Farm(Target(tools=tools("t")), settings=Settings(max_audiences=3))
    for n in range(10):
        await farm.names(audience=Audience(b"%d" % n, b""))
    assert farm.catalogue.ready("tools", Audience(b"9", b"")) is not None
    assert farm.catalogue.ready("tools", Audience(b"0", b"")) is None
    assert len(farm.catalogue._views) == 3


@run
async def test_octets_are_bounded() -> None:
    farm = Farm(Target(), settings=Settings(max_bytes=100_000))
    for n in range(20):
        farm.targets[0].lists["tools/list"] = tools(f"t{n}", description="x" * 10_000)
        await farm.names(audience=Audience(b"%d" % n, b""))
    gc.collect()
    assert farm.catalogue._held() < 150_000
    assert farm.catalogue.ready("tools", Audience(b"19", b"")) is not None


# ----------------------------------------------------------------------------------------------------------- changes


@run
async def test_a_change_is_seen_by_the_next_list() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    await farm.names()
    farm.targets[1].lists["tools/list"] = tools("new")
    farm.catalogue.invalidate(1, "tools")
    assert await farm.names() == ["a_t", "b_new"]
    assert [len(target.asked) for target in farm.targets] == [1, 2]


@run
async def test_a_change_during_a_fetch_is_not_missed() -> None:
    target = Target(tools=tools("old"))
    target.gate = asyncio.Event()
    farm = Farm(target)
    early = asyncio.create_task(farm.names())
    while not target.asked:
        await asyncio.sleep(0)
    target.lists["tools/list"] = tools("new")
    farm.catalogue.invalidate(0, "tools")
    late = asyncio.create_task(farm.names())
    await asyncio.sleep(0)
    target.gate.set()
    assert await early == ["old"]
    assert await late == ["new"]


@run
async def test_resources_and_templates_change_together() -> None:
    farm = Farm(Target(resources=[], templates=[]))
    await farm.names("templates")
    farm.catalogue.invalidate(0, "resources")
    assert farm.catalogue.ready("templates", ME) is None


@run
async def test_bursts_are_told_as_few() -> None:
    told: list[tuple[str, float]] = []
    loop = asyncio.get_running_loop()
    farm = Farm(Target(), settings=Settings(debounce_s=0.05), on_change=lambda kind: told.append((kind, loop.time())))
    for _ in range(50):
        farm.catalogue.invalidate(0, "tools")
    assert [kind for kind, _ in told] == ["tools"]
    while len(told) < 2:
        await asyncio.sleep(0.005)
    assert told[1][1] - told[0][1] > 0.04
    farm.catalogue.invalidate()
    assert {kind for kind, _ in told} == {"tools", "prompts", "resources"}
    before = len(told)
    farm.catalogue.invalidate()
    await farm.catalogue.close()
    farm.catalogue.invalidate()
    assert len(told) == before


# ----------------------------------------------------------------------------------------------------------- failures


@run
async def test_a_failing_target_leaves_a_gap_that_is_said() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    farm.targets[0].extra = farm.targets[1].extra = {"ttlMs": 60_000, "cacheScope": "public"}
    farm.targets[1].failing = DOWN
    assert await farm.result(modern=True) == {
        "tools": [{"name": "a_t", "inputSchema": {"type": "object"}}], "_meta": {"dev.agw/partial": ["b"]}, "resultType": "complete", "ttlMs": 0,
        "cacheScope": "private",
    }
    assert (await farm.result())["_meta"] == {"dev.agw/partial": ["b"]}
    assert ("failed", 1, 1) in farm.events


@run
async def test_a_failing_target_keeps_its_last_list_for_a_while() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")), settings=Settings(ttl_s=10, stale_s=100))
    await farm.names()
    farm.targets[1].failing = DOWN
    farm.clock.now += 50
    assert await farm.names() == ["a_t", "b_t"]
    assert (await farm.result())["_meta"] == {"dev.agw/partial": ["b"]}
    farm.clock.now += 61
    assert await farm.names() == ["a_t"]


@run
async def test_a_failing_target_is_not_asked_again_at_once_and_its_recovery_is_told() -> None:
    told: list[str] = []
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")), settings=Settings(retry_s=5, partial_ttl_s=1), on_change=told.append)
    farm.targets[1].failing = DOWN
    await farm.names()
    farm.clock.now += 4
    await farm.names()
    assert len(farm.targets[1].asked) == 1
    farm.clock.now += 1
    await farm.names()
    farm.clock.now += 9
    await farm.names()
    assert len(farm.targets[1].asked) == 2
    farm.targets[1].failing = None
    farm.clock.now += 1
    assert await farm.names() == ["a_t", "b_t"]
    assert "tools" in told
    assert ("recovered", 1, 2) in farm.events
    await farm.catalogue.close()


@run
async def test_a_change_ends_the_pause_after_a_failure() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")))
    farm.targets[1].failing = DOWN
    await farm.names()
    farm.targets[1].failing = None
    farm.catalogue.invalidate(1)
    assert await farm.names() == ["a_t", "b_t"]


@run
async def test_nobody_answers() -> None:
    farm = Farm(Target(tools=tools("t")), Target())
    farm.targets[0].failing = farm.targets[1].failing = DOWN
    assert await code_of(farm.names()) == INTERNAL
    assert await code_of(farm.names()) == INTERNAL
    assert farm.asked() == 2


@run
async def test_the_one_target_s_own_error() -> None:
    farm = Farm(Target())
    farm.targets[0].failing = TargetError(b'{"code":-32000,"message":"no"}')
    assert await code_of(farm.names()) == -32000


@run
async def test_failing_closed() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")), settings=Settings(fail_open=False, ttl_s=1))
    assert await farm.names() == ["a_t", "b_t"]
    farm.clock.now += 2
    farm.targets[1].failing = DOWN
    with pytest.raises(RpcError, match="Target b is not available"):
        await farm.names()


@run
async def test_who_is_turned_away_keeps_nothing() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")), settings=Settings(ttl_s=1))
    await farm.names()
    farm.clock.now += 2
    farm.targets[1].failing = RpcError(INTERNAL, "no", status=403)
    assert await farm.names() == ["a_t"]


@run
async def test_a_slow_target_costs_its_deadline() -> None:
    farm = Farm(Target(tools=tools("t")), Target(tools=tools("t")), settings=Settings(deadlines_s=(5, 0.02)))
    farm.targets[1].gate = asyncio.Event()
    assert await farm.names() == ["a_t"]
    assert (await farm.result())["_meta"] == {"dev.agw/partial": ["b"]}


@run
async def test_a_malformed_list_is_a_failure() -> None:
    farm = Farm(Target(tools=tools("t")), Target())
    farm.targets[1].extra = {"tools": None}
    assert await farm.names() == ["a_t"]
    assert ("failed", 1, 1) in farm.events


@run
async def test_closing_ends_those_who_wait() -> None:
    target = Target()
    target.gate = asyncio.Event()
    farm = Farm(target)
    waiting = asyncio.create_task(farm.names())
    while not target.asked:
        await asyncio.sleep(0)
    await farm.catalogue.close()
    assert await code_of(waiting) == INTERNAL  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ routing


@run
async def test_names_stay_with_a_target_that_is_down() -> None:
    """Without prefixes a tool must not become another target's because its own does not answer."""
    farm = Farm(Target(tools=tools("x")), Target(tools=tools("x", "y")), mode="never", settings=Settings(ttl_s=1, stale_s=10))
    assert await farm.names() == ["x", "y"]
    assert ("duplicates", -1, 1) in farm.events
    assert await farm.catalogue.route("tools", ME, "x") == (0, "x")
    farm.targets[0].failing = DOWN
    farm.clock.now += 60
    assert await farm.names() == ["y"]
    assert await farm.catalogue.route("tools", ME, "x") == (0, "x")
    assert await farm.names(audience=YOU) == ["y"]
    assert await farm.catalogue.route("tools", YOU, "y") == (1, "y")
    assert await farm.catalogue.route("tools", YOU, "z") is None


@run
async def test_prefixed_names_need_no_list() -> None:
    farm = Farm(Target(), Target())
    assert await farm.catalogue.route("tools", ME, "b_x") == (1, "x")
    assert await farm.catalogue.route("tools", ME, "x") is None
    assert await Farm(Target()).catalogue.route("prompts", ME, "b_x") == (0, "b_x")
    assert farm.asked() == 0


@run
async def test_find_is_content_with_what_was_listed() -> None:
    farm = Farm(Target(tools=tools("t")))
    assert await farm.catalogue.find("tools", ME, "t") is not None
    farm.clock.now += 100
    assert await farm.catalogue.find("tools", ME, "t") is not None
    assert farm.asked() == 1
    assert await farm.catalogue.find("tools", ME, "u") is None
    assert farm.asked() == 2
    farm.catalogue.invalidate(0, "tools")
    farm.targets[0].lists["tools/list"] = tools("t", title="new")
    item = await farm.catalogue.find("tools", ME, "t", fresh=True)
    assert item is not None
    assert b"new" in item.raw


@run
async def test_uris_without_prefixes() -> None:
    first = Target(resources=[{"uri": "x:1"}], templates=[])
    second = Target(resources=[{"uri": "x:1"}, {"uri": "x:2"}], templates=[{"uriTemplate": "y:{z}"}])
    farm = Farm(first, second, mode="never")
    route = farm.catalogue.route_uri
    assert await route(ME, "x:1") == (0, "x:1")
    assert await route(ME, "x:2") == (1, "x:2")
    assert await route(ME, "y:abc") == (1, "y:abc")
    assert await route(ME, "y:{z}") == (1, "y:{z}")
    assert await route(ME, "q:1") is None
    farm.catalogue.saw(ME, 1, "q:1")
    assert await route(ME, "q:1") == (1, "q:1")
    assert await route(YOU, "q:1") is None
    first.lists["resources/list"] = [{"uri": "x:2"}]
    farm.catalogue.invalidate(0, "resources")
    assert await route(ME, "x:2") == (0, "x:2")


@run
async def test_uris_with_prefixes() -> None:
    farm = Farm(Target(resources=[]), Target(resources=[{"uri": "https://h/x"}]))
    assert await farm.catalogue.route_uri(ME, "B+file:///x") == (1, "file:///x")
    assert await farm.catalogue.route_uri(ME, "file:///x") is None
    assert farm.asked() == 0
    assert await farm.catalogue.route_uri(ME, "https://h/x") == (1, "https://h/x")
    assert await Farm(Target()).catalogue.route_uri(ME, "a+b:c") == (0, "a+b:c")


@run
async def test_uris_when_lists_fail() -> None:
    farm = Farm(Target(), Target(), mode="never")
    farm.targets[0].failing = farm.targets[1].failing = DOWN
    assert await farm.catalogue.route_uri(ME, "x:1") is None


# -------------------------------------------------------------------------------------------------------- policy, pages


@run
async def test_hidden_items_and_apps() -> None:
    app = {"name": "app", "_meta": {"ui": {"resourceUri": "ui://x"}, "k": 1}}
    hidden: set[str] = {"secret"}

    def allow(audience: Audience, kind: str, target: int, name: str) -> bool:
        return audience != YOU or name not in hidden

    farm = Farm(Target(tools=[*tools("t", "secret"), app]), Target(tools=tools("secret")), allow=allow)
    farm.targets[0].extra = farm.targets[1].extra = {"ttlMs": 1000, "cacheScope": "public"}
    assert await farm.names(audience=ME) == ["a_t", "a_secret", "a_app", "b_secret"]
    assert await farm.names(audience=YOU) == ["a_t", "a_app"]
    assert (await farm.result(audience=YOU, modern=True))["cacheScope"] == "private"
    assert (await farm.result(audience=YOU))["tools"][1]["_meta"] == {"ui": {"resourceUri": "ui://a+x"}, "k": 1}
    hidden.add("ui://x")
    farm.catalogue.forget(YOU)
    gc.collect()
    assert (await farm.result(audience=YOU))["tools"][1]["_meta"] == {"k": 1}


def paged(*targets: Target, size: int = 3) -> Farm:
    return Farm(*targets, settings=Settings(page_size=size), cursors=Cursors(KeyRing([b"k" * 32]), lambda: 0.0), backend="x")


async def pages(farm: Farm, cursor: str | None = None) -> list[str]:
    found: list[str] = []
    while True:
        page = await farm.result(cursor=cursor)
        assert len(page["tools"]) <= 3
        found += [tool["name"] for tool in page["tools"]]
        cursor = page.get("nextCursor")
        if cursor is None:
            return found


@run
async def test_pages_make_the_whole_list() -> None:
    farm = paged(Target(tools=tools(*"abcd")), Target(tools=tools(*"ef")))
    assert await pages(farm) == await farm.names()
    assert "nextCursor" not in await farm.result("prompts")


@run
async def test_pages_of_a_list_that_changes_meanwhile() -> None:
    farm = paged(Target(tools=tools(*"abcdef")))
    cursor = (await farm.result())["nextCursor"]
    farm.targets[0].lists["tools/list"] = tools(*"XYabcdeZf")
    farm.catalogue.invalidate(0)
    assert await pages(farm, cursor) == list("def")
    elsewhere = paged(Target(tools=tools(*"XYabcdeZf")))
    assert await pages(elsewhere, cursor) == list("deZf")
    gone = paged(Target(tools=tools(*"XYZ")))
    assert await pages(gone, cursor) == []


@run
async def test_bad_cursors() -> None:
    farm = paged(Target(tools=tools(*"abcdef")))
    cursor = (await farm.result())["nextCursor"]
    assert await code_of(farm.result(audience=YOU, cursor=cursor)) == INVALID_PARAMS
    assert await code_of(farm.result("prompts", cursor=cursor)) == INVALID_PARAMS
    assert await code_of(farm.result(cursor="x")) == INVALID_PARAMS
    assert await code_of(Farm(Target(tools=tools("a"))).result(cursor=cursor)) == INVALID_PARAMS


# ---------------------------------------------------------------------------------------------------------------- size


@run
async def test_a_long_list_lets_others_run() -> None:
    target = Target(tools=[])
    raw = json.dumps({"tools": [{"name": f"t{n}", "description": "d" * 200, "inputSchema": {"type": "object", "properties": {}}} for n in range(10_000)]})

    async def answer(method: str, cursor: bytes | None, audience: Audience) -> bytes:
        return raw.encode()

    target.answer = answer  # type: ignore[method-assign]
    farm = Farm(target, Target(tools=tools("t")))
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    assert len(await farm.names()) == 10_001
    running.cancel()
    assert turns > 15
    assert await farm.catalogue.result("tools", ME, False) is await farm.catalogue.result("tools", ME, False)


