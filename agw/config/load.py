"""Bytes to a plan, or to every problem they have.

The steps: read YAML, expand references, convert to the model, check and build the plan. A good file takes the short
way: one `msgspec.convert`, and no place is ever computed. A file with structural problems is walked in full, and what
is left of it is checked as well, so that one run lists everything.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Mapping

import msgspec

from agw.config.check import Context
from agw.config.document import MAX_BYTES, DocumentError, Source, read
from agw.config.interpolate import Interpolation, convert_lone
from agw.config.model import Config
from agw.config.normalise import build_plan
from agw.config.problem import ConfigErrors, Finding, Findings, Problem, one_line, path_text
from agw.config.redact import REDACTED, Document
from agw.runtime.plan import Plan
from agw.runtime.stamp import Stamp


class Loaded(msgspec.Struct, frozen=True):
    """A configuration that may be used: its plan, what looks wrong in it, and the document it came from.

    `reads` are the other files it was made of, by path, and their state when they were read.
    """

    plan: Plan
    warnings: list[Problem]
    document: Document
    reads: dict[str, Stamp] = {}


def load_file(path: str | os.PathLike[str], environ: Mapping[str, str]) -> Loaded:
    """Load a configuration file. Raises ConfigErrors with every problem."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as stream:
            # One octet past the limit is enough for the size check to refuse it.
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigErrors([Problem(name, 0, 0, "(file)", f"cannot be read: {reason}")]) from None
    return load_bytes(data, name, environ)


def load_default(demo_socket: str, environ: Mapping[str, str]) -> Loaded:
    """The configuration without a file: an MCP demo server behind 127.0.0.1:3000.

    `demo_socket` is the path of the demo server's unix socket, or `@name` in the abstract namespace.
    """
    with open(os.path.join(os.path.dirname(__file__), "default.yaml"), "rb") as stream:
        data = stream.read()
    loaded = load_bytes(data, "default.yaml", {**environ, "AGW_DEMO_SOCKET": demo_socket})
    return msgspec.structs.replace(loaded, plan=msgspec.structs.replace(loaded.plan, demo=True))


def load_bytes(data: bytes, filename: str, environ: Mapping[str, str]) -> Loaded:
    """Load a configuration from memory; `filename` is for messages and for relative names of other files."""
    # A large file makes a million objects and no garbage; collecting while they are made doubles the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _load(data, filename, environ)
    finally:
        if was_enabled:
            gc.enable()


def _load(data: bytes, filename: str, environ: Mapping[str, str]) -> Loaded:
    findings = Findings()
    try:
        source = read(data, filename)
    except DocumentError as error:
        raise ConfigErrors(_placed([error.finding], None, filename)) from None
    findings.problems += source.findings
    tree = {} if source.tree is None else source.tree
    base = os.path.dirname(filename)
    interpolation = Interpolation(environ, base)
    if b"$" in data:
        tree = interpolation.expand(tree)
        convert_lone(tree, interpolation.lone, Config)
    document = Document(tree if isinstance(tree, dict) else {}, interpolation.origins)
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        from agw.config.walk import walk  # a good file does not need the walker

        structural = Findings()
        pruned = walk(tree, Config, structural)
        if not structural.problems:
            # The walker and msgspec disagree, which is a bug here; refusing in msgspec's words is right either way.
            raise ConfigErrors([Problem(filename, 1, 1, path_text(()), str(error))]) from None
        context = Context(Findings(), environ, pruned, base)
        build_plan(context, msgspec.convert(pruned.tree, Config))
        meaning = [_translated(item, pruned.original(item.path)) for item in context.findings.problems]
        problems = [
            *findings.problems,
            *(item for item in interpolation.findings.problems if not pruned.is_inside_unknown(item.path)),
            *_about_values(structural.problems + meaning, interpolation, document),
        ]
        raise ConfigErrors(_placed(problems, source, filename)) from None
    context = Context(Findings(), environ, None, base)
    plan = build_plan(context, config)
    problems = findings.problems + interpolation.findings.problems
    problems += _about_values(context.findings.problems, interpolation, document)
    if problems:
        raise ConfigErrors(_placed(problems, source, filename))
    return Loaded(plan, _placed(context.findings.warnings, source, filename), document, {**interpolation.reads, **context.reads})


def _about_values(findings: list[Finding], interpolation: Interpolation, document: Document) -> list[Finding]:
    """The findings fit to be shown: none about values whose reference failed, and none that quotes a secret.

    Even a part of a secret is one, and a message may hold any part of it: a host, a scheme, a number.
    """
    out: list[Finding] = []
    for item in findings:
        if document.is_secret(item.path):
            text = f"the value from ${{file:}} or ${{cred:}} ({REDACTED}) is not valid here; check what it holds"
            item = Finding(item.path, text, item.at_key, item.place)
        if item.path not in interpolation.failed:
            out.append(item)
    return out


def _translated(finding: Finding, path: tuple[str | int, ...]) -> Finding:
    return Finding(path, finding.text, finding.at_key, finding.place)


def _placed(findings: list[Finding], source: Source | None, filename: str) -> list[Problem]:
    """The findings with their places, in the order of the file, each once."""
    problems: dict[Problem, None] = {}
    for finding in findings:
        place = finding.place
        if place is None:
            place = source.locate(finding.path, finding.at_key) if source is not None else (1, 1)
        problems[Problem(filename, *place, one_line(path_text(finding.path)), one_line(finding.text))] = None
    return sorted(problems, key=lambda problem: (problem.line, problem.column, problem.path))
