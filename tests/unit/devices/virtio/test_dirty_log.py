"""What devices write into guest memory is marked as written: by their own code and by the emulator's."""

from __future__ import annotations

import functools
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.devices.virtio.spec import BlockRequestType, BlockStatus, Feature, NetCtrlClass, NetCtrlRx
from pyhyve.memory.dirty import DirtyTable
from pyhyve.testing.virtio_driver import GuestAllocator

from .test_block import PATTERN, SECTORS, Disk, raw_backend
from .test_kicks import KickingCard
from .test_net import BROADCAST, HEADER, MAC, OTHER, PACKED, Card, frame
from .test_walked import WiredCard, make_walker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pyhyve.accel.emulator import EmulatorVm
    from pyhyve.memory.guest import GuestMemory

PAGE = 4096


class Recorder(DirtyTable):
    """A table that knows what exactly it was told."""

    def __init__(self, memory: GuestMemory) -> None:
        super().__init__(memory)
        self.told: list[tuple[int, int]] = []

    def mark(self, gpa: int, length: int) -> None:
        self.told.append((gpa, length))
        super().mark(gpa, length)


@pytest.fixture(autouse=True)
def rings_end_on_a_page_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the words at a ring's end, which ask for kicks, are on a page that nothing else has marked."""
    allocate = GuestAllocator.allocate

    def at_an_edge(self: GuestAllocator, size_bytes: int, align: int = 16) -> int:
        gpa = allocate(self, size_bytes + 2 * PAGE, align)
        return gpa + -(gpa + (size_bytes - 2) // 16 * 16) % PAGE if size_bytes > 2 else gpa

    monkeypatch.setattr(GuestAllocator, "allocate", at_an_edge)


class Watch:
    """Checks that pages which a device changes are marked when it returns."""

    def __init__(self, memory: GuestMemory, *, exact: bool = False) -> None:
        """`exact` looks at bytes instead of pages: not where compiled code marks."""
        self._exact = exact
        self._view = memory.view(0, 4 << 20)
        self.table = Recorder(memory)
        memory.dirty = self.table
        self._depth = 0
        self.changed = 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, checked; the driver's own writes are between such calls."""

        @functools.wraps(call)
        def checked(*arguments: Any, **named: Any) -> Any:
            if self._depth:
                return call(*arguments, **named)
            self._depth += 1
            self.table.take()
            self.table.told.clear()
            before = bytes(self._view)
            try:
                return call(*arguments, **named)
            finally:
                self._depth -= 1
                self._compare(before)

        return checked

    def _compare(self, before: bytes) -> None:
        after = bytes(self._view)
        marked = {gpa + at for gpa, size in self.table.take() for at in range(0, size, PAGE)}
        changed = [at for at in range(0, len(after), PAGE) if before[at : at + PAGE] != after[at : at + PAGE]]
        self.changed += len(changed)
        if self._exact:
            told = bytearray(len(after))
            for gpa, length in self.table.told:
                told[gpa : gpa + length] = b"\1" * length
            missed = [at for page in changed for at in range(page, page + PAGE) if before[at] != after[at]]
            assert all(told[at] for at in missed), [hex(at) for at in missed if not told[at]][:20]
        else:
            assert set(changed) <= marked, [hex(page) for page in set(changed) - marked]

    def over(self, card: Card) -> None:
        """Check all that this card does."""
        for holder, name in ((card.machine, "run"), (card.transport, "notify"), (card.backend, "readable")):
            setattr(holder, name, self.around(getattr(holder, name)))


def work(card: Card) -> None:
    """Packets both ways, for others, too long for their buffers, over a pulled cable, and a command."""
    card.post(40, 600)
    card.arrive(frame(), frame(payload=random.randbytes(2000)), frame(BROADCAST, b"all"))
    for n in range(70):
        card.driver.queues[1].add([card.driver.buffer(HEADER), card.driver.buffer(frame(payload=b"%d" % n))])
        card.transport.notify(1)
        card.machine.run()
        while card.driver.queues[1].poll() is not None:
            pass
    assert card.control(NetCtrlClass.RX, NetCtrlRx.PROMISC, b"\0") == 0
    card.post(4, 3 * PAGE)
    card.arrive(frame(OTHER))
    card.arrive(frame(MAC, b"one"), frame(OTHER))
    card.device.set_link(up=False)
    card.arrive(frame(MAC, b"lost"))
    card.device.set_link(up=True)
    card.arrive(frame(MAC, b"two"))


@PACKED
def test_network_card_marks_what_it_writes(packed: bool) -> None:
    card = Card(packed=packed)
    watch = Watch(card.machine.memory, exact=True)
    watch.over(card)
    work(card)
    assert watch.changed > 20
    card.device.close()
    card.machine.close()


def _logged_walker(vms: list[EmulatorVm]) -> Callable[[GuestMemory], EmulatorVm]:
    def make(memory: GuestMemory) -> EmulatorVm:
        vms.append(make_walker(memory))
        return vms[-1]

    return make


@pytest.mark.parametrize("without", [0, int(Feature.EVENT_IDX)], ids=["event-index", "plain"])
def test_compiled_network_queues_mark_what_they_write(without: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vms: list[EmulatorVm] = []
    monkeypatch.setattr("tests.unit.devices.virtio.test_walked.make_walker", _logged_walker(vms))
    card = WiredCard(without=without)
    watch = Watch(card.machine.memory)
    vms[0].start_dirty_log(watch.table)
    watch.over(card)
    work(card)
    assert watch.changed > 20
    card.device.close()
    card.machine.close()


@pytest.mark.parametrize("without", [0, int(Feature.EVENT_IDX)], ids=["event-index", "plain"])
def test_vcpu_that_serves_its_kick_marks_what_it_writes(without: int) -> None:
    card = KickingCard(without=without)
    card.driver.queues[1].set_interrupts(enabled=False)
    watch = Watch(card.machine.memory)
    card.vm.start_dirty_log(watch.table)
    kick = watch.around(card.kick)
    for _ in range(100):
        card.add()
        assert not kick()
        card.poll()
    assert watch.changed >= 100
    card.device.close()
    card.machine.close()
    card.vm.close()


@pytest.mark.parametrize("without", [0, int(Feature.EVENT_IDX)], ids=["event-index", "plain"])
def test_compiled_disk_queue_marks_what_it_writes(without: int, tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(512) + PATTERN * (SECTORS - 1))
    vms: list[EmulatorVm] = []
    probe = Disk(raw_backend(path), make_walker=make_walker)
    features = probe.transport.read_features() & ~without
    probe.close()
    disk = Disk(raw_backend(path), features=features, make_walker=_logged_walker(vms))
    watch = Watch(disk.machine.memory)
    vms[0].start_dirty_log(watch.table)
    for holder, name in ((disk.machine, "run"), (disk.transport, "notify")):
        setattr(holder, name, watch.around(getattr(holder, name)))
    for sector in range(1, 40):
        kind = BlockRequestType.OUT if sector % 3 == 0 else BlockRequestType.IN
        parts = [disk.driver.buffer(struct.pack("<IIQ", kind, 0, sector))]
        parts.append(disk.driver.buffer(PATTERN if kind == BlockRequestType.OUT else 512))
        status = disk.driver.buffer(1)
        disk.machine.memory.write(status.gpa, b"\xee")
        disk.driver.submit(0, [*parts, status])
        disk.wait()
        assert disk.driver.read(status)[0] == BlockStatus.OK
    assert watch.changed >= 60
    disk.close()
