from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyhyve.support.cache import cache_directory, cache_root, new_directory, read_shared, share, system_cache
from pyhyve.support.errors import UserError
from pyhyve.support.files import write_atomically


def test_cache_root_follows_xdg_cache_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_root() == Path("/somewhere/pyhyve")


@pytest.mark.parametrize("value", ["", "relative/path"])
def test_cache_root_ignores_what_is_not_an_absolute_path(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root() == Path("/home/someone/.cache/pyhyve")


def test_cache_directory_is_made_once_and_again(empty_cache: Path) -> None:
    assert cache_directory("guests") == empty_cache / "guests"
    assert cache_directory("guests").is_dir()


def test_cache_directory_that_cannot_be_made_says_what_to_do(empty_cache: Path) -> None:
    empty_cache.parent.mkdir()
    empty_cache.write_text("a file where the directory should be")
    with pytest.raises(UserError, match="set XDG_CACHE_HOME"):
        cache_directory("guests")


def test_write_atomically_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [target]


def test_write_atomically_that_fails_keeps_the_old_content(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with pytest.raises(TypeError):
        write_atomically(target, "not bytes")  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_new_directory_is_removed_unless_renamed_away(tmp_path: Path) -> None:
    with new_directory(tmp_path) as directory:
        (directory / "file").touch()
    assert not directory.exists()
    with new_directory(tmp_path) as directory:
        directory.rename(tmp_path / "kept")
    assert (tmp_path / "kept").is_dir()


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYHYVE_SYSTEM_CACHE", str(tmp_path / "system"))
    return tmp_path / "system"


def test_system_cache_can_be_moved_and_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYHYVE_SYSTEM_CACHE", raising=False)
    assert system_cache() == Path("/var/cache/pyhyve")
    monkeypatch.setenv("PYHYVE_SYSTEM_CACHE", "/else/where")
    assert system_cache() == Path("/else/where")
    monkeypatch.setenv("PYHYVE_SYSTEM_CACHE", "")
    assert system_cache() is None
    assert read_shared("engine", "x86-1.bin") is None


def test_what_is_shared_can_be_read_by_everybody(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        share("engine", "x86-1.bin", b"code")
    finally:
        os.umask(before)
    assert read_shared("engine", "x86-1.bin") == b"code"
    assert (shared / "engine" / "x86-1.bin").stat().st_mode & 0o777 == 0o644
    assert read_shared("engine", "x86-2.bin") is None
    assert [path.name for path in (shared / "engine").iterdir()] == ["x86-1.bin"]


def test_shared_directories_can_be_entered_by_everybody(shared: Path) -> None:
    before = os.umask(0o077)
    try:
        share("engine", "x86-1.bin", b"code")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (shared, shared / "engine")] == [0o755, 0o755]


def test_old_versions_of_a_kind_go(shared: Path) -> None:
    share("engine", "arm-0.bin", b"")
    for number in range(6):
        share("engine", f"x86-{number}.bin", b"")
        os.utime(shared / "engine" / f"x86-{number}.bin", (number, number))
    share("engine", "x86-6.bin", b"")
    names = sorted(path.name for path in (shared / "engine").iterdir())
    assert names == ["arm-0.bin", "x86-3.bin", "x86-4.bin", "x86-5.bin", "x86-6.bin"]


@pytest.mark.parametrize("part", ["", "engine", "engine/x86-1.bin"])
def test_what_others_could_have_written_is_not_believed(part: str, shared: Path) -> None:
    share("engine", "x86-1.bin", b"code")
    for mode in (0o002, 0o020):
        before = (shared / part).stat().st_mode
        (shared / part).chmod(before | mode)
        assert read_shared("engine", "x86-1.bin") is None
        (shared / part).chmod(before)
    assert read_shared("engine", "x86-1.bin") == b"code"
    if os.geteuid() == 0:
        os.chown(shared / part, 12345, -1)
        assert read_shared("engine", "x86-1.bin") is None


def test_links_and_pipes_are_not_followed(shared: Path) -> None:
    share("engine", "x86-1.bin", b"code")
    (shared / "engine" / "x86-2.bin").symlink_to("x86-1.bin")
    os.mkfifo(shared / "engine" / "x86-3.bin", 0o644)
    (shared / "other").symlink_to("engine")
    assert read_shared("engine", "x86-2.bin") is None
    assert read_shared("engine", "x86-3.bin") is None
    assert read_shared("other", "x86-1.bin") is None


def test_directory_of_others_is_not_written(shared: Path) -> None:
    (shared / "engine").mkdir(parents=True)
    (shared / "engine").chmod(0o777)
    share("engine", "x86-1.bin", b"code")
    assert list((shared / "engine").iterdir()) == []
