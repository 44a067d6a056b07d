from __future__ import annotations

from pathlib import Path

import pytest

from pyhyve.support.cache import cache_directory, cache_root, new_directory
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
