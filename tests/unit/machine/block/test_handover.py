from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pyhyve.image.contract import BackingReference
from pyhyve.image.opening import create_image
from pyhyve.machine.block.attach import Attachment, backend_on
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.graph import BlockGraph
from pyhyve.machine.block.handover import let_go, take

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pyhyve.backends.block import BlockBackend
    from pyhyve.machine.block.node import BlockNode

SIZE = 4 << 20


class Device:
    """A device that only has a backend."""

    def __init__(self, backend: BlockBackend) -> None:
        self.backend = backend

    @contextmanager
    def drained(self) -> Iterator[None]:
        yield

    def use_backend(self, backend: BlockBackend) -> None:
        self.backend = backend

    def resize(self) -> None:
        pass


def put(node: BlockNode, offset: int, data: bytes) -> None:
    node.need_image().pwritev([memoryview(data)], offset)


def get(node: BlockNode, offset: int, length: int) -> bytes:
    data = bytearray(length)
    node.need_image().pread_into(memoryview(data), offset)
    return bytes(data)


def disk(graph: BlockGraph, path: Path, kind: str) -> tuple[BlockNode, Attachment]:
    node = graph.add_file(str(path), kind, readonly=False, node_name="disk")
    return node, Attachment(graph, Device(backend_on(node)), node, name="", device_id="d", path="/d")  # type: ignore[arg-type] # as much of a device as is asked here


@pytest.fixture(params=["raw", "qcow2"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    path, kind = tmp_path / "disk", str(request.param)
    create_image(str(path), kind, SIZE)
    return path, kind


def test_disk_changes_hands_with_everything_written(image: tuple[Path, str]) -> None:
    source, target = BlockGraph(), BlockGraph(inactive=True)
    node, attachment = disk(source, *image)
    other, waiting = disk(target, *image)  # the source has it locked
    assert not waiting.device.backend.readonly  # what its device is does not depend on who has the disk
    put(node, 65536, b"before" * 100)
    with pytest.raises(ChangeError, match="lock"):
        take(target, [waiting])
    assert target.inactive
    let_go(source, [attachment])
    assert not attachment.device.backend.readonly
    if image[1] == "raw":
        with pytest.raises(OSError, match="Bad file descriptor"):
            put(node, 0, b"late")
    take(target, [waiting])
    assert get(other, 65536, 600) == b"before" * 100
    put(other, 0, b"after")
    with pytest.raises(ChangeError, match="lock"):
        take(source, [attachment])
    let_go(target, [waiting])
    take(source, [attachment])
    assert get(node, 0, 5) == b"after"
    put(node, 0, b"again")
    source.close()
    target.close()


def test_disk_that_a_job_uses_is_not_let_go(image: tuple[Path, str]) -> None:
    graph = BlockGraph()
    node, attachment = disk(graph, *image)
    attachment.is_wrapped = True
    with pytest.raises(ChangeError, match="block job"):
        let_go(graph, [attachment])
    put(node, 0, b"still ours")
    attachment.is_wrapped = False
    graph.close()


def test_chain_changes_hands_as_a_whole(tmp_path: Path) -> None:
    base, top = tmp_path / "base", tmp_path / "top"
    create_image(str(base), "qcow2", SIZE)
    create_image(str(top), "qcow2", SIZE, backing=BackingReference(str(base), "qcow2"))
    source, target = BlockGraph(), BlockGraph(inactive=True)
    node, attachment = disk(source, top, "qcow2")
    other, waiting = disk(target, top, "qcow2")
    put(node, 0, b"top")
    let_go(source, [attachment])
    take(target, [waiting])
    assert other.backing is not None
    assert other.need_image().backing is other.backing.need_image()
    assert get(other, 0, 4) == b"top\0"
    source.close()
    target.close()
