"""Feature negotiation, status, queue setup, interrupts and reset over each transport (VIRTIO 1.2, 2, 3 and 4)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pyhyve.devices.pci import spec as pci
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.rng import VirtioRng
from pyhyve.devices.virtio.spec import (
    ISR_CONFIG,
    ISR_QUEUE,
    NO_VECTOR,
    CommonReg,
    DescFlag,
    Feature,
    MmioReg,
    PciCap,
    Status,
)
from pyhyve.testing.virtio_driver import DriverError, SplitDriverQueue
from pyhyve.testing.virtio_driver_transport import MiniMachine, MmioDriverTransport, PciDriverTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRANSPORTS = ["pci-msix", "pci-intx", "mmio", "mmio-legacy"]


@pytest.fixture
def machine() -> Iterator[MiniMachine]:
    machine = MiniMachine()
    yield machine
    machine.close()


def counting() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda n: bytes([next(numbers)]) * n


def plug(machine: MiniMachine, kind: str) -> PciDriverTransport | MmioDriverTransport:
    device = VirtioRng(machine.memory, machine.loop, source=counting())
    if kind.startswith("pci"):
        return machine.plug_pci(device, msix=kind == "pci-msix")
    return machine.plug_mmio(device, legacy=kind == "mmio-legacy")


@pytest.mark.parametrize("kind", TRANSPORTS)
@pytest.mark.parametrize("packed", [False, True])
def test_request_goes_through_and_interrupts(machine: MiniMachine, kind: str, packed: bool) -> None:
    transport = plug(machine, kind)
    driver = machine.driver(transport)
    features = transport.read_features()
    if not packed:
        features &= ~int(Feature.RING_PACKED)
    elif transport.legacy:
        pytest.skip("legacy devices have no packed rings")
    driver.start(features)
    for turn in range(1, 70):
        part = driver.buffer(8)
        token = driver.submit(0, [part])
        machine.run()
        used = driver.queues[0].poll()
        assert used is not None
        assert (used.token, used.written_bytes) == (token, 8)
        assert driver.read(part) == bytes([turn]) * 8
        if kind == "pci-msix":
            assert machine.messages == [1] * turn
            assert not any(machine.lines)
        elif isinstance(transport, PciDriverTransport):
            assert any(machine.lines)
            assert transport.read_isr() == ISR_QUEUE
            assert transport.read_isr() == 0
            assert not any(machine.lines)
        else:
            assert machine.lines[0]
            assert transport.get(MmioReg.INTERRUPT_STATUS) == ISR_QUEUE
            transport.put(MmioReg.INTERRUPT_ACK, ISR_QUEUE)
            assert not machine.lines[0]


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_reset_many_times(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    driver = machine.driver(transport)
    for _ in range(100):
        driver.start(queue_size=8)
        part = driver.buffer(4)
        driver.submit(0, [part])
        machine.run()
        assert driver.queues[0].poll() is not None
    transport.write_status(0)
    assert transport.read_status() == 0


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_broken_ring_asks_for_reset_and_reset_cures(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    driver = machine.driver(transport)
    features = transport.read_features() & ~int(Feature.RING_PACKED)
    driver.start(features)
    queue = driver.queues[0]
    assert isinstance(queue, SplitDriverQueue)
    queue.write_descriptor(0, 0x1000, 4, int(DescFlag.NEXT), 0)
    queue.publish(0)
    transport.notify(0)
    machine.run()
    assert transport.read_status() & Status.NEEDS_RESET
    if kind == "pci-msix":
        assert machine.messages == [0]
    elif isinstance(transport, PciDriverTransport):
        assert transport.read_isr() == ISR_CONFIG
    else:
        assert transport.get(MmioReg.INTERRUPT_STATUS) == ISR_CONFIG
    transport.notify(0)
    machine.run()
    driver.start(features)
    assert not transport.read_status() & Status.NEEDS_RESET
    driver.submit(0, [driver.buffer(4)])
    machine.run()
    assert driver.queues[0].poll() is not None


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
def test_features_not_offered_are_refused(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    for wrong in (Feature.VERSION_1 | Feature.SR_IOV, 1 << 5 | Feature.VERSION_1, Feature.INDIRECT_DESC):
        with pytest.raises(DriverError):
            machine.driver(transport).start(int(wrong))
    machine.driver(transport).start(int(Feature.VERSION_1))


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
def test_driver_that_ignores_a_refusal_gets_nothing(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    transport.write_status(Status.ACKNOWLEDGE | Status.DRIVER)
    transport.write_features(int(Feature.SR_IOV))
    transport.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
    transport.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK | Status.DRIVER_OK)
    assert not transport.read_status() & Status.DRIVER_OK


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
def test_features_are_frozen_after_features_ok(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    driver = machine.driver(transport)
    driver.start(int(Feature.VERSION_1))
    transport.write_features(int(Feature.VERSION_1 | Feature.INDIRECT_DESC))
    device = transport.registers.device if isinstance(transport, MmioDriverTransport) else transport.function.device
    assert device.driver_features == Feature.VERSION_1


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
@pytest.mark.parametrize("packed", [False, True])
def test_queue_reset_gives_the_queue_back(machine: MiniMachine, kind: str, packed: bool) -> None:
    transport = plug(machine, kind)
    driver = machine.driver(transport)
    features = transport.read_features()
    driver.start(features if packed else features & ~int(Feature.RING_PACKED))
    driver.submit(0, [driver.buffer(4)])
    machine.run()
    transport.reset_queue(0)
    driver.queues[0] = driver.make_queue(16)
    transport.enable_queue(0, driver.queues[0].layout)
    driver.submit(0, [driver.buffer(4)])
    machine.run()
    assert driver.queues[0].poll() is not None


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
def test_ring_outside_memory_fails_the_device(machine: MiniMachine, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = plug(machine, kind)
    enable = transport.enable_queue
    monkeypatch.setattr(
        transport, "enable_queue", lambda index, layout: enable(index, replace(layout, device_gpa=1 << 30))
    )
    machine.driver(transport).start()
    assert transport.read_status() & Status.NEEDS_RESET


@pytest.mark.parametrize("kind", ["pci-msix", "mmio"])
def test_kick_without_driver_or_queue_is_ignored(machine: MiniMachine, kind: str) -> None:
    transport = plug(machine, kind)
    transport.notify(0)
    if isinstance(transport, MmioDriverTransport):
        transport.put(MmioReg.QUEUE_NOTIFY, 77)
        transport.put(MmioReg.QUEUE_NOTIFY, 0xFFFFFFFF)
    machine.run()
    assert transport.read_status() == 0


def pci_transport(machine: MiniMachine, *, msix: bool = True) -> PciDriverTransport:
    transport = plug(machine, "pci-msix" if msix else "pci-intx")
    assert isinstance(transport, PciDriverTransport)
    return transport


def test_pci_identity_is_modern(machine: MiniMachine) -> None:
    transport = pci_transport(machine)
    assert transport.config_read(pci.VENDOR_ID, 2) == 0x1AF4
    assert transport.config_read(pci.DEVICE_ID, 2) == 0x1044
    assert transport.config_read(pci.REVISION_ID, 1) >= 1
    assert set(transport.structures) == set(PciCap)


def test_pci_vector_out_of_range_reads_back_as_none(machine: MiniMachine) -> None:
    transport = pci_transport(machine)
    transport.common_write(CommonReg.CONFIG_MSIX_VECTOR, 2, 2)
    assert transport.common_read(CommonReg.CONFIG_MSIX_VECTOR, 2) == NO_VECTOR
    transport.common_write(CommonReg.CONFIG_MSIX_VECTOR, 2, 1)
    assert transport.common_read(CommonReg.CONFIG_MSIX_VECTOR, 2) == 1


def test_pci_queue_registers_read_back(machine: MiniMachine) -> None:
    transport = pci_transport(machine)
    transport.common_write(CommonReg.QUEUE_SELECT, 2, 0)
    transport.common_write(CommonReg.QUEUE_DESC, 8, 0x1122334455667788)
    assert transport.common_read(CommonReg.QUEUE_DESC, 8) == 0x1122334455667788
    assert transport.common_read(CommonReg.QUEUE_DESC + 4, 4) == 0x11223344
    transport.common_write(CommonReg.QUEUE_DESC + 4, 4, 1)
    assert transport.common_read(CommonReg.QUEUE_DESC, 8) == 0x155667788
    transport.common_write(CommonReg.QUEUE_SELECT, 2, 9)
    for register in (CommonReg.QUEUE_SIZE, CommonReg.QUEUE_ENABLE, CommonReg.QUEUE_DESC):
        assert transport.common_read(register, 2) == 0
    assert transport.common_read(CommonReg.QUEUE_MSIX_VECTOR, 2) == NO_VECTOR


def test_pci_window_reaches_the_structures(machine: MiniMachine) -> None:
    transport = pci_transport(machine, msix=False)
    window = transport.capabilities[PciCap.PCI]
    transport.config_write(window + 4, 1, 0)
    transport.config_write(window + 8, 4, CommonReg.DEVICE_STATUS)
    transport.config_write(window + 12, 4, 1)
    transport.config_write(window + 16, 1, int(Status.ACKNOWLEDGE))
    assert transport.read_status() == Status.ACKNOWLEDGE
    assert transport.config_read(window + 16, 1) == Status.ACKNOWLEDGE
    transport.config_write(window + 8, 4, CommonReg.NUM_QUEUES)
    transport.config_write(window + 12, 4, 2)
    assert transport.config_read(window + 16, 2) == 1


@pytest.mark.parametrize(("bar", "offset", "length"), [(5, 0, 4), (0, 0, 3), (0, 2, 4), (0, 0xFFFFFFFC, 4), (1, 0, 0)])
def test_pci_window_that_leads_nowhere_is_harmless(machine: MiniMachine, bar: int, offset: int, length: int) -> None:
    transport = pci_transport(machine)
    window = transport.capabilities[PciCap.PCI]
    transport.config_write(window + 4, 1, bar)
    transport.config_write(window + 8, 4, offset)
    transport.config_write(window + 12, 4, length)
    transport.config_write(window + 16, 4, 0xFFFFFFFF)
    transport.config_read(window + 16, 4)
    assert transport.read_status() == 0


def test_pci_masked_vector_stays_pending(machine: MiniMachine) -> None:
    transport = pci_transport(machine)
    driver = machine.driver(transport)
    driver.start()
    msix = transport.function.msix
    assert msix is not None
    transport.config_write(msix.offset + 2, 2, pci.MSIX_ENABLE | pci.MSIX_FUNCTION_MASK)
    driver.submit(0, [driver.buffer(4)])
    machine.run()
    assert machine.messages == []
    transport.config_write(msix.offset + 2, 2, pci.MSIX_ENABLE)
    assert machine.messages == [1]


def test_pci_lets_the_engine_watch_notifications(machine: MiniMachine) -> None:
    watched: dict[int, Callable[[int], None]] = {}

    def register(address: int, size: int, callback: Callable[[int], None]) -> Callable[[], None]:
        assert size == 2
        watched[address] = callback
        return lambda: watched.pop(address)  # type: ignore[return-value]

    function = VirtioPci(VirtioRng(machine.memory, machine.loop), register_notify=register)
    machine.bus.attach(function)
    transport = PciDriverTransport(machine, function, msix=True)
    assert set(watched) == {transport.structures[PciCap.NOTIFY]}
    driver = machine.driver(transport)
    driver.start()
    driver.queues[0].add([driver.buffer(4)])
    next(iter(watched.values()))(0)
    machine.run()
    assert driver.queues[0].poll() is not None
    transport.config_write(pci.BAR0, 4, 0xD000_0000)
    assert set(watched) == {0xD000_3000}
    transport.config_write(pci.COMMAND, 2, 0)
    assert not watched


def test_pci_function_reset_forgets_everything(machine: MiniMachine) -> None:
    transport = pci_transport(machine, msix=False)
    driver = machine.driver(transport)
    driver.start()
    driver.submit(0, [driver.buffer(4)])
    machine.run()
    assert any(machine.lines)
    machine.bus.reset()
    assert not any(machine.lines)
    assert transport.function.device.status == 0


def test_mmio_identity(machine: MiniMachine) -> None:
    for legacy in (False, True):
        transport = plug(machine, "mmio-legacy" if legacy else "mmio")
        assert isinstance(transport, MmioDriverTransport)
        assert transport.get(MmioReg.MAGIC_VALUE).to_bytes(4, "little") == b"virt"
        assert transport.get(MmioReg.VERSION) == (1 if legacy else 2)
        assert transport.get(MmioReg.DEVICE_ID) == 4
        assert bool(transport.read_features() & Feature.VERSION_1) != legacy
        assert transport.registers.read(MmioReg.MAGIC_VALUE, 1) == 0
        assert transport.read_config(0, 4) == 0xFFFFFFFF
        assert transport.get(MmioReg.SHM_LEN_LOW) == 0xFFFFFFFF


def test_mmio_queue_ready_zero_stops_the_queue(machine: MiniMachine) -> None:
    transport = plug(machine, "mmio")
    assert isinstance(transport, MmioDriverTransport)
    driver = machine.driver(transport)
    driver.start()
    transport.put(MmioReg.QUEUE_SEL, 0)
    assert transport.get(MmioReg.QUEUE_READY) == 1
    transport.put(MmioReg.QUEUE_READY, 0)
    assert transport.get(MmioReg.QUEUE_READY) == 0
    driver.queues[0].add([driver.buffer(4)])
    transport.notify(0)
    machine.run()
    assert driver.queues[0].poll() is None
