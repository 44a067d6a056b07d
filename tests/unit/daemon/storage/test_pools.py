from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.daemon.daemon import Daemon
from pyhyve.daemon.drivers.test.driver import TestDriver
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.paths import Paths
from pyhyve.daemon.resources.wiring import add
from pyhyve.daemon.storage import transfer, volumes
from pyhyve.daemon.storage.pool import pool_document
from pyhyve.daemon.storage.registry import PoolRegistry
from pyhyve.daemon.storage.volume import volume_document
from pyhyve.daemon.streams import Hole
from pyhyve.image.opening import OpenSettings, open_image

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Work = "Callable[[Daemon, PoolRegistry], Awaitable[None]]"


def run(root: Path, work: Callable[[Daemon, PoolRegistry], Awaitable[None]]) -> None:
    """Run a coroutine with a daemon whose pools are below ``root``."""

    async def whole() -> None:
        daemon = Daemon(Paths.below(root / "daemon", "system"))
        driver = TestDriver(daemon)
        daemon.add_driver(driver)
        add(daemon, driver, "test")
        await daemon.start()
        try:
            pools = driver.offers(PoolRegistry)
            assert pools is not None
            await work(daemon, pools)
        finally:
            await daemon.stop()

    asyncio.run(whole())


def pool_xml(root: Path, name: str = "p") -> str:
    return f"<pool type='dir'><name>{name}</name><target><path>{root / name}</path></target></pool>"


def volume_xml(name: str, size: int, kind: str = "raw", extra: str = "") -> str:
    return (
        f"<volume><name>{name}</name><capacity>{size}</capacity><allocation>0</allocation>"
        f"<target><format type='{kind}'/></target>{extra}</volume>"
    )


async def started(pools: PoolRegistry, root: Path, name: str = "p") -> Any:
    pool = await pools.define(pools.complete(pool_xml(root, name)))
    await pools.start_pool(pool, build=True)
    return pool


def test_pool_survives_the_daemon(tmp_path: Path) -> None:
    async def first(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        await pools.set_autostart(pool, enabled=True)
        await pools.create(pools.complete(pool_xml(tmp_path, "gone")), build=True, overwrite=False, keep=False)

    async def second(_: Daemon, pools: PoolRegistry) -> None:
        assert [(pool.name, pool.active, pool.persistent, pool.autostart) for pool in pools] == [
            ("gone", True, False, False),
            ("p", True, True, True),
        ]

    run(tmp_path, first)
    run(tmp_path, second)


def test_pool_that_went_away_meanwhile_is_inactive(tmp_path: Path) -> None:
    async def first(_: Daemon, pools: PoolRegistry) -> None:
        await started(pools, tmp_path)

    async def second(_: Daemon, pools: PoolRegistry) -> None:
        pool = pools.named("p")
        assert not pool.active
        with pytest.raises(LibvirtError, match="storage pool 'p' is not active"):
            pool.need_active()

    run(tmp_path, first)
    (tmp_path / "p").rmdir()
    run(tmp_path, second)


@pytest.mark.parametrize(
    ("xml", "problem"),
    [
        ("<pool type='dir'><name>x</name></pool>", "missing storage pool target path"),
        ("<pool type='foo'><name>x</name></pool>", "Invalid value for attribute 'type' in element 'pool': 'foo'"),
        ("<pool type='rbd'><name>x</name></pool>", "missing backend for pool type"),
        ("<pool type='dir'><target><path>/x</path></target></pool>", "missing pool source name element"),
        ("<pool type='dir'><name>a/b</name><target><path>/x</path></target></pool>", "cannot contain '/'"),
        ("<pool type='dir'><name>x</name><uuid>1</uuid><target><path>/x</path></target></pool>", "malformed uuid"),
        ("<pool type='fs'><name>x</name><target><path>/x</path></target></pool>", "missing storage pool source device"),
        ("<pool type='dir'><name>x</name><target><path>rel</path></target></pool>", "is not absolute"),
        ("<pool", "not well-formed XML"),
    ],
)
def test_pool_definition_wrong_is_explained(tmp_path: Path, xml: str, problem: str) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        with pytest.raises(LibvirtError, match=problem):
            pools.complete(xml)

    run(tmp_path, work)


def test_pool_document_has_sizes_and_permissions_while_active(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        shown = pool_document(pool)
        assert "<mode>0711</mode>" in shown
        assert "<capacity unit='bytes'>0</capacity>" not in shown
        assert "<capacity unit='bytes'>0</capacity>" in pool_document(pool, inactive=True)
        assert pools.complete(shown).target == pools.complete(shown).target

    run(tmp_path, work)


def test_image_has_the_features_its_document_asks_for(tmp_path: Path) -> None:
    async def work(_daemon: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)

        async def make(name: str, asked: str) -> tuple[str | None, int | None, bool]:
            xml = volume_xml(name, 4 << 20, "qcow2").replace("</target>", f"{asked}</target>")
            made = await volumes.create(pools, pool, xml)
            return made.compat, made.cluster_size, made.lazy_refcounts

        lazy = "<features><lazy_refcounts/></features>"
        assert await make("plain", "") == ("1.1", 65536, False)
        assert await make("lazy", lazy) == ("1.1", 65536, True)
        assert await make("old", "<compat>0.10</compat>") == ("0.10", 65536, False)
        assert await make("wide", "<clusterSize unit='KiB'>128</clusterSize>") == ("1.1", 131072, False)
        for asked, message in (
            (f"<compat>0.10</compat>{lazy}", "lazy_refcounts not supported with compat level 0.10"),
            ("<features><other/></features>", "unsupported feature other"),
            ("<clusterSize>1000</clusterSize>", "Cluster size must be a power of two"),
            ("<clusterSize unit='miles'>64</clusterSize>", "unknown suffix 'miles'"),
            ("<compat>9.9</compat>", "compat"),
            ("<encryption format='luks'/>", "encrypted volumes cannot be made"),
        ):
            with pytest.raises(LibvirtError, match=message):
                await make("no", asked)
            assert not (tmp_path / "p" / "no").exists()

    run(tmp_path, work)


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vdi", "vmdk", "vpc", "qcow"])
def test_volume_is_made_grown_and_removed(tmp_path: Path, kind: str) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        size = 8 << 20
        volume = await volumes.create(pools, pool, volume_xml("v", size, kind))
        # vpc rounds a disk up to whole cylinders
        assert volume.capacity >= size
        assert volume.format == kind
        assert (tmp_path / "p" / "v").stat().st_mode & 0o777 == 0o600
        if kind in {"raw", "qcow2"}:
            await volumes.resize(pools, pool, volume, 16 << 20, 0)
            assert pool.volume("v").capacity == 16 << 20
        await volumes.remove(pools, pool, pool.volume("v"))
        assert not (tmp_path / "p" / "v").exists()
        with pytest.raises(LibvirtError, match="no storage vol with matching name 'v'"):
            pool.volume("v")

    run(tmp_path, work)


def test_volume_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        (tmp_path / "p" / "v").write_bytes(b"precious")  # made behind the pool's back
        with pytest.raises(LibvirtError, match="storage volume 'v' exists already"):
            await volumes.create(pools, pool, volume_xml("v", 1 << 20))
        assert (tmp_path / "p" / "v").read_bytes() == b"precious"

    run(tmp_path, work)


@pytest.mark.parametrize("name", ["../v", "a/b", ".", ".."])
def test_volume_cannot_be_named_out_of_its_pool(tmp_path: Path, name: str) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        with pytest.raises(LibvirtError):
            await volumes.create(pools, pool, volume_xml(name, 1 << 20))

    run(tmp_path, work)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["daemon", "p"]


def test_volume_shows_its_backing_image(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        base = await volumes.create(pools, pool, volume_xml("base", 4 << 20, "qcow2"))
        below = f"<backingStore><path>{base.path}</path><format type='qcow2'/></backingStore>"
        xml = volume_xml("top", 4 << 20, "qcow2", below)
        volume = await volumes.create(pools, pool, xml)
        assert (volume.backing_path, volume.backing_format) == (base.path, "qcow2")
        assert f"<path>{base.path}</path>" in volume_document(volume).partition("<backingStore>")[2]

    run(tmp_path, work)


def test_clone_has_the_content_in_its_own_format(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        source = await volumes.create(pools, pool, volume_xml("s", 2 << 20))
        content = os.urandom(2 << 20)
        (tmp_path / "p" / "s").write_bytes(content)
        made = await volumes.create(pools, pool, volume_xml("c", 0, "qcow2"), source=(pool, source))
        image = open_image(made.path, OpenSettings(format_name="qcow2"))
        held = bytearray(image.size_bytes)
        image.pread_into(memoryview(held), 0)
        image.close()
        assert bytes(held) == content

    run(tmp_path, work)


@pytest.mark.parametrize("algorithm", [0, 1, 8, 9])
def test_wipe_leaves_nothing_of_the_content(tmp_path: Path, algorithm: int) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        volume = await volumes.create(pools, pool, volume_xml("v", 1 << 20))
        (tmp_path / "p" / "v").write_bytes(b"secret" * 100 + bytes((1 << 20) - 600))
        await pools.refresh(pool)
        await volumes.wipe(pools, pool, pool.volume("v"), algorithm)
        assert b"secret" not in (tmp_path / "p" / "v").read_bytes()
        assert pool.volume("v").capacity == 1 << 20
        assert volume.name == "v"

    run(tmp_path, work)


def test_resize_does_not_shrink_unasked(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        volume = await volumes.create(pools, pool, volume_xml("v", 4 << 20))
        with pytest.raises(LibvirtError, match="unless shrink flag explicitly specified"):
            await volumes.resize(pools, pool, volume, 1 << 20, 0)
        await volumes.resize(pools, pool, volume, 1 << 20, volumes.RESIZE_SHRINK)
        assert pool.volume("v").capacity == 1 << 20
        grown = volumes.RESIZE_DELTA
        await volumes.resize(pools, pool, pool.volume("v"), 1 << 20, grown)
        assert pool.volume("v").capacity == 2 << 20

    run(tmp_path, work)


def test_busy_volume_is_nobody_elses(tmp_path: Path) -> None:
    async def work(_: Daemon, pools: PoolRegistry) -> None:
        pool = await started(pools, tmp_path)
        volume = await volumes.create(pools, pool, volume_xml("v", 1 << 20))
        async with volumes.busy(pool, "v"):
            with pytest.raises(LibvirtError, match="volume 'v' is still being allocated"):
                await volumes.remove(pools, pool, volume)
            with pytest.raises(LibvirtError, match="has asynchronous jobs running"):
                await pools.destroy(pool)
        await volumes.remove(pools, pool, volume)

    run(tmp_path, work)


class FakeStream:
    """Collects what is sent, gives what is set."""

    def __init__(self, pieces: tuple[bytes | Hole, ...] = ()) -> None:
        self.sent: list[bytes | int] = []
        self._pieces = list(pieces)

    async def send_file(self, descriptor: int, offset: int, end: int) -> int:
        data = os.pread(descriptor, min(end - offset, 3000), offset)
        self.sent.append(data)
        return offset + len(data)

    async def write_hole(self, length: int) -> None:
        self.sent.append(length)

    async def store(self, piece: bytes, descriptor: int, offset: int, _limit: int | None) -> int:
        return offset + os.pwrite(descriptor, piece, offset)

    async def read(self) -> bytes | Hole:
        return self._pieces.pop(0) if self._pieces else b""


def test_sparse_download_sends_holes_as_such(tmp_path: Path) -> None:
    path = tmp_path / "v"
    with path.open("wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"y" * 4096)
    stream = FakeStream()

    async def work(daemon: Daemon, _: PoolRegistry) -> None:
        descriptor = transfer.open_volume(str(path), 0, writable=False)
        await transfer.download(daemon, stream, descriptor, 0, 0, sparse=True)  # type: ignore[arg-type] # a double

    run(tmp_path, work)
    content = b"".join(bytes(piece) if isinstance(piece, int) else piece for piece in stream.sent)
    assert content == path.read_bytes()
    assert sum(piece for piece in stream.sent if isinstance(piece, int)) >= 1 << 19


def test_upload_writes_pieces_and_holes_and_stops_at_its_length(tmp_path: Path) -> None:
    path = tmp_path / "v"
    path.write_bytes(b"z" * 10000)

    async def work(daemon: Daemon, _: PoolRegistry) -> None:
        descriptor = transfer.open_volume(str(path), 0, writable=True)
        stream = FakeStream((b"ab", Hole(5000), b"cd"))
        await transfer.upload(daemon, stream, descriptor, 0, 0)  # type: ignore[arg-type] # a double
        descriptor = transfer.open_volume(str(path), 0, writable=True)
        with pytest.raises(LibvirtError, match="more than the 3 bytes announced"):
            await transfer.upload(daemon, FakeStream((b"abcd",)), descriptor, 0, 3)  # type: ignore[arg-type] # ditto

    run(tmp_path, work)
    assert path.read_bytes() == b"ab" + bytes(5000) + b"cd" + b"z" * 4996
