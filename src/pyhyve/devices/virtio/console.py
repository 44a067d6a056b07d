"""The virtio console (VIRTIO 1.2, 5.3): hvc consoles and named ports, such as a guest agent's channel.

Port 0 is always there; with MULTIPORT the driver learns of the others through the control queues. The host's end of
a port is a character device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import Struct, pack
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import ConsoleEvent, ConsoleFeature, DeviceType
from pyhyve.state.errors import StateError
from pyhyve.state.record import U16, record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.backends.chardev import Chardev, EventLoop
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_CONTROL = Struct("<IHH")
_CONTROL_RECEIVE, _CONTROL_TRANSMIT = 2, 3
_QUEUE_SIZE = 128
_MAX_PORTS = 31
_INPUT_LIMIT_BYTES = 1 << 16
_OUTPUT_CHUNK_BYTES = 1 << 16
_MAX_CONTROL_MESSAGES = 1024
_EMERGENCY_WRITE_OFFSET = 8


@dataclass(frozen=True, slots=True)
class PortConfig:
    """One port. `name` is what the guest finds under /dev/virtio-ports; a console becomes hvcN instead."""

    chardev: Chardev
    name: str = ""
    is_console: bool = False


@record
class ConsolePortState:
    """One port: whether the guest has it open, and input that waits for the guest."""

    guest_open: bool
    pending: bytes


@record
class VirtioConsoleState:
    """Size, control messages on their way to the guest, and the ports."""

    columns: U16
    rows: U16
    control: tuple[bytes, ...]
    ports: tuple[ConsolePortState, ...]


class _Port:
    """A port's state; also the receiver of its character device's input."""

    def __init__(self, console: VirtioConsole, index: int, config: PortConfig) -> None:
        self.index = index
        self.config = config
        self.pending = bytearray()
        self.guest_open = False
        self._console = console
        self.starved = False

    @property
    def receive_queue(self) -> int:
        """Its index (5.3.2)."""
        return 0 if self.index == 0 else 2 * self.index + 2

    @property
    def room(self) -> int:
        """Bytes of input that can wait here."""
        room = _INPUT_LIMIT_BYTES - len(self.pending)
        self.starved = room <= 0
        return max(0, room)

    def receive(self, data: bytes) -> None:
        """Input from the host's end; any thread."""
        self._console.receive(self, data)


class VirtioConsole(VirtioDevice):
    """A console device with one or more ports."""

    device_type: ClassVar[DeviceType] = DeviceType.CONSOLE
    state_type: ClassVar = VirtioConsoleState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, worker: Worker, ports: Sequence[PortConfig]) -> None:
        """Raises ValueError unless there are 1 to 31 ports. A character device's `write` must not feed input back."""
        if not 0 < len(ports) <= _MAX_PORTS:
            msg = f"a virtio console has 1 to {_MAX_PORTS} ports, not {len(ports)}"
            raise ValueError(msg)
        offered = ConsoleFeature.SIZE | ConsoleFeature.MULTIPORT | ConsoleFeature.EMERG_WRITE
        super().__init__(memory, worker, offered=int(offered), queue_sizes=[_QUEUE_SIZE] * (2 * len(ports) + 2))
        self._ports = [_Port(self, index, config) for index, config in enumerate(ports)]
        self._control: deque[bytes] = deque()
        self._columns = self._rows = 0

    def start(self, loop: EventLoop) -> None:
        """Begin to take input from the ports' character devices."""
        for port in self._ports:
            port.config.chardev.start(loop, port)

    def close(self) -> None:
        """Close the character devices; idempotent."""
        for port in self._ports:
            port.config.chardev.close()

    def save(self) -> VirtioConsoleState:
        """Size, messages and ports."""
        with self.lock:
            return VirtioConsoleState(
                columns=self._columns,
                rows=self._rows,
                control=tuple(self._control),
                ports=tuple(
                    ConsolePortState(guest_open=port.guest_open, pending=bytes(port.pending)) for port in self._ports
                ),
            )

    def load(self, state: VirtioConsoleState) -> None:
        """Take over size, messages and ports; raises StateError for another number of ports."""
        if len(state.ports) != len(self._ports):
            msg = f"virtio console: the state has {len(state.ports)} ports, this one {len(self._ports)}"
            raise StateError(msg)
        with self.lock:
            self._columns, self._rows = state.columns, state.rows
            self._control = deque(state.control[:_MAX_CONTROL_MESSAGES])
            for port, saved in zip(self._ports, state.ports, strict=True):
                port.guest_open = saved.guest_open
                port.pending[:0] = saved.pending[:_INPUT_LIMIT_BYTES]

    def set_size(self, columns: int, rows: int) -> None:
        """The terminal of console port 0 has this size now."""

        def change() -> None:
            self._columns, self._rows = columns, rows
            self.config_changed()
            if self.has_feature(ConsoleFeature.MULTIPORT):
                self._send_size(0)

        self.run_locked(change)

    # -- VirtioDevice -------------------------------------------------------------------------------------------------

    def config_space(self) -> bytes:
        """`struct virtio_console_config` (5.3.4)."""
        return pack("<HHII", self._columns, self._rows, len(self._ports), 0)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Emergency write (5.3.4): one character, at any time."""
        if offset == _EMERGENCY_WRITE_OFFSET:
            self._ports[0].config.chardev.write(bytes([value & 0xFF]))

    def started(self) -> None:
        """Without MULTIPORT, port 0 is open from the start."""
        if not self.has_feature(ConsoleFeature.MULTIPORT):
            self._ports[0].guest_open = True

    def stopped(self) -> None:
        """Reset: the guest's end of every port is closed."""
        self._control.clear()
        for port in self._ports:
            port.guest_open = False

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Output, control messages, or new buffers for what waits."""
        if index == _CONTROL_TRANSMIT:
            self._take_control(ring)
            self._flush_control()
        elif index == _CONTROL_RECEIVE:
            self._flush_control()
        else:
            port = self._ports[index >> 1 if index < _CONTROL_RECEIVE else (index >> 1) - 1]
            if index & 1:
                while (chain := ring.pop()) is not None:
                    for view in chain.readable:
                        for start in range(0, len(view), _OUTPUT_CHUNK_BYTES):
                            port.config.chardev.write(bytes(view[start : start + _OUTPUT_CHUNK_BYTES]))
                    ring.push(chain, 0)
            else:
                self._deliver_input(port)

    def service(self, index: int, ring: Virtqueue) -> None:
        """Receive queues keep their buffers until there is something to put into them."""
        if index & 1:
            super().service(index, ring)
        else:
            ring.disable_notify()
            self.handle_queue(index, ring)

    # -- input --------------------------------------------------------------------------------------------------------

    def receive(self, port: _Port, data: bytes) -> None:
        """Queue input of `port`, as far as there is room, and pass on what the driver has buffers for."""

        def accept() -> None:
            port.pending += data[: max(0, _INPUT_LIMIT_BYTES - len(port.pending))]
            self._deliver_input(port)

        self.run_locked(accept)

    def _deliver_input(self, port: _Port) -> None:
        """Copy waiting input into receive buffers; with the lock held."""
        ring = self.queues[port.receive_queue].ring
        if ring is None or not self.is_running or not port.guest_open:
            return
        while port.pending and (chain := _pop_or_wait(ring)) is not None:
            done = 0
            for view, (gpa, size) in zip(chain.writable, chain.writable_ranges, strict=True):
                part = min(size, len(port.pending))
                if not part:
                    break
                view[:part] = port.pending[:part]
                del port.pending[:part]
                self.dma.mark_written(gpa, part)
                done += part
            ring.push(chain, done)
        self.publish(port.receive_queue, ring)
        if port.starved and len(port.pending) < _INPUT_LIMIT_BYTES:
            port.starved = False
            port.config.chardev.resume()

    # -- control messages (5.3.6.2) -----------------------------------------------------------------------------------

    def _send_control(self, port: int, event: ConsoleEvent, value: int = 0, extra: bytes = b"") -> None:
        if len(self._control) < _MAX_CONTROL_MESSAGES:
            self._control.append(_CONTROL.pack(port, event, value) + extra)

    def _send_size(self, port: int) -> None:
        if self._ports[port].config.is_console:
            # 5.3.6.2 lists columns before rows.
            self._send_control(port, ConsoleEvent.RESIZE, 0, pack("<HH", self._columns, self._rows))
            self._flush_control()

    def _flush_control(self) -> None:
        """Put waiting messages into control receive buffers; one that does not fit its buffer is dropped."""
        ring = self.queues[_CONTROL_RECEIVE].ring
        if ring is None or not self.is_running:
            return
        while self._control and (chain := _pop_or_wait(ring)) is not None:
            message = self._control.popleft()
            done = 0
            if len(message) <= chain.writable_bytes:
                for view, (gpa, _) in zip(chain.writable, chain.writable_ranges, strict=True):
                    part = message[done : done + len(view)]
                    view[: len(part)] = part
                    self.dma.mark_written(gpa, len(part))
                    done += len(part)
            ring.push(chain, done)
        self.publish(_CONTROL_RECEIVE, ring)

    def _take_control(self, ring: Virtqueue) -> None:
        """Act on the driver's messages; malformed ones are ignored."""
        while (chain := ring.pop()) is not None:
            data = b"".join(bytes(view[: _CONTROL.size]) for view in chain.readable[: _CONTROL.size])
            if len(data) >= _CONTROL.size:
                self._act(*_CONTROL.unpack_from(data))
            ring.push(chain, 0)

    def _act(self, port_index: int, event: int, value: int) -> None:
        if event == ConsoleEvent.DEVICE_READY:
            if value:
                for port in self._ports:
                    self._send_control(port.index, ConsoleEvent.DEVICE_ADD)
            return
        if port_index >= len(self._ports):
            return
        port = self._ports[port_index]
        if event == ConsoleEvent.PORT_READY and value:
            if port.config.is_console:
                self._send_control(port_index, ConsoleEvent.CONSOLE_PORT, 1)
                if self._columns and self._rows:
                    self._send_size(port_index)
            if port.config.name:
                self._send_control(port_index, ConsoleEvent.PORT_NAME, 1, port.config.name.encode())
            self._send_control(port_index, ConsoleEvent.PORT_OPEN, 1)
        elif event == ConsoleEvent.PORT_OPEN:
            port.guest_open = bool(value)
            self._deliver_input(port)


def _pop_or_wait(ring: Virtqueue) -> DescriptorChain | None:
    """The next buffer; None when there is none, and then the driver's next one brings a kick."""
    chain = ring.pop()
    if chain is None and ring.enable_notify():
        chain = ring.pop()
    return chain
