"""References to the outside inside text values: `${env:X}`, `${file:P}`, `${cred:N}`, `$X` and `${X}`.

Rules kept here:
- expansion happens after parsing, in values only, once: what a reference brings in is never parsed or expanded;
- values that are expressions or regular expressions, where `$` has a meaning of its own, are left alone;
- an unset variable or unreadable file is a problem at the place of the value, not an empty text;
- where values came from is remembered by path, so that a dump (`agw.config.redact`) can leave secrets out;
- a value that was nothing but one reference may become a number or truth value where the model wants one.

`$$` is a literal `$`, and so is a `$` that no name or brace follows.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from agw.config.document import resolve_scalar
from agw.config.problem import Findings, Path
from agw.config.values import quoted
from agw.runtime.stamp import Stamp, stamp_of

MAX_FILE_BYTES = 1024 * 1024

# Keys below which values are regular expressions or expressions of agentgateway's language.
_OPAQUE = frozenset(
    (
        "regex",
        "bodyExpression",
        "condition",
        "conditional",
        "expression",
        "filter",
        "precondition",
        "rules",
        "transformations",
        "unhealthyExpression",
        "when",
    )
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFERENCE = re.compile(r"\$(?:\$|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|\{(?P<inner>[^{}]*)(?P<close>\}?))")
# Origins whose values are secrets whatever the key is called.
SECRET_ORIGINS = frozenset(("cred", "file"))


class Interpolation:
    """One pass over a document.

    `origins` maps the path of every expanded value to the kinds of reference in it, `lone` lists the values that were
    one reference and nothing else, `failed` those whose reference could not be resolved.
    """

    def __init__(self, environ: Mapping[str, str], base: str) -> None:
        self.environ = environ
        self.base = base
        self.findings = Findings()
        self.failed: set[Path] = set()
        self.origins: dict[Path, frozenset[str]] = {}
        self.lone: list[Path] = []
        self.reads: dict[str, Stamp] = {}

    def expand(self, tree: Any) -> Any:
        """The document with its references replaced; the given tree is changed where it is a container."""
        return self._visit(tree, ())

    def _visit(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self._expand_text(value, path) if "$" in value else value
        if isinstance(value, dict):
            for key, item in value.items():
                if key in _OPAQUE or (key == "headers" and path and path[-1] == "directResponse"):
                    continue
                if key == "schema" and isinstance(item, str) and not _REFERENCE.fullmatch(item):
                    continue  # the text of an OpenAPI document, where `$ref` is a key
                if isinstance(item, str):
                    if "$" in item:
                        value[key] = self._expand_text(item, (*path, key))
                elif isinstance(item, dict | list):
                    self._visit(item, (*path, key))
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, str | dict | list):
                    value[index] = self._visit(item, (*path, index))
        return value

    def _fail(self, path: Path, text: str) -> None:
        self.failed.add(path)
        self.findings.problem(path, text)

    def _expand_text(self, text: str, path: Path) -> str:
        kinds: set[str] = set()

        def replace(match: re.Match[str]) -> str:
            if match[0] == "$$":
                return "$"
            if match["name"] is not None:
                kinds.add("env")
                return self._variable(match["name"], None, path)
            if not match["close"]:
                self._fail(path, f"{quoted(match[0])} is not closed; add }} or write $$ for a plain $")
                return ""
            return self._braced(match["inner"], path, kinds)

        lone = _REFERENCE.fullmatch(text)
        result = _REFERENCE.sub(replace, text)
        if kinds:
            self.origins[path] = frozenset(kinds)
            if lone is not None:
                self.lone.append(path)
        return result

    def _braced(self, inner: str, path: Path, kinds: set[str]) -> str:
        prefix, colon, rest = inner.partition(":")
        if not colon or rest.startswith("-"):
            kinds.add("env")
            return self._variable(prefix, rest[1:] if colon else None, path)
        if prefix == "env":
            kinds.add("env")
            name, has_default, default = rest.partition(":-")
            return self._variable(name, default if has_default else None, path)
        if prefix == "file":
            kinds.add("file")
            return self._file(os.path.join(self.base, rest), path)
        if prefix == "cred":
            kinds.add("cred")
            directory = self.environ.get("CREDENTIALS_DIRECTORY", "")
            if not rest or "/" in rest or rest in (".", ".."):
                self._fail(path, f"{quoted(rest)} is no credential name; write it like ${{cred:api-key}}")
            elif not directory:
                self._fail(path, "CREDENTIALS_DIRECTORY is not set; run agw as a unit with LoadCredential=")
            else:
                return self._file(os.path.join(directory, rest), path)
            return ""
        self._fail(
            path,
            f"{quoted('${' + inner + '}')} is no reference; use ${{env:NAME}}, ${{file:PATH}} or "
            "${cred:NAME}, or write $$ for a plain $",
        )
        return ""

    def _variable(self, name: str, default: str | None, path: Path) -> str:
        if not _NAME.fullmatch(name):
            self._fail(path, f"{quoted(name)} is no variable name; write $$ for a plain $")
            return ""
        value = self.environ.get(name)
        if value:
            return value
        if default is not None:
            return default
        if value is None:
            self._fail(path, f"the environment variable {name} is not set; set it, or write ${{env:{name}:-default}}")
        return ""

    def _file(self, file: str, path: Path) -> str:
        try:
            with open(file, "rb") as stream:
                self.reads[os.path.abspath(file)] = stamp_of(os.fstat(stream.fileno()))
                data = stream.read(MAX_FILE_BYTES + 1)
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("it is larger than 1 MiB")
            return data.decode("utf-8").removesuffix("\n").removesuffix("\r")
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        except UnicodeDecodeError:
            reason = "it is not UTF-8"
        except ValueError as error:
            reason = str(error)
        self._fail(path, f"cannot read {quoted(file)}: {reason}; mend the path or the file")
        return ""


def convert_lone(tree: Any, lone: list[Path], model: type[Any]) -> None:
    """Give values that were one reference the type the model wants: `port: ${env:PORT}` becomes a number."""
    for path in lone:
        holder = tree
        for part in path[:-1]:
            holder = holder[part]
        value = resolve_scalar(holder[path[-1]]) if path else None
        if value is None or isinstance(value, str):
            continue
        # Imported here: most files have no such value, and the walker costs more than the rest of this module.
        from agw.config.walk import accepts, type_at

        kind = type_at(model, path)
        if accepts(kind, value):
            holder[path[-1]] = value
