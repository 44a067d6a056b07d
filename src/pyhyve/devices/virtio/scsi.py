"""The virtio SCSI host with CD-ROM drives (VIRTIO 1.2, 5.6), each a target with one unit."""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, ClassVar

from pyhyve.backends.block import BlockError
from pyhyve.devices.scsi.cdrom import Result, failure
from pyhyve.devices.scsi.spec import SenseCode, SenseKey
from pyhyve.devices.virtio.chain import VirtqueueError
from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import DeviceType
from pyhyve.support.enums import IntEnum

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.devices.scsi.drive import DiscDrive
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_LOG = logging.getLogger(__name__)
_CONTROL, _EVENTS = 0, 1
_QUEUE_SIZES = (16, 16, 128)
_CDB_BYTES, _SENSE_BYTES = 32, 96
_REQUEST = struct.Struct("<8sQBBB32s")
_RESPONSE = struct.Struct("<IIHBB96s")
_CONTROL_TYPE = struct.Struct("<I")
_TASK_MANAGEMENT = 0
_MAX_SECTORS = 0xFFFF
_LUN_0 = (b"\x00\x00", b"\x40\x00")
"""Unit 0, in the two ways of addressing it (5.6.6.1)."""
MAX_TARGETS = 256


class _Response(IntEnum):
    """Response codes (5.6.6.1)."""

    OK = 0
    BAD_TARGET = 3


class VirtioScsi(VirtioDevice):
    """A SCSI host. Targets are added before the driver looks, or found by a new scan."""

    device_type: ClassVar[DeviceType] = DeviceType.SCSI

    def __init__(self, memory: GuestMemory, worker: Worker) -> None:
        """Requests are served on `worker`, which may wait for the disc's file."""
        super().__init__(memory, worker, offered=0, queue_sizes=_QUEUE_SIZES)
        self.targets: dict[int, DiscDrive] = {}

    def config_space(self) -> bytes:
        """`struct virtio_scsi_config` (5.6.4): one request queue, targets with one unit each."""
        limits = struct.pack("<IIII", 1, 126, _MAX_SECTORS, 64)
        last = max(self.targets, default=0)
        return limits + struct.pack("<IIIHHI", 16, _SENSE_BYTES, _CDB_BYTES, 0, last, 0)

    def close(self) -> None:
        """Stop and close the discs; idempotent."""
        self.reset()
        for target in self.targets.values():
            if target.disc is not None:
                target.disc.close()

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Answer requests; the event queue's buffers stay where they are, for nothing ever happens."""
        if index == _EVENTS:
            return
        while (chain := ring.pop()) is not None:
            ring.push(chain, self._control(chain) if index == _CONTROL else self._request(chain))

    def _control(self, chain: DescriptorChain) -> int:
        """Task management finds nothing under way; asynchronous notifications are never sent (5.6.6.2)."""
        head = _gather(chain.readable, _CONTROL_TYPE.size)
        is_task = len(head) == _CONTROL_TYPE.size and _CONTROL_TYPE.unpack(head)[0] == _TASK_MANAGEMENT
        return self._store(chain, 0, b"\0" if is_task else bytes(5))

    def _request(self, chain: DescriptorChain) -> int:
        head = _gather(chain.readable, _REQUEST.size)
        room = chain.writable_bytes - _RESPONSE.size
        if len(head) < _REQUEST.size or room < 0:
            msg = f"SCSI request of {chain.readable_bytes} + {chain.writable_bytes} bytes"
            raise VirtqueueError(msg)
        lun, _, _, _, _, cdb = _REQUEST.unpack(head)
        target = self.targets.get(lun[1]) if lun[0] == 1 and lun[2:4] in _LUN_0 else None
        if target is None:
            self._store(chain, 0, _RESPONSE.pack(0, 0, 0, 0, _Response.BAD_TARGET, b""))
            return _RESPONSE.size
        result = target.execute(cdb)
        done = 0
        if result.length:
            done = min(result.length, room)
            result = self._read_disc(chain, target, result, done)
            done = done if not result.sense else 0
        elif result.data:
            done = self._store(chain, _RESPONSE.size, result.data[:room])
        residual = max(result.length, len(result.data)) - done if not result.sense else 0
        response = _RESPONSE.pack(len(result.sense), residual, 0, result.status, _Response.OK, result.sense)
        self._store(chain, 0, response)
        return _RESPONSE.size + done

    def _read_disc(self, chain: DescriptorChain, target: DiscDrive, result: Result, length: int) -> Result:
        """Read into the buffers after the response."""
        try:
            target.read([view for _, view in _window(chain, _RESPONSE.size, length)], result.offset, length)
        except BlockError as error:
            _LOG.warning("CD-ROM: %s", error)
            return failure(SenseKey.MEDIUM_ERROR, SenseCode.UNRECOVERED_READ_ERROR)
        finally:
            for gpa, view in _window(chain, _RESPONSE.size, length):
                self.dma.mark_written(gpa, len(view))
        return result

    def _store(self, chain: DescriptorChain, offset: int, data: bytes) -> int:
        """Write `data` at `offset` of the writable part, as far as there is room; gives how much was."""
        done = 0
        for gpa, view in _window(chain, offset, len(data)):
            view[:] = data[done : done + len(view)]
            self.dma.mark_written(gpa, len(view))
            done += len(view)
        return done


def _gather(views: Sequence[memoryview], length: int) -> bytes:
    """The first `length` bytes of `views`, or all there are."""
    found = b""
    for view in views:
        if len(found) == length:
            break
        found += bytes(view[: length - len(found)])
    return found


def _window(chain: DescriptorChain, offset: int, length: int) -> list[tuple[int, memoryview]]:
    """Bytes `[offset, offset + length)` of the writable part, as guest addresses and views."""
    pieces = []
    for view, (gpa, size) in zip(chain.writable, chain.writable_ranges, strict=True):
        start, end = max(offset, 0), min(offset + length, size)
        if start < end:
            pieces.append((gpa + start, view[start:end]))
        offset -= size
        if offset + length <= 0:
            break
    return pieces
