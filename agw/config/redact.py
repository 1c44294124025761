"""A document fit to be shown: secrets replaced, everything else as it was loaded.

A value is a secret when it came from a credential or a file, when its key looks like one, or when it is the condition
on a header whose name looks like one; of a URL its password is. Values from the environment are secrets only by their key.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agw.config.interpolate import SECRET_ORIGINS
from agw.config.problem import Path
from agw.config.values import is_secret_key

REDACTED = "<redacted>"

_URL_PASSWORD = re.compile(r"^([a-z][a-z0-9+.-]*://[^/?#@]*:)[^/?#]*@", re.IGNORECASE)


class Document(msgspec.Struct, frozen=True):
    """The loaded document, references expanded, and the paths whose values came from outside."""

    tree: dict[str, Any]
    origins: dict[Path, frozenset[str]] = {}

    def is_secret(self, path: Path) -> bool:
        """Whether the value at `path` came from a credential or a file."""
        return not SECRET_ORIGINS.isdisjoint(self.origins.get(path, frozenset()))


def redacted(document: Document) -> dict[str, Any]:
    """A copy of the document for `/config_dump`, its secrets replaced by `<redacted>`."""
    result = _copy(document.tree, (), document, False)
    return result if isinstance(result, dict) else {}


def _copy(value: Any, path: Path, document: Document, secret: bool) -> Any:
    if isinstance(value, dict):
        name = value.get("name")
        condition = isinstance(name, str) and is_secret_key(name) and "value" in value
        out: dict[str, Any] = {}
        for key, item in value.items():
            # A secret-looking key over a mapping names a policy (`mcpAuthorization`), not a secret.
            hidden = secret or (condition and key == "value")
            hidden = hidden or (not isinstance(item, dict) and is_secret_key(key))
            # `key: {value: ...}` of `backendAuth` is one, with the place it goes to beside it.
            if key == "key" and isinstance(item, dict) and not isinstance(item.get("value"), dict) and "value" in item:
                item = {**item, "value": REDACTED}
            out[key] = _copy(item, (*path, key), document, hidden)
        return out
    if isinstance(value, list):
        return [_copy(item, (*path, index), document, secret) for index, item in enumerate(value)]
    if value is None or isinstance(value, bool):
        return value
    if secret or document.is_secret(path):
        return REDACTED
    return _URL_PASSWORD.sub(rf"\1{REDACTED}@", value) if isinstance(value, str) else value
