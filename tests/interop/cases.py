"""The servers and clients of the matrix: how each is started, and what a client calls on a server and expects.

A profile is passed to the clients as JSON. A part that a server does not offer is None and the check is skipped.
`gone` is what the server itself says to a request in a deleted session: the specification says 404, one server 400.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHECKS = [
    *("connect", "list", "call", "big", "error", "progress", "parallel", "log", "idle"),
    *("subscribe", "resource", "prompt", "complete", "elicit", "cancel", "session", "delete"),
]
"""In the order the clients do them."""

Profile = dict[str, Any]

_STEPS = {"steps": 6, "step_ms": 50}

DUAL_ERA: Profile = {
    "modern": True,
    "gone": 404,
    "tools": 36,
    "pages": 6,
    "echo": {"tool": "echo", "arguments": {"text": "grüße \U0001f980 \\u0000 \"x\""}, "text": "grüße \U0001f980 \\u0000 \"x\""},
    "add": {"tool": "add", "arguments": {"a": 2, "b": 3}, "text": "5"},
    "big": {"tool": "big", "arguments": {"bytes": 1_000_000}, "bytes": 1_000_000},
    "error": {"tool": "fail", "arguments": {}},
    "progress": {"tool": "progress", "arguments": _STEPS, **_STEPS},
    "log": {"tool": "test_tool_with_logging", "arguments": {}, "messages": 3, "spread_ms": 100},
    "idle": {"tool": "notify_later", "arguments": {"delay_ms": 600}},
    "subscribe": {
        "uri": "test://watched-resource",
        "tool": "touch_resource",
        "arguments": {"uri": "test://watched-resource", "delay_ms": 300},
    },
    "resource": {"uri": "test://static-text", "text": "static text resource"},
    "prompt": {
        "name": "test_prompt_with_arguments",
        "arguments": {"arg1": "one", "arg2": "two"},
        "text": "Prompt with arguments: arg1='one', arg2='two'",
    },
    "complete": {"prompt": "test_prompt_with_arguments", "argument": "arg1", "value": "par", "values": ["paris", "park", "party"]},
    "elicit": {
        "legacy": {"tool": "test_elicitation", "arguments": {"message": "who?"}, "text": "my username"},
        "modern": {"tool": "test_input_required_result_elicitation", "arguments": {}, "text": "Hello, my name!"},
    },
    "cancel": {"tool": "progress", "arguments": {"steps": 400, "step_ms": 50}, "count_tool": "cancelled"},
}

EVERYTHING: Profile = {
    "modern": False,
    # What it tells a session of, it is asked for in that very session; a modern caller has none.
    "legacy_only": ["idle", "subscribe"],
    "gone": 400,
    "tools": 15,  # depends on the capabilities of the client: ours declare elicitation by form and by URL
    "pages": 1,
    "echo": {"tool": "echo", "arguments": {"message": "grüße \U0001f980"}, "text": "Echo: grüße \U0001f980"},
    "add": {"tool": "get-sum", "arguments": {"a": 2, "b": 3}, "text": "The sum of 2 and 3 is 5."},
    "big": None,
    "error": {"tool": "get-sum", "arguments": {"a": "two"}},
    "progress": {"tool": "trigger-long-running-operation", "arguments": {"duration": 0.5, "steps": 5}, "steps": 5, "step_ms": 100},
    "log": None,
    "idle": {"tool": "toggle-simulated-logging", "arguments": {}},
    "subscribe": {"uri": "demo://resource/dynamic/text/1", "tool": "toggle-subscriber-updates", "arguments": {}},
    "resource": {"uri": "demo://resource/static/document/features.md", "text": "Features"},
    "prompt": {"name": "args-prompt", "arguments": {"city": "Graz"}, "text": "What's weather in Graz?"},
    "complete": {"prompt": "completable-prompt", "argument": "department", "value": "Eng", "values": ["Engineering"]},
    "elicit": None,
    "cancel": None,
}

DEMO: Profile = {
    "modern": True,
    "gone": 404,
    "tools": 3,
    "pages": 1,
    "echo": {"tool": "echo", "arguments": {"text": "grüße \U0001f980"}, "text": "grüße \U0001f980"},
    "add": {"tool": "add", "arguments": {"a": 2, "b": 3}, "text": '{"sum": 5}'},
    "big": {"tool": "echo", "arguments": {"text": "x" * 60_000}, "bytes": 60_000},
    "error": {"tool": "add", "arguments": {"a": "2", "b": 3}},
    "progress": {"tool": "slow", "arguments": {"seconds": 0.3, "steps": 6}, "steps": 6, "step_ms": 50},
    "log": None,
    "idle": None,
    "subscribe": None,
    "resource": None,
    "prompt": None,
    "complete": None,
    "elicit": None,
    "cancel": None,
}


FOUR_TOOLS: Profile = {
    "modern": False,
    "gone": 404,
    "tools": 4,
    "pages": 1,
    "echo": {"tool": "echo", "arguments": {"text": "grüße \U0001f980 \"x\""}, "text": "grüße \U0001f980 \"x\""},
    "add": {"tool": "add", "arguments": {"a": 2, "b": 3}, "text": "5"},
    "progress": {"tool": "progress", "arguments": _STEPS, **_STEPS},
    "cancel": {"tool": "progress", "arguments": {"steps": 400, "step_ms": 50}, "count_tool": "cancelled"},
}
"""What servers/python1.py, modern_only.mjs and fastmcp_tasks_server.py offer; the eras differ."""

TIME: Profile = {
    "modern": True,
    "gone": 404,
    "tools": 2,
    "pages": 1,
    "echo": {"tool": "get_current_time", "arguments": {"timezone": "UTC"}, "has": '"timezone": "UTC"'},
    "add": {
        "tool": "convert_time",
        "arguments": {"source_timezone": "UTC", "time": "16:30", "target_timezone": "Asia/Tokyo"},
        "has": '"time_difference": "+9.0h"',
    },
    "progress": None,
    "cancel": None,
}


@dataclass(frozen=True)
class Client:
    """How a client is run: an interpreter's key in the runner, a file under clients/, and its mode.

    `modern_only` clients must fail, and fail at once, on a server that is not modern; `sse`: it also speaks HTTP+SSE;
    `declares`: it declares elicitation, so that a server may offer it more.
    """

    name: str
    interpreter: str
    script: str
    mode: str = ""
    modern_only: bool = False
    sse: bool = True
    declares: bool = True

    @property
    def prefers_modern(self) -> bool:
        """Whether it is modern where it can be."""
        return self.modern_only or self.mode == "auto"


CLIENTS = [
    Client("python mcp 2.3 auto", "mcp2", "python2.py", "auto"),
    Client("python mcp 2.3 legacy", "mcp2", "python2.py", "legacy"),
    Client("python mcp 2.3 2026-07-28", "mcp2", "python2.py", "2026-07-28", modern_only=True, sse=False),
    Client("python mcp 1.30", "mcp1", "python1.py"),
    Client("typescript sdk 1.32", "node", "ts_sdk.mjs"),
    Client("typescript client 2.4", "node", "ts_client.mjs", "default"),
    Client("typescript client 2.4 auto", "node", "ts_client.mjs", "auto"),
]

ONLOOKERS = [
    Client("inspector 2.12 legacy", "node", "inspector.mjs", "legacy"),
    Client("inspector 2.12 modern", "node", "inspector.mjs", "modern", modern_only=True, sse=False),
    Client("fastmcp 4.1", "fastmcp", "fastmcp_client.py", declares=False),
]
"""Clients of the large matrix that cannot do all the checks."""
