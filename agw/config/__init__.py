"""Configuration: what the operator wrote, checked in full, as a plan.

    loaded = load_file("agw.yaml", os.environ)   # raises ConfigErrors, which lists every problem with its place
    loaded.plan                                  # agw.runtime.plan.Plan
    redacted(loaded.document)                    # for /config_dump

The way of a file: `document` (YAML), `interpolate` (references), `model` (shape), `walk` (all structural problems),
`values` and `check` (meaning), `normalise` (plan). `load` is the whole way.
"""

from __future__ import annotations

from agw.config.load import Loaded, load_bytes, load_default, load_file
from agw.config.problem import ConfigErrors, Problem
from agw.config.redact import Document, redacted

__all__ = [
    "ConfigErrors",
    "Document",
    "Loaded",
    "Problem",
    "load_bytes",
    "load_default",
    "load_file",
    "redacted",
]
