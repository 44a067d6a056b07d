from __future__ import annotations

import logging
import random

import pytest

from tests.fuzz.virtio.hostile import DEVICES, HostileDriver


@pytest.mark.parametrize("kind", DEVICES)
@pytest.mark.parametrize("seed", [1, 2])
def test_device_survives_a_hostile_driver(kind: str, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="pyhyve")
    driver = HostileDriver(kind, random.Random(seed))
    for _ in range(500):
        driver.run_case()
    driver.check_memory()
    assert driver.broken
    driver.close()
