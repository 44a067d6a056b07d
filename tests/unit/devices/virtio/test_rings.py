"""Split and packed rings from both sides (VIRTIO 1.2, 2.7 and 2.8)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyhyve.devices.virtio.chain import MAX_CHAIN_DESCRIPTORS, DescriptorChain, DmaSpace, VirtqueueError
from pyhyve.devices.virtio.packed import PackedQueue
from pyhyve.devices.virtio.queue import QueueLayout, RingFeatures, Virtqueue
from pyhyve.devices.virtio.spec import DescFlag
from pyhyve.devices.virtio.split import SplitQueue
from pyhyve.memory.guest import GuestMemory
from pyhyve.testing.virtio_driver import (
    DriverQueue,
    GuestAllocator,
    PackedDriverQueue,
    Segment,
    SplitDriverQueue,
)

MEMORY_BYTES = 4 << 20
KINDS = pytest.mark.parametrize("packed", [False, True], ids=["split", "packed"])
NEXT, WRITE, INDIRECT = int(DescFlag.NEXT), int(DescFlag.WRITE), int(DescFlag.INDIRECT)


class Pair:
    """Both sides of one ring."""

    def __init__(self, *, packed: bool, size: int = 8, event_index: bool = False, indirect: bool = False) -> None:
        self.memory = GuestMemory()
        self.memory.add(0, MEMORY_BYTES)
        self.memory.add(0x1000_0000, 0x1000, readonly=True, name="rom")
        self.allocator = GuestAllocator(self.memory, 0x1000, MEMORY_BYTES)
        kind = PackedDriverQueue if packed else SplitDriverQueue
        self.driver: DriverQueue = kind(self.allocator, size, event_index=event_index, indirect=indirect)
        features = RingFeatures(packed=packed, event_index=event_index, indirect=indirect)
        self.device: Virtqueue = (PackedQueue if packed else SplitQueue)(
            DmaSpace(self.memory), self.driver.layout, features
        )
        self.device.enable_notify()

    def segment(self, length: int, *, is_write: bool = False) -> Segment:
        return Segment(self.allocator.allocate(length), length, is_write)


@KINDS
def test_ring_in_memory_of_an_earlier_ring_starts_empty(*, packed: bool) -> None:
    pair = Pair(packed=packed)
    pair.driver.add([pair.segment(16, is_write=True)])
    pair.allocator.rewind(0x1000)
    kind = type(pair.driver)
    driver = kind(pair.allocator, 8, event_index=False, indirect=False)
    device = (PackedQueue if packed else SplitQueue)(DmaSpace(pair.memory), driver.layout, RingFeatures(packed=packed))
    assert driver.layout == pair.driver.layout
    assert device.pop() is None
    assert driver.poll() is None


@pytest.fixture
def split() -> Pair:
    return Pair(packed=False, indirect=True)


def split_driver(pair: Pair) -> SplitDriverQueue:
    assert isinstance(pair.driver, SplitDriverQueue)
    return pair.driver


@KINDS
@pytest.mark.parametrize("event_index", [False, True])
@pytest.mark.parametrize("indirect", [False, True])
def test_ring_carries_buffers_over_many_wraps(packed: bool, event_index: bool, indirect: bool) -> None:
    pair = Pair(packed=packed, event_index=event_index, indirect=indirect)
    out, into = pair.segment(5), pair.segment(7, is_write=True)
    pair.memory.write(out.gpa, b"hello")
    for turn in range(100):
        token = pair.driver.add([out, into])
        chain = pair.device.pop()
        assert chain is not None
        assert (chain.readable_bytes, chain.writable_bytes) == (5, 7)
        assert bytes(chain.readable[0]) == b"hello"
        chain.writable[0][:] = b"%07d" % turn
        pair.device.push(chain, 7)
        pair.device.flush()
        used = pair.driver.poll()
        assert used is not None
        assert (used.token, used.written_bytes) == (token, 7)
        assert pair.memory.read(into.gpa, 7) == b"%07d" % turn
    assert pair.device.pop() is None
    assert pair.driver.poll() is None


@KINDS
def test_buffers_complete_out_of_order(packed: bool) -> None:
    pair = Pair(packed=packed, size=4)
    part = pair.segment(1, is_write=True)
    for _ in range(5):
        tokens = [pair.driver.add([part]) for _ in range(4)]
        chains = [pair.device.pop() for _ in range(4)]
        for written, chain in reversed(list(enumerate(chains))):
            assert chain is not None
            pair.device.push(chain, written)
        pair.device.flush()
        done = [pair.driver.poll() for _ in range(4)]
        assert [(used.token, used.written_bytes) for used in done if used] == [
            (tokens[written], written) for written in (3, 2, 1, 0)
        ]


def test_packed_ring_of_odd_size_works() -> None:
    pair = Pair(packed=True, size=5)
    part = pair.segment(1)
    for _ in range(23):
        pair.driver.add([part, part])
        chain = pair.device.pop()
        assert chain is not None
        assert chain.slots == 2
        pair.device.push(chain, 0)
        pair.device.flush()
        assert pair.driver.poll() is not None


@KINDS
def test_kick_is_suppressed_while_the_device_works(packed: bool) -> None:
    pair = Pair(packed=packed)
    part = pair.segment(1)
    pair.driver.add([part])
    assert pair.driver.needs_kick()
    pair.device.disable_notify()
    pair.driver.add([part])
    assert not pair.driver.needs_kick()
    assert pair.device.enable_notify()
    while (chain := pair.device.pop()) is not None:
        pair.device.push(chain, 0)
    assert not pair.device.enable_notify()
    pair.driver.add([part])
    assert pair.driver.needs_kick()


@KINDS
def test_event_index_asks_for_one_kick_per_batch(packed: bool) -> None:
    pair = Pair(packed=packed, event_index=True, size=4)
    part = pair.segment(1)
    for _ in range(9):
        pair.driver.add([part])
        assert pair.driver.needs_kick()
        pair.driver.add([part])
        assert not pair.driver.needs_kick()
        while (chain := pair.device.pop()) is not None:
            pair.device.push(chain, 0)
        pair.device.flush()
        while pair.driver.poll() is not None:
            pass
        pair.device.enable_notify()


@KINDS
@pytest.mark.parametrize("event_index", [False, True])
def test_interrupt_only_when_the_driver_wants_it(packed: bool, event_index: bool) -> None:
    pair = Pair(packed=packed, event_index=event_index, size=4)
    part = pair.segment(1)

    def one() -> bool:
        pair.driver.add([part])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 0)
        return pair.device.flush()

    for _ in range(11):
        pair.driver.set_interrupts(enabled=True)
        assert one()
        if event_index:
            # The driver has not looked since: the event lies behind the used index.
            assert not one()
            assert pair.driver.poll() is not None
        pair.driver.set_interrupts(enabled=False)
        assert not one()
        assert not pair.device.flush()
        while pair.driver.poll() is not None:
            pass


def test_device_writes_reach_memory_listeners() -> None:
    for packed in (False, True):
        pair = Pair(packed=packed)
        seen: list[tuple[int, int]] = []
        pair.memory.on_write(lambda gpa, length, into=seen: into.append((gpa, length)))
        pair.driver.add([pair.segment(1)])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 0)
        pair.device.flush()
        used = pair.driver.layout.descriptor_gpa if packed else pair.driver.layout.device_gpa
        assert any(gpa <= used < gpa + length for gpa, length in seen)


def test_buffer_across_two_regions_is_two_views() -> None:
    pair = Pair(packed=False)
    pair.memory.add(MEMORY_BYTES, 0x1000)
    pair.driver.add([Segment(MEMORY_BYTES - 3, 8, is_write=True)])
    chain = pair.device.pop()
    assert chain is not None
    assert [len(view) for view in chain.writable] == [3, 5]
    assert chain.writable_ranges == [(MEMORY_BYTES - 3, 3), (MEMORY_BYTES, 5)]
    assert chain.writable_bytes == 8


@pytest.mark.parametrize("size", [0, 3, 65536])
def test_split_queue_refuses_size(size: int) -> None:
    memory = GuestMemory()
    memory.add(0, MEMORY_BYTES)
    with pytest.raises(VirtqueueError, match="entries"):
        SplitQueue(DmaSpace(memory), QueueLayout(size, 0, 0x1000, 0x2000), RingFeatures())


@pytest.mark.parametrize(
    "layout",
    [
        QueueLayout(8, 8, 0x1000, 0x2000),
        QueueLayout(8, 0, 0x1001, 0x2000),
        QueueLayout(8, 0, 0x1000, 0x2002),
        QueueLayout(8, MEMORY_BYTES - 64, 0x1000, 0x2000),
        QueueLayout(8, 0, MEMORY_BYTES, 0x2000),
        QueueLayout(8, 0, 0x1000, 1 << 63),
        QueueLayout(8, 0, 0x1000, 0x1000_0000),
    ],
)
def test_queue_outside_memory_or_misaligned_is_refused(layout: QueueLayout) -> None:
    memory = GuestMemory()
    memory.add(0, MEMORY_BYTES)
    memory.add(0x1000_0000, 0x1000, readonly=True, name="rom")
    with pytest.raises(VirtqueueError):
        SplitQueue(DmaSpace(memory), layout, RingFeatures())


@KINDS
@pytest.mark.parametrize(
    ("gpa", "length", "is_write"),
    [
        (MEMORY_BYTES, 1, False),
        (MEMORY_BYTES - 1, 2, True),
        (1 << 63, 1, False),
        ((1 << 64) - 1, 0xFFFFFFFF, True),
        (0x1000, 0, False),
        (0x1000, 0xFFFFFFFF, True),
        (0x1000_0000, 16, True),
    ],
)
def test_descriptor_outside_memory_is_refused(packed: bool, gpa: int, length: int, is_write: bool) -> None:
    pair = Pair(packed=packed)
    pair.driver.add([Segment(gpa, length, is_write)])
    with pytest.raises(VirtqueueError):
        pair.device.pop()


def test_rom_can_be_read_by_devices() -> None:
    pair = Pair(packed=False)
    pair.driver.add([Segment(0x1000_0000, 16, is_write=False)])
    chain = pair.device.pop()
    assert chain is not None
    assert chain.readable_bytes == 16


@KINDS
@pytest.mark.parametrize("indirect", [False, True])
def test_readable_after_writable_is_refused(packed: bool, indirect: bool) -> None:
    pair = Pair(packed=packed, indirect=indirect)
    pair.driver.add([pair.segment(1, is_write=True), pair.segment(1)])
    with pytest.raises(VirtqueueError, match="after a device-writable"):
        pair.device.pop()


def test_split_chain_loop_is_refused(split: Pair) -> None:
    driver = split_driver(split)
    driver.write_descriptor(0, 0x1000, 1, NEXT, 1)
    driver.write_descriptor(1, 0x1000, 1, NEXT, 0)
    driver.publish(0)
    with pytest.raises(VirtqueueError, match="loops"):
        split.device.pop()


@pytest.mark.parametrize("following", [8, 0xFFFF])
def test_split_next_outside_the_table_is_refused(split: Pair, following: int) -> None:
    driver = split_driver(split)
    driver.write_descriptor(0, 0x1000, 1, NEXT, following)
    driver.publish(0)
    with pytest.raises(VirtqueueError, match="as its next"):
        split.device.pop()


def test_split_head_outside_the_table_is_refused(split: Pair) -> None:
    split_driver(split).publish(8)
    with pytest.raises(VirtqueueError, match="names descriptor 8"):
        split.device.pop()


def test_split_available_index_may_not_run_ahead(split: Pair) -> None:
    driver = split_driver(split)
    split.memory.write(driver.avail + 2, struct.pack("<H", 9))
    with pytest.raises(VirtqueueError, match="available index"):
        split.device.pop()


def test_split_ring_may_not_be_overfilled(split: Pair) -> None:
    driver = split_driver(split)
    driver.write_descriptor(0, 0x1000, 1, 0, 0)
    for _ in range(8):
        driver.publish(0)
        assert split.device.pop() is not None
    driver.publish(0)
    with pytest.raises(VirtqueueError, match="outstanding"):
        split.device.pop()


@pytest.mark.parametrize(
    ("length", "inner_flags"),
    [(0, 0), (15, 0), (24, 0), ((MAX_CHAIN_DESCRIPTORS + 1) * 16, 0), (16, INDIRECT), (32, NEXT | INDIRECT)],
)
def test_split_indirect_table_is_checked(split: Pair, length: int, inner_flags: int) -> None:
    driver = split_driver(split)
    table = split.allocator.allocate(64)
    split.memory.write(table, struct.pack("<QIHH", 0x1000, 1, inner_flags, 1) * 2)
    driver.write_descriptor(0, table, length, INDIRECT, 0)
    driver.publish(0)
    with pytest.raises(VirtqueueError, match="indirect"):
        split.device.pop()


def test_split_indirect_with_next_is_refused(split: Pair) -> None:
    driver = split_driver(split)
    driver.write_descriptor(0, 0x1000, 16, INDIRECT | NEXT, 1)
    driver.publish(0)
    with pytest.raises(VirtqueueError, match="with a next"):
        split.device.pop()


@KINDS
def test_indirect_needs_negotiation(packed: bool) -> None:
    pair = Pair(packed=packed)
    pair.driver.indirect = True
    pair.driver.add([pair.segment(1), pair.segment(1)])
    with pytest.raises(VirtqueueError, match="not negotiated"):
        pair.device.pop()


def test_packed_chain_without_end_is_refused() -> None:
    pair = Pair(packed=True)
    assert isinstance(pair.driver, PackedDriverQueue)
    for position in range(8):
        pair.driver.write_descriptor(position, 0x1000, 1, 0, NEXT)
    with pytest.raises(VirtqueueError, match="loops"):
        pair.device.pop()


def test_packed_reuse_of_outstanding_descriptors_is_refused() -> None:
    pair = Pair(packed=True, size=4)
    assert isinstance(pair.driver, PackedDriverQueue)
    for position in range(4):
        pair.driver.write_descriptor(position, 0x1000, 1, 0, 0)
        assert pair.device.pop() is not None
    pair.driver.write_descriptor(4, 0x1000, 1, 0, 0)
    with pytest.raises(VirtqueueError, match="outstanding"):
        pair.device.pop()


def test_chain_of_more_than_four_gigabytes_is_refused() -> None:
    memory = GuestMemory()
    memory.add(0, 3 << 30)
    with pytest.raises(VirtqueueError, match="bytes"):
        DmaSpace(memory).resolve(0, 1, [(0, 3 << 30, 0), (0, 3 << 30, 0)])


@settings(max_examples=60, deadline=None)
@given(
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("adp"), st.integers(1, 3)), max_size=80),
)
def test_any_order_of_work_loses_nothing(
    packed: bool, event_index: bool, indirect: bool, steps: list[tuple[str, int]]
) -> None:
    pair = Pair(packed=packed, size=8, event_index=event_index, indirect=indirect)
    part = pair.segment(4, is_write=True)
    outstanding: set[int] = set()
    room = 8
    cost: dict[int, int] = {}
    for step, count in steps:
        if step == "a":
            price = 1 if indirect else count
            if price > room:
                continue
            token = pair.driver.add([part] * count)
            room -= price
            cost[token] = price
            outstanding.add(token)
        elif step == "d":
            for _ in range(count):
                chain = pair.device.pop()
                if chain is not None:
                    pair.device.push(chain, 4)
            pair.device.flush()
        else:
            used = pair.driver.poll()
            if used is not None:
                outstanding.remove(used.token)
                room += cost.pop(used.token)
    while (chain := pair.device.pop()) is not None:
        pair.device.push(chain, 4)
    pair.device.flush()
    while (used := pair.driver.poll()) is not None:
        outstanding.remove(used.token)
    assert not outstanding
    assert pair.device.in_flight == 0


@KINDS
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_room_is_what_single_pops_would_give(data: st.DataObject, *, packed: bool) -> None:
    pair, plain = Pair(packed=packed, size=16, indirect=True), Pair(packed=packed, size=16, indirect=True)
    lengths = st.integers(1, 3000)
    kinds = st.lists(st.tuples(lengths, st.integers(1, 3), st.booleans()), max_size=16)
    for length, parts, mixed in data.draw(kinds):
        for one in (pair, plain):
            segments = [one.segment(length, is_write=True) for _ in range(parts)]
            one.driver.add([one.segment(16), *segments] if mixed else segments)
    for _ in range(6):
        wanted, limit = data.draw(st.integers(0, 9000)), data.draw(st.integers(0, 12))
        found = pair.device.pop_room(wanted, limit)
        expected = []
        left = wanted
        while left > 0 and len(expected) < limit and (chain := plain.device.pop()) is not None:
            expected.append(chain)
            left -= chain.writable_bytes
        assert [describe(chain) for chain in found] == [describe(chain) for chain in expected]
        assert pair.device.in_flight == plain.device.in_flight
        assert pair.device.popped == plain.device.popped
        room = sum(chain.writable_bytes for chain in found)
        filled = data.draw(st.integers(max(0, room - (found[-1].writable_bytes if found else 0)), room))
        pair.device.push_filled(found, filled)
        for chain in expected:
            size = min(filled, chain.writable_bytes)
            plain.device.push(chain, size)
            filled -= size
        assert pair.device.flush() == plain.device.flush()
        while (used := plain.driver.poll()) is not None:
            assert pair.driver.poll() == used
        assert pair.driver.poll() is None


def describe(chain: DescriptorChain) -> tuple[object, ...]:
    views = ([bytes(view) for view in chain.readable], [len(view) for view in chain.writable])
    return (chain.head, chain.slots, *views, chain.readable_bytes, chain.writable_bytes, chain.writable_ranges)


def test_room_finds_broken_rings(split: Pair) -> None:
    driver = split_driver(split)
    driver.write_descriptor(0, 0x2000, 64, WRITE, 0)
    driver.write_descriptor(1, MEMORY_BYTES - 8, 64, WRITE, 0)
    driver.publish(0)
    driver.publish(1)
    with pytest.raises(VirtqueueError, match="no writable guest memory"):
        split.device.pop_room(1000, 10)
    for _ in range(20):
        driver.publish(0)
    with pytest.raises(VirtqueueError, match="available index went from"):
        split.device.pop_room(1000, 10)


@KINDS
def test_interrupt_is_no_longer_wanted_once_the_driver_saw_the_buffers(*, packed: bool) -> None:
    pair = Pair(packed=packed, event_index=True)
    pair.driver.set_interrupts(enabled=True)
    since = pair.device.published
    for _ in range(3):
        pair.driver.add([pair.segment(16, is_write=True)])
        chain = pair.device.pop()
        assert chain is not None
        pair.device.push(chain, 1)
        pair.device.flush()
    assert pair.device.wants_interrupt(since)
    assert pair.device.published_since(since) == 3
    while pair.driver.poll() is not None:
        pass
    assert not pair.device.wants_interrupt(since)
    pair.driver.set_interrupts(enabled=False)


@KINDS
def test_interrupt_without_event_index_is_wanted_by_the_flag(*, packed: bool) -> None:
    pair = Pair(packed=packed)
    for enabled in (True, False, True):
        pair.driver.set_interrupts(enabled=enabled)
        assert pair.device.wants_interrupt(pair.device.published) == enabled
