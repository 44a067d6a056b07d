"""A small share of the monitor's fuzz run, with a fresh seed each time."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.qmp.bench import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.timeout(300)
def test_damaged_requests_are_answered(tmp_path: Path) -> None:
    assert run(1500, secrets.randbits(32), tmp_path) == 1500
