"""OpenAPI documents of MCP targets: read where they are, checked for being one, kept as JSON text.

What the document says is judged by the transport that serves it; here only its kind is: OpenAPI 3, in JSON or YAML.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from agw.config import values
from agw.config.check import Context
from agw.config.document import DocumentError, read
from agw.config.files import file_name, read_text
from agw.config.model_mcp import OpenApiServer, SchemaSource
from agw.config.problem import Path
from agw.config.values import Endpoint, quoted
from agw.runtime.plan import OpenApiPlan

_MEND_FILE = "mend the path, or put the OpenAPI document there"
_DEFAULT = OpenApiPlan()


def openapi_plan(context: Context, value: OpenApiServer, prefix_path: str, path: Path) -> OpenApiPlan | None:
    """The document of a target; None after a problem. `path` is where `openapi` stands."""
    below: Path = (*path, "schema")
    refresh = _DEFAULT.refresh_ns
    if value.refresh_interval is not None:
        refresh = context.findings.value((*path, "refreshInterval"), values.positive_duration_ns, value.refresh_interval, refresh)
    source = value.schema
    if isinstance(source, SchemaSource):
        chosen = context.choice(source, below, ("file", "url"))
        if chosen is None:
            return None
        if source.url is not None:
            url = context.findings.value((*below, "url"), _url, source.url, "")
            return OpenApiPlan(url=url, refresh_ns=refresh, prefix_path=prefix_path) if url else None
        name = source.file or ""
        text = read_text(context, name, (*below, "file"), _MEND_FILE, "save it as UTF-8")
        if text is None:
            return None
        document = _json(context, text, name, (*below, "file"))
    else:
        document = _json(context, source, "", below)
    if value.refresh_interval is not None:
        context.findings.problem((*path, "refreshInterval"), "only a document from a `url` is fetched again; remove it")
    return None if document is None else OpenApiPlan(schema=document, prefix_path=prefix_path)


def _json(context: Context, text: str, name: str, path: Path) -> str | None:
    """The document as JSON text; problems say where in the document, because it is not the configuration file."""
    what = file_name(name) if name else "the text"
    tree: Any
    try:
        tree = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        try:
            source = read(text.encode("utf-8", "replace"), name or "schema")
        except DocumentError as error:
            line = f" (line {error.finding.place[0]})" if error.finding.place else ""
            context.findings.problem(path, f"{what} is neither JSON nor YAML{line}: {error.finding.text}")
            return None
        for finding in source.findings:
            line = f" (line {finding.place[0]})" if finding.place else ""
            context.findings.problem(path, f"in {what}{line}: {finding.text}")
        tree = source.tree
    if not isinstance(tree, dict) or "openapi" not in tree:
        if isinstance(tree, dict) and "swagger" in tree:
            context.findings.problem(path, f"{what} is a Swagger 2 document; convert it to OpenAPI 3")
        else:
            context.findings.problem(path, f"{what} is no OpenAPI document; give one that begins with `openapi: 3.0.3`")
        return None
    version = str(tree["openapi"])  # YAML reads an unquoted 3.1 as a number
    if not version.startswith("3."):
        context.findings.problem(path, f"{what} says OpenAPI {quoted(version)}; convert it to 3.0 or 3.1")
        return None
    if not isinstance(tree.get("paths"), dict):
        context.findings.problem(path, f"{what} has no `paths`; an OpenAPI document without operations has no tools, so add them")
        return None
    try:
        return msgspec.json.encode({**tree, "openapi": version}).decode()
    except RecursionError:
        context.findings.problem(path, f"{what} is nested too deep; flatten it")
        return None


def _url(text: str) -> str:
    if not text.startswith("/"):
        schema_host(text)  # first, because it does not quote a password
    if not text.isascii() or not text.isprintable() or " " in text or "#" in text:
        raise ValueError(f"{quoted(text)} holds a blank, #, or a character outside ASCII; percent-encode it or remove it")
    return text


def schema_host(url: str) -> Endpoint:
    """The host of a document's URL; ValueError when it has none."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in ("http", "https"):
        raise ValueError(f"{quoted(url)} is no URL; write it like https://api.example.com/openapi.json, or /openapi.json")
    where = re.split("[/?]", rest, maxsplit=1)[0]
    if "@" in where:
        raise ValueError("the URL holds a user name; fetch the document yourself and give a `file`")
    return values.host_endpoint(f"{scheme}://{where}")
