"""The operator log, read from the other end of a real pipe; and what redaction hides."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest

from agw.telemetry import logs
from agw.telemetry.redact import redact, redact_text


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    """(read end, write end); logging is as before afterwards."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    root, ours = logging.getLogger(), logging.getLogger("agw")
    before = (root.handlers[:], root.level, ours.level)
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)
    root.handlers[:], root_level, our_level = before
    root.setLevel(root_level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


def lines(reader: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in os.read(reader, 1 << 20).decode().splitlines()]


def test_a_record_is_one_json_line_with_its_fields(pipe: tuple[int, int]) -> None:
    logs.start("info", fd=pipe[1])
    logging.getLogger("agw.admin").info("worker %d is back", 3, extra={"slot": 3, "path": "/x", "why": None})
    (line,) = lines(pipe[0])
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "agw.admin",
        "msg": "worker 3 is back",
        "slot": 3,
        "path": "/x",
        "why": None,
    }


def test_no_control_character_reaches_the_output(pipe: tuple[int, int]) -> None:
    logs.start(fd=pipe[1])
    hostile = "a\nb\rc\x00d\x1b[31me\x7ff\x9bg\u2028h\u202ei\ud800é"
    logging.getLogger("agw").warning(hostile, extra={"path": hostile})
    raw = os.read(pipe[0], 1 << 16)
    text = raw.decode()
    assert raw.count(b"\n") == 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u2028\u202e" for char in text[:-1])
    assert json.loads(text)["msg"] == hostile
    assert "é" in text


def test_an_exception_has_its_name_and_trace(pipe: tuple[int, int]) -> None:
    logs.start(fd=pipe[1])
    try:
        raise KeyError("x")
    except KeyError:
        logging.getLogger("agw").exception("failed")
    (line,) = lines(pipe[0])
    assert line["error"] == "KeyError"
    assert "Traceback" in line["trace"]


def test_secrets_are_hidden(pipe: tuple[int, int]) -> None:
    logs.start(fd=pipe[1])
    logging.getLogger("agw").error(
        "GET https://me:pw@host/?api_key=k1 with Bearer abcdef123456",
        extra={"authorization": "abc", "session_id": "s1"},
    )
    (line,) = lines(pipe[0])
    assert not {"pw@", "k1", "abcdef123456"} & set(line["msg"].split())
    assert "pw" not in line["msg"]
    assert "k1" not in line["msg"]
    assert "abcdef123456" not in line["msg"]
    assert (line["authorization"], line["session_id"]) == ("<redacted>", "<redacted>")


def test_the_level_changes_at_run_time_and_back(pipe: tuple[int, int]) -> None:
    log = logs.start("warn", fd=pipe[1])
    logger = logging.getLogger("agw.test")
    logger.info("1")
    log.set_level("DEBUG")
    logger.debug("2")
    logging.getLogger("other").info("3")
    assert log.level == "debug"
    log.reset()
    logger.info("4")
    logger.warning("5")
    assert [line["msg"] for line in lines(pipe[0])] == ["2", "5"]
    with pytest.raises(ValueError, match="loud"):
        log.set_level("loud")
    assert log.level == "warning"


def test_lines_have_a_priority_only_if_the_journal_reads_them(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstat(pipe[1])
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    logs.start("debug", fd=pipe[1])
    logger = logging.getLogger("agw")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "x")
    written = os.read(pipe[0], 1 << 16).splitlines()
    assert [line[:3] for line in written] == [b"<7>", b"<6>", b"<4>", b"<3>"]
    json.loads(written[0][3:])
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    logs.start("info", fd=pipe[1])
    logger.info("x")
    assert os.read(pipe[0], 1 << 16).startswith(b"{")


def test_what_cannot_be_written_is_counted_and_stops_nobody(pipe: tuple[int, int]) -> None:
    reader, writer = os.pipe()
    log = logs.start(fd=writer)
    os.close(reader)
    logging.getLogger("agw").warning("nobody reads")
    os.close(writer)
    assert log.lost == 1


def test_wrong_arguments_and_colliding_names_are_logged_all_the_same(pipe: tuple[int, int]) -> None:
    logs.start(fd=pipe[1])
    logging.getLogger("agw").warning("%d of %d", 1, extra={"level": "mine", "object": object})
    (line,) = lines(pipe[0])
    assert line["msg"].startswith("%d of %d")
    assert (line["level"], line["level_"]) == ("warning", "mine")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"password": "x", "user": "u"}, {"password": "<redacted>", "user": "u"}),
        ({"clientSecret": ["a", "b"]}, {"clientSecret": ["<redacted>", "<redacted>"]}),
        ({"apiKey": {"keys": [{"key": "k", "name": "n"}]}}, {"apiKey": {"keys": [{"key": "<redacted>", "name": "n"}]}}),
        ({"authorization": {"rules": ["a"]}}, {"authorization": {"rules": ["a"]}}),
        ({"token": True, "secret": None, "pin-token": 5}, {"token": True, "secret": None, "pin-token": "<redacted>"}),
        ([("Authorization", "Bearer x")], [["Authorization", "<redacted>"]]),
        ({"name": "Cookie", "value": "a=b"}, {"name": "Cookie", "value": "<redacted>"}),
        ({"maxTokens": 5, "tokenEndpoint": "https://a/b"}, {"maxTokens": 5, "tokenEndpoint": "https://a/b"}),
        (7, 7),
    ],
)
def test_secret_members_are_hidden_and_the_shape_stays(value: object, shown: object) -> None:
    assert redact(value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgres://u:p@db/x", "postgres://<redacted>@db/x"),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer <redacted>"),
        ("/cb?code=abc&state=1", "/cb?code=<redacted>&state=1"),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----", "<redacted>"),
        ("nothing here: a@b", "nothing here: a@b"),
    ],
)
def test_credentials_in_text_are_hidden(text: str, shown: str) -> None:
    assert redact_text(text) == shown
