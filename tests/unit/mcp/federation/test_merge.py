"""What the gateway declares for its targets."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from agw.mcp import message
from agw.mcp.federation import merge
from agw.mcp.federation.merge import Part

INFO = b'{"name":"agw","version":"1"}'


def merged(*parts: Any, era: Literal["legacy", "modern"] = "legacy", multiplexed: bool = True, own_changes: bool = True) -> Any:
    found = merge.capabilities([message.members(json.dumps(part).encode()) for part in parts], multiplexed=multiplexed, era=era, own_changes=own_changes)
    return json.loads(message.encode(found))


def test_features_are_ored() -> None:
    assert merged({"tools": {}, "logging": {}}, {"prompts": {}, "completions": {}}, own_changes=False) == {
        "tools": {}, "prompts": {}, "completions": {}, "logging": {},
    }


def test_lists_can_change_because_the_gateway_can_change_them() -> None:
    assert merged({"tools": {"listChanged": False}}, {"tools": {}})["tools"] == {"listChanged": True}
    assert merged({"tools": {"listChanged": False}}, {"tools": {"listChanged": True}}, own_changes=False)["tools"] == {"listChanged": True}


def test_subscribe_and_unknown_settings() -> None:
    found = merged({"resources": {"subscribe": False, "x": 1}}, {"resources": {"subscribe": True, "x": 2}})
    assert found["resources"] == {"subscribe": True, "x": 1, "listChanged": True}


def test_one_target_passes_unchanged() -> None:
    said = {"tools": {"listChanged": False}, "future": {"x": 1}, "extensions": {"com.example/x": {}}, "experimental": None}
    assert merged(said, multiplexed=False) == said


def test_several_targets_offer_what_can_be_routed() -> None:
    found = merged(
        {"experimental": {"a": 1}, "future": {}, "extensions": {"com.example/x": {}, "io.modelcontextprotocol/ui": {"m": 1}}},
        {"experimental": {"a": 2, "b": 3}, "extensions": {"io.modelcontextprotocol/tasks": {}, "io.modelcontextprotocol/ui": {}}},
    )
    assert found == {"experimental": {"a": 1, "b": 3}, "extensions": {"io.modelcontextprotocol/ui": {"m": 1}, "io.modelcontextprotocol/tasks": {}}}


def test_legacy_tasks_are_for_legacy_callers() -> None:
    parts = ({"tasks": {"list": {}, "requests": {"tools": {"call": {}}}}}, {"tasks": {"cancel": {}, "requests": {"other": {}}}})
    assert merged(*parts)["tasks"] == {"list": {}, "requests": {"tools": {"call": {}}, "other": {}}, "cancel": {}}
    assert merged(*parts, era="modern") == {}


@pytest.mark.parametrize("value", [None, True, [], "x"])
def test_what_is_no_object_declares_nothing(value: object) -> None:
    assert merged({"tools": value}, {}) == {}


def test_instructions() -> None:
    one = Part("a", {}, "Be kind.")
    two = Part("b", {}, "Be quick.")
    assert merge.instructions([one], multiplexed=False) == "Be kind."
    assert merge.instructions([one, Part("c", {}), two], "Own.", multiplexed=True) == "Own.\n\n## a\n\nBe kind.\n\n## b\n\nBe quick."
    assert merge.instructions([Part("a", {})], multiplexed=True) is None
    cut = merge.instructions([one, two], multiplexed=True, limit=12)
    assert cut == "## a\n\nBe ki…"


def test_initialize_result() -> None:
    raw = b'{"protocolVersion":"x","capabilities":{"tools":{"n":1.0}},"instructions":"Hi","serverInfo":{"name":"t"},"_meta":{"k":1e5}}'
    single = merge.initialize_result("2025-06-18", [Part.of("a", raw)], INFO, multiplexed=False)
    assert single == (
        b'{"protocolVersion":"2025-06-18","capabilities":{"tools":{"n":1.0}},"serverInfo":{"name":"agw","version":"1"},"instructions":"Hi","_meta":{"k":1e5}}'
    )
    several = json.loads(merge.initialize_result("2025-06-18", [Part.of("a", raw)], INFO, multiplexed=True))
    assert several["instructions"] == "## a\n\nHi"
    assert "_meta" not in several


def test_discover_result() -> None:
    part = Part("a", message.members(b'{"tools":{},"logging":{}}'))
    found = json.loads(merge.discover_result([part, part], ["2026-07-28"], 0, INFO, multiplexed=True))
    assert found == {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {"listChanged": True}, "logging": {}},
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "agw", "version": "1"}},
    }
