"""What `normalised_path` promises, over any octets, and a second implementation that works segment by segment."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agw._fast.http1 import normalised_path

PROFILE = settings(max_examples=400, deadline=None, derandomize=True, database=None)

UNRESERVED = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
PIECES = [b"/", b"/", b".", b"..", b"a", b"B", b"~", b"%2e", b"%2E", b"%41", b"%7e", b"%c3%A9", b"%20", b"%", b"%2f", b"%5C", b"%00", b"%zz", b"\\", b"\xff"]
PATHS = st.lists(st.sampled_from(PIECES), max_size=14).map(lambda pieces: b"/" + b"".join(pieces)) | st.binary(max_size=30)


def decoded(segment: bytes) -> bytes | None:
    """One segment with what is unreserved decoded and other escapes in upper case; None when it must be refused."""
    out = b""
    while segment:
        if segment[:1] == b"\\":
            return None
        if segment[:1] != b"%":
            out, segment = out + segment[:1], segment[1:]
            continue
        if not re.match(rb"%[0-9A-Fa-f]{2}", segment):
            return None
        octet, segment = bytes([int(segment[1:3], 16)]), segment[3:]
        if octet < b" " or octet in b"\x7f/\\":
            return None
        out += octet if octet in UNRESERVED else b"%%%02X" % octet[0]
    return out


def model(path: bytes) -> bytes | None:
    if path[:1] != b"/":
        return None
    out: list[bytes] = []
    directory = False
    for raw in path.split(b"/")[1:]:
        segment = decoded(raw)
        if segment is None or (segment == b".." and not out):
            return None
        directory = segment in (b"", b".", b"..")
        if segment == b"..":
            out.pop()
        elif not directory:
            out.append(segment)
    return b"/" + b"/".join(out) + (b"/" if directory and out else b"")


@PROFILE
@given(PATHS)
@example(b"/a/%2e%2E/..")
@example(b"/a/b/..%2f")
@example(b"//")
@example(b"/.")
@example(b"")
def test_it_is_the_model(path: bytes) -> None:
    assert normalised_path(path) == model(path)


@PROFILE
@given(PATHS)
def test_its_promises(path: bytes) -> None:
    form = normalised_path(path)
    if form is None:
        return
    assert form.startswith(b"/")
    assert len(form) <= len(path)
    assert normalised_path(form) == form
    assert b"//" not in form
    assert not {b".", b".."} & set(form.split(b"/"))
    for escape in re.findall(rb"%(..)", form):
        assert escape == escape.upper()
        assert bytes([int(escape, 16)]) not in UNRESERVED


@PROFILE
@given(PATHS, st.sampled_from([b"%2f", b"%2F", b"%5c", b"%5C", b"%00", b"%0a", b"%1F", b"%7f", b"\\", b"%", b"%4", b"%g0", b"%0g", b"% 0"]), PATHS)
def test_what_is_refused_is_refused_anywhere(before: bytes, bad: bytes, after: bytes) -> None:
    assert normalised_path(b"/" + before + bad + b"/" + after) is None
    assert normalised_path(b"/" + before + bad) is None


@pytest.mark.parametrize("path", [b"/..", b"/../", b"/a/../..", b"/./..", b"//..", b"/%2e%2e", b"/a/%2E./../b", b"/a/b/../../../c"])
def test_nothing_above_the_root(path: bytes) -> None:
    assert normalised_path(path) is None


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (b"/", b"/"),
        (b"/a/./b/../c", b"/a/c"),
        (b"/a/..", b"/"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/%7Euser/%c3%a9", b"/~user/%C3%A9"),
        (b"/...", b"/..."),
        (b"/a..b/.c", b"/a..b/.c"),
        (b"/%25%32%65", b"/%252e"),
        (b"/a;b=1/@:&=+$,", b"/a;b=1/@:&=+$,"),
    ],
)
def test_examples(path: bytes, form: bytes) -> None:
    assert normalised_path(path) == form
