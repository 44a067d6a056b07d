from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

import pytest

from tests.fuzz.rpc.hostile import run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def seed() -> int:
    return random.SystemRandom().randrange(1 << 31)


def test_hostile_frames_do_the_daemon_no_harm(
    tmp_path: Path, seed: int, record_property: pytest.RecordProperty, caplog: pytest.LogCaptureFixture
) -> None:
    record_property("seed", seed)
    caplog.set_level(logging.CRITICAL)
    try:
        outcome = asyncio.run(run(tmp_path, random.Random(seed), 20_000))
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    assert outcome.frames == 20_000
    assert outcome.answered_bytes > 0
