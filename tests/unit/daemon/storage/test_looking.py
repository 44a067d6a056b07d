from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyhyve.daemon.storage import images
from pyhyve.daemon.storage.backend import Contents
from pyhyve.daemon.storage.directory_backend import DirectoryBackend
from pyhyve.xml.storage import PoolTarget, StoragePool


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are opened."""
    names: list[str] = []
    open_image = images.open_image

    def noted(path: str, settings: Any) -> Any:
        names.append(Path(path).name)
        return open_image(path, settings)

    monkeypatch.setattr(images, "open_image", noted)
    return names


def test_volumes_that_did_not_change_are_not_opened_again(tmp_path: Path, opened: list[str]) -> None:
    for name in "abc":
        images.create(str(tmp_path / name), "qcow2", 1 << 20, 0)
    pool = StoragePool(type="dir", name="p", target=PoolTarget(path=str(tmp_path)))
    backend = DirectoryBackend()
    opened.clear()
    first = backend.look(pool, Contents())
    assert sorted(opened) == ["a", "b", "c"]
    opened.clear()
    settled = replace(first, looked_ns=first.looked_ns + images.SETTLED_NS)
    again = backend.look(pool, settled)
    assert opened == []
    # Looking at a file is a use of it.
    assert [replace(each, facts=None) for each in again.volumes] == [
        replace(each, facts=None) for each in first.volumes
    ]
    (tmp_path / "a").chmod(0o604)
    with (tmp_path / "b").open("r+b") as file:
        file.write(b"x")
    (tmp_path / "c").unlink()
    images.create(str(tmp_path / "d"), "qcow2", 2 << 20, 0)
    opened.clear()
    changed = {volume.name: volume for volume in backend.look(pool, settled).volumes}
    assert sorted(opened) == ["a", "b", "d"]
    assert {name: volume.format for name, volume in changed.items()} == {"a": "qcow2", "b": "raw", "d": "qcow2"}
    facts = changed["a"].facts
    assert facts is not None
    assert facts.mode == 0o604


def test_a_volume_that_changed_just_before_it_was_looked_at_is_opened_again(tmp_path: Path, opened: list[str]) -> None:
    path = tmp_path / "a"
    images.create(str(path), "qcow2", 1 << 20, 0)
    found = images.look(str(path))
    opened.clear()
    # Another change could have the same time.
    images.look(str(path), None, found, path.stat().st_ctime_ns + images.SETTLED_NS)
    assert opened == ["a"]
    images.look(str(path), None, found, path.stat().st_ctime_ns + images.SETTLED_NS + 1)
    assert opened == ["a"]
