from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

try:
    from hypothesis import HealthCheck, settings
except ModuleNotFoundError:  # in the nested machine, whose tests need none
    pass
else:
    # How long an example takes says nothing where others are at work too.
    settings.register_profile("busy-host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy-host")

if TYPE_CHECKING:
    from pathlib import Path

os.environ["PYHYVE_SYSTEM_CACHE"] = ""
"""What a test's cache holds is what the test, or its host's user, put there."""


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pyhyve"
