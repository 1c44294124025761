"""Rules, addresses and origins as the operator writes them."""

from __future__ import annotations

from typing import Annotated

from agw.config.modelling import Model, about, ours


class RuleEntry(Model, frozen=True):
    """A rule with its effect; exactly one key. A text instead is an allow rule."""

    allow: Annotated[str | None, about("An expression (CEL); with any allow rule, one must be true.")] = None
    deny: Annotated[str | None, about("An expression (CEL) that must be false; one that cannot be evaluated denies.")] = None
    require: Annotated[str | None, about("An expression (CEL) that must be true.")] = None


class RuleSet(Model, frozen=True):
    """Rules over what is known of a connection, request or message."""

    rules: Annotated[list[str | RuleEntry], about("The rules; their order does not matter.")]


class Csrf(Model, frozen=True):
    """Protection against requests that other sites make a browser send."""

    additional_origins: Annotated[list[str], about("Origins besides the request's own that may send unsafe methods.")] = []


class Sources(Model, frozen=True):
    """Client addresses; a denied one is refused even when it is allowed too."""

    allow: Annotated[list[str], ours("CIDR blocks or addresses; with any, all others are refused.")] = []
    deny: Annotated[list[str], ours("CIDR blocks or addresses that are refused.")] = []
