"""Fixtures for tests that run the real gateway. The parts are in tests/kits: gateway, backend, load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.kits.backend import Backend
from tests.kits.gateway import Gateway


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A real HTTP backend; see tests/kits/backend.py for its paths."""
    with Backend() as running:
        yield running


Start = Callable[..., Gateway]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(config, workers=2, ...)` runs a gateway until the end of the test, which asserts that it stops cleanly.

    The files of several gateways of one test lie in directories of their own below `tmp_path`.
    """
    with ExitStack() as stack:
        count = 0

        def begin(config: dict[str, Any] | str | None, **options: Any) -> Gateway:
            nonlocal count
            count += 1
            directory = tmp_path / f"gateway{count}"
            directory.mkdir()
            return stack.enter_context(Gateway(config, directory=directory, **options))

        yield begin
