"""When a changed file counts."""

from __future__ import annotations

import os
from pathlib import Path

from agw.config import load_bytes
from agw.runtime.stamp import stamp_at
from agw.supervisor.watch import WatchedFiles


def watch(*paths: Path) -> WatchedFiles:
    return WatchedFiles({str(path): found for path in paths if (found := stamp_at(str(path))) is not None})


def test_a_change_counts_at_the_second_look_and_once(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_text("a")
    key.write_text("a")
    files = watch(cert, key)
    assert files.changed() == []
    cert.write_text("bb")
    assert [files.changed(), files.changed(), files.changed()] == [[], [str(cert)], []]


def test_what_is_being_written_is_left_alone(tmp_path: Path) -> None:
    cert = tmp_path / "cert"
    cert.write_text("a")
    files = watch(cert)
    for size in range(2, 6):
        cert.write_text("b" * size)
        assert files.changed() == []
    assert files.changed() == [str(cert)]


def test_a_file_that_is_gone_is_waited_for(tmp_path: Path) -> None:
    cert, new = tmp_path / "cert", tmp_path / "new"
    cert.write_text("a")
    files = watch(cert)
    cert.unlink()
    assert [files.changed(), files.changed()] == [[], []]
    new.write_text("a")
    os.rename(new, cert)
    assert [files.changed(), files.changed()] == [[], [str(cert)]]


def test_what_the_last_load_read_is_what_is_compared(tmp_path: Path) -> None:
    cert = tmp_path / "cert"
    cert.write_text("a")
    files = watch(cert)
    cert.write_text("bb")
    assert files.changed() == []
    found = stamp_at(str(cert))
    assert found is not None
    files.loaded({str(cert): found})
    assert [files.changed(), files.changed()] == [[], []]


def test_a_load_says_which_files_it_read(tmp_path: Path) -> None:
    secret, users = tmp_path / "secret", tmp_path / "users"
    secret.write_text("s3cret\n")
    users.write_text("a:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=\n")
    text = f"""
gateways: {{default: {{port: 3000}}}}
routes:
- backends: [{{host: "a:1", policies: {{backendAuth: {{key: "${{file:{secret}}}"}}}}}}]
  policies: {{basicAuth: {{htpasswd: {{file: "{users}"}}}}}}
"""
    assert load_bytes(text.encode(), "f.yaml", {}).reads == {str(path): stamp_at(str(path)) for path in (secret, users)}
