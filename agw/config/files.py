"""Files that a configuration names: certificates, keys, OpenAPI documents.

Rules kept here:
- a relative name is looked for in the working directory, as agentgateway does, and then beside the configuration file;
- a file is read once per load, whatever refers to it, and has a limit;
- what was read is noted with its state at that moment (`Context.reads`), for whoever watches it;
- what cannot be read is a problem at the place of the name, and says where it was looked for.
"""

from __future__ import annotations

import os
import stat

from agw.config.check import Context
from agw.config.problem import Path
from agw.config.values import quoted
from agw.runtime.stamp import stamp_of

MAX_FILE_BYTES = 16 * 1024 * 1024


def file_name(name: str) -> str:
    """A file name in a message, not shortened: whoever has to mend it needs all of it."""
    return quoted(name, 1024)


def read_text(context: Context, name: str, path: Path, missing: str, binary: str) -> str | None:
    """The text of a file; None after a problem, which ends with what to do: `missing`, or `binary` when it is no text."""
    known = context.files.get(name)
    if known is not None:
        return known
    if not name or "\0" in name:
        context.findings.problem(path, f"{quoted(name)} is no file name; {missing}")
        return None
    places = [name]
    if not os.path.isabs(name) and context.base not in ("", "."):
        places.append(os.path.normpath(os.path.join(context.base, name)))
    reason = ""
    for place in places:
        try:
            text = _read(context, place)
        except FileNotFoundError:
            reason = reason or os.strerror(2)
        except UnicodeDecodeError:
            reason, missing = "it is not UTF-8 text", binary
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "it cannot be read"
        except ValueError as error:
            reason = str(error)
        else:
            context.files[name] = text
            return text
    also = f" (nor {file_name(places[1])})" if len(places) > 1 else ""
    context.findings.problem(path, f"cannot read {file_name(name)}{also}: {reason}; {missing}")
    return None


def _read(context: Context, place: str) -> str:
    # Asked before it is opened: opening a pipe nobody writes to would wait forever.
    if not stat.S_ISREG(os.stat(place).st_mode):
        raise ValueError("it is no regular file")
    with open(place, "rb") as stream:
        context.reads[os.path.abspath(place)] = stamp_of(os.fstat(stream.fileno()))
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    return data.decode("utf-8-sig")
