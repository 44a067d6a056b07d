"""The cache of compiled code: kept, checked, done without."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pyhyve.cpu.engine.library import Library, load_or_build

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SAMPLE = Library(b"image", b"templates", b"code", b"relocations", {"run": 16}, (0, 32))


class Builder:
    """Counts builds."""

    def __init__(self) -> None:
        self.builds = 0

    def __call__(self, progress: Callable[[int, int], None]) -> Library:
        self.builds += 1
        progress(1, 1)
        return SAMPLE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "pyhyve" / "engine"


def test_second_load_comes_from_disk(cache: Path) -> None:
    build = Builder()
    assert load_or_build("test", build) == SAMPLE
    assert load_or_build("test", build) == SAMPLE
    assert build.builds == 1
    assert [p.suffix for p in cache.iterdir()] == [".bin"]


def test_of_many_that_start_at_once_one_builds(cache: Path) -> None:
    builds: list[int] = []

    def build(_: Callable[[int, int], None]) -> Library:
        builds.append(1)
        time.sleep(0.1)
        return SAMPLE

    with ThreadPoolExecutor(5) as threads:
        assert list(threads.map(lambda _: load_or_build("test", build), range(5))) == [SAMPLE] * 5
    assert len(builds) == 1
    assert [p.suffix for p in cache.iterdir()] == [".bin"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "garbage"])
def test_damaged_file_is_built_anew_with_a_warning(cache: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    build = Builder()
    load_or_build("test", build)
    (path,) = cache.iterdir()
    data = path.read_bytes()
    path.write_bytes(
        {"truncate": data[:-3], "flip": data[:-1] + bytes([data[-1] ^ 1]), "empty": b"", "garbage": b"x" * 99}[damage]
    )
    with caplog.at_level(logging.WARNING):
        assert load_or_build("test", build) == SAMPLE
    assert build.builds == 2
    assert "damaged" in caplog.text
    assert load_or_build("test", build) == SAMPLE
    assert build.builds == 2


def test_deleted_file_is_built_anew_quietly(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    load_or_build("test", build)
    next(cache.iterdir()).unlink()
    assert load_or_build("test", build) == SAMPLE
    assert build.builds == 2
    assert not caplog.text


def test_cache_that_cannot_be_made_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "file"
    blocker.write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocker))
    build = Builder()
    with caplog.at_level(logging.WARNING):
        assert load_or_build("test", build) == SAMPLE
    assert "cache directory" in caplog.text


def test_older_versions_are_removed_when_they_are_many(cache: Path) -> None:
    cache.mkdir(parents=True)
    for number in range(5):
        (cache / f"test-{number}.bin").write_bytes(b"old")
        os.utime(cache / f"test-{number}.bin", (number, number))
    other = cache / "other-0123.bin"
    other.write_bytes(b"another instruction set")
    load_or_build("test", Builder())
    assert [(cache / f"test-{number}.bin").exists() for number in range(5)] == [False, False, True, True, True]
    assert other.exists()


def test_host_builds_once_for_all_its_users(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYHYVE_SYSTEM_CACHE", str(tmp_path / "system"))
    build = Builder()
    assert load_or_build("test", build) == SAMPLE
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert load_or_build("test", build) == SAMPLE
    assert build.builds == 1
    (found,) = (tmp_path / "system" / "engine").iterdir()
    found.write_bytes(b"damaged")
    assert load_or_build("test", build) == SAMPLE
    assert build.builds == 2
