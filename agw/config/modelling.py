"""The base of all model structs and the marks on their fields.

`about` puts a field's description into the JSON schema; `ours` also marks it as a key agentgateway does not know.
"""

from __future__ import annotations

import msgspec


class Model(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Immutable, camelCase in the file, and a key it does not have is an error."""


def about(text: str, ge: int | None = None, le: int | None = None) -> msgspec.Meta:
    """Description and bounds of a field agentgateway has too."""
    return msgspec.Meta(description=text, ge=ge, le=le)


def ours(text: str, ge: int | None = None, le: int | None = None) -> msgspec.Meta:
    """Description and bounds of a field only agw has."""
    return msgspec.Meta(description=text, ge=ge, le=le, extra_json_schema={"x-agw-extension": True})


def bounds(ge: int, le: int) -> msgspec.Meta:
    """Bounds of the numeric member of a union."""
    return msgspec.Meta(ge=ge, le=le)
