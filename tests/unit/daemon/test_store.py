from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.store import Collection, Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def parse(data: bytes) -> str:
    text = data.decode()
    if not text.startswith("item "):
        raise ValueError(text)
    return text.removeprefix("item ")


def form(item: str) -> bytes:
    return f"item {item}".encode()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "state", tmp_path / "run")
    yield made
    made.close()


@pytest.fixture
def items(store: Store) -> Collection[str]:
    return store.collection("items", suffix=".txt", parse=parse, form=form)


@pytest.mark.parametrize("key", ["a", "web server", ".", "..", ".new-x", "a/b", "ä", "%41", "x.txt", "a\nb"])
def test_items_come_back_under_their_key(items: Collection[str], key: str) -> None:
    asyncio.run(items.save(key, "first"))
    asyncio.run(items.save(key, "second"))
    assert items.load() == {key: "second"}
    assert items.path(key).parent == items.directory
    asyncio.run(items.remove(key))
    asyncio.run(items.remove(key))
    assert items.load() == {}


def test_damaged_items_are_set_aside_and_said(items: Collection[str], caplog: pytest.LogCaptureFixture) -> None:
    items.save_now("good", "1")
    for round_number in range(2):
        items.path("bad").write_bytes(b"" if round_number else b"half an it")
        with caplog.at_level(logging.ERROR):
            assert items.load() == {"good": "1"}
    assert [path.read_bytes() for path in sorted((items.directory / "damaged").iterdir())] == [b"half an it", b""]
    assert caplog.text.count("bad.txt is damaged") == 2
    assert items.load() == {"good": "1"}


def test_what_a_killed_writer_left_is_cleared_away(items: Collection[str]) -> None:
    items.save_now("one", "1")
    (items.directory / ".new-abc").write_bytes(b"item half")
    assert items.load() == {"one": "1"}
    assert [path.name for path in items.directory.iterdir()] == ["one.txt"]


def test_a_write_that_fails_leaves_the_old_item(items: Collection[str], monkeypatch: pytest.MonkeyPatch) -> None:
    items.save_now("one", "1")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        asyncio.run(items.save("one", "2"))
    assert items.load() == {"one": "1"}
    assert [path.name for path in items.directory.iterdir()] == ["one.txt"]


def test_saves_happen_in_the_order_asked_for(items: Collection[str]) -> None:
    async def many() -> None:
        await asyncio.gather(*(items.save("one", str(number)) for number in range(50)))

    asyncio.run(many())
    assert items.load() == {"one": "49"}


def test_runtime_items_are_elsewhere(store: Store, tmp_path: Path) -> None:
    runtime = store.collection("items", suffix=".txt", parse=parse, form=form, runtime=True)
    runtime.save_now("a", "1")
    assert (tmp_path / "run" / "items" / "a.txt").exists()
    assert not (tmp_path / "state").exists()


def test_an_item_that_cannot_be_written_down_is_refused_before_anything_is_touched(store: Store) -> None:
    def refuse(item: str) -> bytes:
        raise ValueError(item)

    items = store.collection("items", suffix=".txt", parse=parse, form=refuse)
    with pytest.raises(ValueError, match="x"):
        items.save_now("a", "x")
    assert not items.directory.exists()
