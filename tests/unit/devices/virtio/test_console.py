"""The console device: ports, control messages, flow control (VIRTIO 1.2, 5.3)."""

from __future__ import annotations

import struct

import pytest

from pyhyve.backends.chardev import ChannelReceiver, MemoryChardev
from pyhyve.devices.virtio.console import PortConfig, VirtioConsole
from pyhyve.devices.virtio.spec import ConsoleEvent, ConsoleFeature, Feature
from pyhyve.state.errors import StateError
from pyhyve.testing.virtio_driver import Segment, VirtioDriver
from pyhyve.testing.virtio_driver_transport import MiniMachine


class Channel(MemoryChardev):
    """The host's end, with a peer that comes and goes and takes as much as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.connected = True
        self.output_room = 1 << 20

    def write(self, data: bytes) -> None:
        super().write(data)
        self.output_room = max(0, self.output_room - len(data))

    @property
    def port(self) -> ChannelReceiver:
        assert isinstance(self._receiver, ChannelReceiver)
        return self._receiver


class Console:
    """A console with a started driver that has buffers everywhere."""

    def __init__(self, *, multiport: bool = True, has_console: bool = True) -> None:
        self.machine = MiniMachine()
        self.chardevs = [Channel(), Channel()]
        self.opened: list[bool] = []
        agent = PortConfig(self.chardevs[1], name="org.qemu.guest_agent.0", on_guest_open=self.opened.append)
        ports = [PortConfig(self.chardevs[0], is_console=True) if has_console else None, agent]
        self.device = VirtioConsole(self.machine.memory, self.machine.loop, ports)
        self.device.start(self.machine.loop)
        self.transport = self.machine.plug_pci(self.device)
        self.driver = VirtioDriver(self.transport, self.machine.allocator)
        features = self.transport.read_features() & ~int(Feature.RING_PACKED)
        self.driver.start(features if multiport else features & ~int(ConsoleFeature.MULTIPORT))
        self.buffers: dict[int, Segment] = {}
        for _ in range(16):
            self.post(2, 64)

    def post(self, queue: int, size: int) -> None:
        part = self.driver.buffer(size)
        self.buffers[queue << 16 | self.driver.submit(queue, [part])] = part
        self.machine.run()

    def take(self, queue: int) -> list[bytes]:
        self.machine.run()
        result = []
        while (used := self.driver.queues[queue].poll()) is not None:
            result.append(self.driver.read(self.buffers[queue << 16 | used.token])[: used.written_bytes])
        return result

    def control(self, port: int, event: int, value: int) -> list[tuple[int, int, int, bytes]]:
        self.driver.submit(3, [self.driver.buffer(struct.pack("<IHH", port, event, value))])
        return [(*struct.unpack_from("<IHH", data), data[8:]) for data in self.take(2)]


def test_ports_introduce_themselves() -> None:
    console = Console()
    assert console.control(0, ConsoleEvent.DEVICE_READY, 1) == [
        (0, ConsoleEvent.DEVICE_ADD, 0, b""),
        (1, ConsoleEvent.DEVICE_ADD, 0, b""),
    ]
    assert console.control(0, ConsoleEvent.PORT_READY, 1) == [
        (0, ConsoleEvent.CONSOLE_PORT, 1, b""),
        (0, ConsoleEvent.PORT_OPEN, 1, b""),
    ]
    assert console.control(1, ConsoleEvent.PORT_READY, 1) == [
        (1, ConsoleEvent.PORT_NAME, 1, b"org.qemu.guest_agent.0"),
        (1, ConsoleEvent.PORT_OPEN, 1, b""),
    ]
    assert console.transport.read_config(4, 4) == 2


@pytest.mark.parametrize(("port", "queue"), [(0, 1), (1, 5)])
def test_output_reaches_the_host(port: int, queue: int) -> None:
    console = Console()
    console.driver.submit(queue, [console.driver.buffer(b"hello "), console.driver.buffer(b"host")])
    console.machine.run()
    assert bytes(console.chardevs[port].output) == b"hello host"


@pytest.mark.parametrize(("port", "queue"), [(0, 0), (1, 4)])
def test_input_waits_for_open_port_and_buffers(port: int, queue: int) -> None:
    console = Console()
    console.chardevs[port].feed(b"early bird")
    console.post(queue, 6)
    assert console.take(queue) == []
    console.control(port, ConsoleEvent.PORT_OPEN, 1)
    assert console.take(queue) == [b"early "]
    console.post(queue, 64)
    assert console.take(queue) == [b"bird"]
    console.post(queue, 64)
    console.chardevs[port].feed(b"later")
    assert console.take(queue) == [b"later"]


def test_without_multiport_port_zero_is_open() -> None:
    console = Console(multiport=False)
    console.post(0, 64)
    console.chardevs[0].feed(b"x")
    assert console.take(0) == [b"x"]


def test_input_is_bounded_and_resumes() -> None:
    class Counting(MemoryChardev):
        resumed = 0

        def resume(self) -> None:
            self.resumed += 1

    machine = MiniMachine()
    chardev = Counting()
    device = VirtioConsole(machine.memory, machine.loop, [PortConfig(chardev, is_console=True)])
    device.start(machine.loop)
    port = device._ports[0]
    assert port is not None
    chardev.feed(bytes(1 << 20))
    assert port.room == 0
    assert len(port.pending) == 1 << 16
    driver = VirtioDriver(machine.plug_pci(device), machine.allocator)
    driver.start(int(Feature.VERSION_1))
    driver.submit(0, [driver.buffer(4096)])
    machine.run()
    assert chardev.resumed == 1
    assert port.room == 4096


def test_size_is_announced() -> None:
    console = Console()
    console.device.set_size(120, 40)
    assert console.transport.read_config(0, 4) == 120 | 40 << 16
    assert console.take(2) == [struct.pack("<IHHHH", 0, ConsoleEvent.RESIZE, 0, 120, 40)]


def test_emergency_write_needs_no_driver() -> None:
    console = Console()
    console.transport.write_status(0)
    console.transport.write_config(8, 4, ord("!"))
    console.machine.run()
    assert bytes(console.chardevs[0].output) == b"!"


@pytest.mark.parametrize(("port", "event"), [(99, ConsoleEvent.PORT_READY), (0, 77), (0xFFFFFFFF, 6)])
def test_nonsense_control_message_is_ignored(port: int, event: int) -> None:
    console = Console()
    assert console.control(port, event, 1) == []


def test_control_messages_are_bounded() -> None:
    console = Console()
    for _ in range(3000):
        console.driver.submit(3, [console.driver.buffer(struct.pack("<IHH", 0, ConsoleEvent.DEVICE_READY, 1))])
        console.machine.run()
        console.driver.queues[3].poll()
    assert len(console.device._control) <= 1024
    console.transport.write_status(0)
    assert not console.device._control


def test_a_console_needs_a_port() -> None:
    machine = MiniMachine()
    with pytest.raises(ValueError, match="ports"):
        VirtioConsole(machine.memory, machine.loop, [])


def test_number_without_a_port_stays_free() -> None:
    console = Console(has_console=False)
    assert console.control(0, ConsoleEvent.DEVICE_READY, 1) == [(1, ConsoleEvent.DEVICE_ADD, 0, b"")]
    assert console.control(0, ConsoleEvent.PORT_READY, 1) == []
    assert console.transport.read_config(4, 4) == 2
    console.transport.write_config(8, 4, ord("!"))
    token = console.driver.submit(1, [console.driver.buffer(b"to nobody")])
    console.machine.run()
    used = console.driver.queues[1].poll()
    assert used is not None
    assert used.token == token


def test_guest_learns_who_is_at_the_other_end() -> None:
    console = Console()
    agent = console.chardevs[1]
    agent.connected = False
    agent.port.peer_changed()
    assert console.control(0, ConsoleEvent.DEVICE_READY, 1)[1] == (1, ConsoleEvent.DEVICE_ADD, 0, b"")
    assert console.control(1, ConsoleEvent.PORT_READY, 1) == [
        (1, ConsoleEvent.PORT_NAME, 1, b"org.qemu.guest_agent.0"),
    ]
    for connected in (True, False):
        agent.connected = connected
        agent.port.peer_changed()
        assert console.take(2) == [struct.pack("<IHH", 1, ConsoleEvent.PORT_OPEN, connected)]


def test_host_learns_when_the_guest_opens_a_port() -> None:
    console = Console()
    console.control(1, ConsoleEvent.PORT_OPEN, 1)
    console.control(1, ConsoleEvent.PORT_OPEN, 1)
    console.control(1, ConsoleEvent.PORT_OPEN, 0)
    console.control(1, ConsoleEvent.PORT_OPEN, 1)
    console.transport.write_status(0)
    assert console.opened == [True, False, True, False]


def test_output_waits_for_a_slow_reader_and_loses_nothing() -> None:
    console = Console()
    agent = console.chardevs[1]
    agent.output_room = 1
    data = bytes(range(256)) * 800
    console.driver.submit(5, [console.driver.buffer(data[:150_000]), console.driver.buffer(data[150_000:])])
    console.driver.submit(5, [console.driver.buffer(b"more")])
    console.machine.run()
    assert agent.output == data[: 1 << 16]
    assert console.driver.queues[5].poll() is None
    while console.driver.queues[5].poll() is None:
        agent.output_room = 1
        agent.port.output_possible()
        console.machine.run()
    agent.output_room = 1 << 20
    agent.port.output_possible()
    console.machine.run()
    assert agent.output == data + b"more"
    assert console.driver.queues[5].poll() is not None


def test_reset_forgets_output_that_waits() -> None:
    console = Console()
    agent = console.chardevs[1]
    agent.output_room = 0
    console.driver.submit(5, [console.driver.buffer(b"never sent")])
    console.machine.run()
    console.transport.write_status(0)
    agent.output_room = 100
    agent.port.output_possible()
    console.machine.run()
    assert not agent.output


def test_output_that_waits_goes_on_after_a_pause_where_it_stopped() -> None:
    console = Console()
    agent = console.chardevs[1]
    agent.output_room = 1
    data = bytes(range(256)) * 800
    console.driver.submit(5, [console.driver.buffer(data)])
    console.machine.run()
    console.device.suspend()
    state = console.device.save()
    assert state.ports[1].output_done == len(agent.output) == 1 << 16
    console.device.load(state)
    console.device.resume()
    agent.output_room = 1 << 20
    console.machine.run()
    assert agent.output == data
    assert console.driver.queues[5].poll() is not None


def test_state_of_another_number_of_ports_is_refused() -> None:
    console = Console()
    state = console.device.save()
    with pytest.raises(StateError, match="the state has 1 ports, this one 2"):
        console.device.load(state.replaced(ports=state.ports[:1]))
