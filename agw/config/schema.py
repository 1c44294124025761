"""The JSON schema of the configuration file, generated from the model.

Editors use it for completion; `x-agw-extension` marks what agentgateway does not know. The generated file
`config/agw.schema.json` is checked for freshness by a test.
"""

from __future__ import annotations

from typing import Any

import msgspec

from agw.config.model import Config

SCHEMA_ID = "urn:agw:config"


def json_schema() -> dict[str, Any]:
    """The schema as a plain dict, JSON Schema 2020-12."""
    (reference,), definitions = msgspec.json.schema_components([Config], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "agw configuration",
        **reference,
        "$defs": {name: definitions[name] for name in sorted(definitions)},
    }


def schema_text() -> str:
    """The schema as the text of `config/agw.schema.json`."""
    return msgspec.json.format(msgspec.json.encode(json_schema()), indent=2).decode() + "\n"
