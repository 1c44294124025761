"""The operator log: one JSON object per line on standard error, from stdlib logging.

A line is `{"ts", "level", "logger", "msg", ...extra fields}`, and `error`, `trace` for an exception. It is written with
one system call, so lines of several processes on one pipe do not mix up to PIPE_BUF (4 KiB on Linux).

Rules (reliability rule 30): no raw control character ever reaches the output, so a terminal or a line reader cannot be
fooled; field values pass through `agw.telemetry.redact`; a log that cannot be written never stops the caller, the
number of lost lines is kept. Under systemd a line begins with its priority, `<6>`; the journal takes that off.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from agw.telemetry.redact import HIDDEN, is_secret_name, redact, redact_text

LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_ALIASES: Final = {"warn": "warning"}
_MAX_TEXT: Final = 16 * 1024  # characters of one message or traceback

# Fields every record has; what is left over came through `extra=`.
_STANDARD_FIELDS: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# JSON escapes C0 itself; these are legal in JSON and still move cursors or break lines.
_CONTROL_CODES: Final = (*range(0x7F, 0xA0), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_CONTROL: Final = {code: f"\\u{code:04x}" for code in _CONTROL_CODES}


class JsonFormatter(logging.Formatter):
    """Records to single JSON lines without the newline. Names in `extra` that collide with ours get a `_` appended."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": _bounded(redact_text(_message(record))),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD_FIELDS:
                hidden = is_secret_name(name) and value is not None
                line[name + "_" if name in line else name] = HIDDEN if hidden else redact(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = _bounded(redact_text(self.formatException(record.exc_info)))
        return json.dumps(line, ensure_ascii=False, default=str, separators=(",", ":")).translate(_CONTROL)


class StderrHandler(logging.Handler):
    """Writes to a file descriptor (2 by default) without buffering. `lost` counts lines that could not be written."""

    def __init__(self, fd: int = 2) -> None:
        super().__init__()
        self._fd = fd
        self._journal = _is_journal(fd)
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            # A lone surrogate becomes \udcxx, which is how JSON spells it anyway.
            line = self.format(record).encode("utf-8", "backslashreplace") + b"\n"
            if self._journal:
                line = b"<%d>" % _priority(record.levelno) + line
            view = memoryview(line)
            while view:
                view = view[os.write(self._fd, view) :]
        except (OSError, ValueError, TypeError, RecursionError):
            self.lost += 1


class OperatorLog:
    """The log of this process, and the switch for its level; made once by `start`."""

    def __init__(self, handler: StderrHandler, level: str) -> None:
        self._handler = handler
        self._configured = _canonical(level)
        self._level = self._configured

    @property
    def level(self) -> str:
        """The level in force: debug, info, warning or error."""
        return self._level

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._handler.lost

    def set_level(self, level: str) -> None:
        """Change the level of agw's own loggers; others keep to warnings. Errors: ValueError for an unknown name."""
        self._level = _canonical(level)
        logging.getLogger("agw").setLevel(LEVELS[self._level])

    def reset(self) -> None:
        """Back to the level given to `start`."""
        self.set_level(self._configured)


def start(level: str = "info", *, fd: int = 2) -> OperatorLog:
    """Send all logging of this process to `fd` as JSON lines. Replaces handlers installed before.

    Errors: ValueError for an unknown level; nothing is changed then.
    """
    handler = StderrHandler(fd)
    handler.setFormatter(JsonFormatter())
    log = OperatorLog(handler, level)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    log.reset()
    return log


def _canonical(level: str) -> str:
    name = level.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in LEVELS:
        raise ValueError(f"unknown log level {level!r}")
    return name


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments; a call with the wrong arguments is logged rather than lost."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"


def _bounded(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "... (cut)"


def _priority(level: int) -> int:
    """syslog(3) priority of a logging level."""
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def _is_journal(fd: int) -> bool:
    """True if `fd` is the stream systemd connected to the journal (systemd.exec(5), JOURNAL_STREAM).

    The variable is inherited by children whose output goes elsewhere, so device and inode are compared.
    """
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
