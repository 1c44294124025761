"""Protocol revisions as data: which versions exist, and what each method is in each era.

Source: MCP specification, revisions 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25 (the legacy era: sessions, a handshake)
and 2026-07-28 (the modern era: stateless, the envelope in `_meta`).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal, NamedTuple

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)
NEWEST_LEGACY = LEGACY[-1]
NEWEST_MODERN = MODERN[-1]
ALL = LEGACY + MODERN

Era = Literal["legacy", "modern"]

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
META_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
META_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

TASKS_EXTENSION = "io.modelcontextprotocol/tasks"


class Method(NamedTuple):
    """One client-to-server method.

    route: how its target is found - `all` (fan-out and merge), `tool`, `prompt`, `resource`, `ref` (completion), `task`,
    `session` (the gateway answers itself, telling the targets). name: the params member that Mcp-Name mirrors.
    """

    eras: frozenset[str]
    route: Literal["all", "tool", "prompt", "resource", "ref", "task", "session"]
    name: str = ""
    cacheable: bool = False


_L = frozenset({"legacy"})
_M = frozenset({"modern"})
_B = _L | _M

METHODS = MappingProxyType(
    {
        "initialize": Method(_L, "session"),
        "ping": Method(_L, "session"),
        "logging/setLevel": Method(_L, "session"),
        "server/discover": Method(_M, "session", cacheable=True),
        "subscriptions/listen": Method(_M, "session"),
        "tools/list": Method(_B, "all", cacheable=True),
        "prompts/list": Method(_B, "all", cacheable=True),
        "resources/list": Method(_B, "all", cacheable=True),
        "resources/templates/list": Method(_B, "all", cacheable=True),
        "tools/call": Method(_B, "tool", "name"),
        "prompts/get": Method(_B, "prompt", "name"),
        "resources/read": Method(_B, "resource", "uri", cacheable=True),
        "resources/subscribe": Method(_L, "resource", "uri"),
        "resources/unsubscribe": Method(_L, "resource", "uri"),
        "completion/complete": Method(_B, "ref"),
        "tasks/get": Method(_B, "task", "taskId"),
        "tasks/update": Method(_M, "task", "taskId"),
        "tasks/cancel": Method(_B, "task", "taskId"),
        "tasks/result": Method(_L, "task", "taskId"),
        "tasks/list": Method(_L, "all"),
    }
)

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")


def newest_common(version: str, known: tuple[str, ...] = LEGACY) -> str:
    """What to answer to an `initialize` that asks for `version`: itself if known, else our newest of the era."""
    return version if version in known else known[-1]
