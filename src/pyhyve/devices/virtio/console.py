"""The virtio console (VIRTIO 1.2, 5.3): hvc consoles and named ports, such as a guest agent's channel.

Port 0 is always there; with MULTIPORT the driver learns of the others through the control queues. The host's end of
a port is a character device. Nothing written to a port is lost while somebody is at its other end: a guest that writes
faster than the host reads waits.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from struct import Struct, pack
from typing import TYPE_CHECKING, ClassVar

from pyhyve.devices.virtio.device import VirtioDevice, Worker
from pyhyve.devices.virtio.spec import ConsoleEvent, ConsoleFeature, DeviceType
from pyhyve.state.errors import StateError
from pyhyve.state.record import U16, U32, record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pyhyve.backends.chardev import Chardev, EventLoop
    from pyhyve.devices.virtio.chain import DescriptorChain
    from pyhyve.devices.virtio.queue import Virtqueue
    from pyhyve.memory.guest import GuestMemory

_CONTROL = Struct("<IHH")
_CONTROL_RECEIVE, _CONTROL_TRANSMIT = 2, 3
_QUEUE_SIZE = 128
MAX_PORTS = 31
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
    on_guest_open: Callable[[bool], None] | None = None
    """Called when a program in the guest opens or closes the port; with the device's lock held."""


@record
class ConsolePortState:
    """One port: whether the guest has it open, and input that waits for the guest."""

    guest_open: bool
    pending: bytes
    ready: bool = False
    output_done: U32 = 0
    """Bytes of the guest's next buffer that were written already."""


@record
class VirtioConsoleState:
    """Size, control messages on their way to the guest, and the ports."""

    columns: U16
    rows: U16
    control: tuple[bytes, ...]
    ports: tuple[ConsolePortState, ...]


_ABSENT = ConsolePortState(guest_open=False, pending=b"")


class _Port:
    """A port's state; also the receiver of its character device's input (`chardev.ChannelReceiver`)."""

    def __init__(self, console: VirtioConsole, index: int, config: PortConfig) -> None:
        self.index = index
        self.config = config
        self.pending = bytearray()
        self.ready = False
        """Whether the driver knows of the port."""
        self.guest_open = False
        self.output: tuple[DescriptorChain, Iterator[memoryview]] | None = None
        """A buffer from the guest, and what is left of it, that the character device has no room for."""
        self.output_done = 0
        """Bytes of it that were written."""
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

    @property
    def transmit_queue(self) -> int:
        """Its index (5.3.2)."""
        return self.receive_queue + 1

    @property
    def host_open(self) -> bool:
        """What the guest is told: a console is always there, a channel when somebody is at its end."""
        return self.config.is_console or self.config.chardev.connected

    def open_for_guest(self, *, is_open: bool) -> None:
        """A program in the guest opened or closed the port; with the device's lock held."""
        if is_open != self.guest_open:
            self.guest_open = is_open
            if self.config.on_guest_open is not None:
                self.config.on_guest_open(is_open)

    def save(self) -> ConsolePortState:
        """What outlives the process; the host's end does not."""
        return ConsolePortState(
            guest_open=self.guest_open, pending=bytes(self.pending), ready=self.ready, output_done=self.output_done
        )

    def load(self, state: ConsolePortState) -> None:
        """Take over what `save` gave."""
        self.guest_open, self.ready, self.output_done = state.guest_open, state.ready, state.output_done
        self.pending[:0] = state.pending[:_INPUT_LIMIT_BYTES]

    def forget_output(self) -> None:
        """The driver took its buffers back."""
        self.output = None
        self.output_done = 0

    def receive(self, data: bytes) -> None:
        """Input from the host's end; any thread."""
        self._console.receive(self, data)

    def peer_changed(self) -> None:
        """Somebody came to the host's end, or left it."""
        self._console.peer_changed(self)

    def output_possible(self) -> None:
        """The host's end takes output again."""
        if self.output is not None:
            self._console.notify(self.transmit_queue)


class VirtioConsole(VirtioDevice):
    """A console device with one or more ports."""

    device_type: ClassVar[DeviceType] = DeviceType.CONSOLE
    state_type: ClassVar = VirtioConsoleState
    state_version: ClassVar = 1

    def __init__(self, memory: GuestMemory, worker: Worker, ports: Sequence[PortConfig | None]) -> None:
        """`ports` by number; None leaves a number free.

        Raises ValueError unless there are 1 to 31 numbers. A character device's `write` must not feed input back.
        """
        if not 0 < len(ports) <= MAX_PORTS:
            msg = f"a virtio console has 1 to {MAX_PORTS} ports, not {len(ports)}"
            raise ValueError(msg)
        offered = ConsoleFeature.SIZE | ConsoleFeature.MULTIPORT | ConsoleFeature.EMERG_WRITE
        super().__init__(memory, worker, offered=int(offered), queue_sizes=[_QUEUE_SIZE] * (2 * len(ports) + 2))
        self._ports = [None if config is None else _Port(self, index, config) for index, config in enumerate(ports)]
        self._control: deque[bytes] = deque()
        self._columns = self._rows = 0

    @property
    def max_ports(self) -> int:
        """How many numbers there are."""
        return len(self._ports)

    @property
    def numbers(self) -> frozenset[int]:
        """Numbers that are taken."""
        return frozenset(port.index for port in self._present())

    def is_open_in_guest(self, number: int) -> bool:
        """Whether a program in the guest has port `number` open."""
        port = self._ports[number]
        return port is not None and port.guest_open

    def add_port(self, number: int, config: PortConfig, loop: EventLoop) -> None:
        """Add a port with a free number; a driver that runs is told (5.3.6.2). `loop` runs on the worker's thread."""
        port = _Port(self, number, config)

        def add() -> None:
            self._ports[number] = port
            if self.is_running and self.has_feature(ConsoleFeature.MULTIPORT):
                self._send_control(number, ConsoleEvent.DEVICE_ADD)
                self._flush_control()

        self.run_locked(add)
        config.chardev.start(loop, port)

    def remove_port(self, number: int) -> None:
        """Remove a port, whose character device somebody else closes; a driver that runs is told."""

        def remove() -> None:
            port, self._ports[number] = self._ports[number], None
            if port is None:
                return
            ring = self.queues[port.transmit_queue].ring
            if port.output is not None and ring is not None:
                ring.push(port.output[0], 0)
                self.publish(port.transmit_queue, ring)
            if self.is_running and self.has_feature(ConsoleFeature.MULTIPORT):
                self._send_control(number, ConsoleEvent.DEVICE_REMOVE)
                self._flush_control()

        self.run_locked(remove)

    def start(self, loop: EventLoop) -> None:
        """Begin to take input from the ports' character devices; `loop` runs on the worker's thread."""
        for port in self._present():
            port.config.chardev.start(loop, port)

    def close(self) -> None:
        """Close the character devices; idempotent."""
        for port in self._present():
            port.config.chardev.close()

    def save(self) -> VirtioConsoleState:
        """Size, messages and ports."""
        with self.lock:
            return VirtioConsoleState(
                columns=self._columns,
                rows=self._rows,
                control=tuple(self._control),
                ports=tuple(_ABSENT if port is None else port.save() for port in self._ports),
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
                if port is not None:
                    port.load(saved)

    def give_back(self) -> None:
        """Buffers that character devices have no room for; what was written of them is remembered."""
        for port in self._present():
            ring = self.queues[port.transmit_queue].ring
            if port.output is not None and ring is not None:
                ring.unpop(port.output[0])
            port.output = None

    def _present(self) -> list[_Port]:
        return [port for port in self._ports if port is not None]

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
        port = self._ports[0]
        if offset == _EMERGENCY_WRITE_OFFSET and port is not None:
            chardev, data = port.config.chardev, bytes([value & 0xFF])
            self.worker.call_soon(lambda: chardev.write(data))

    def started(self) -> None:
        """Without MULTIPORT, port 0 is open from the start."""
        port = self._ports[0]
        if not self.has_feature(ConsoleFeature.MULTIPORT) and port is not None:
            port.open_for_guest(is_open=True)

    def stopped(self) -> None:
        """Reset: the guest's end of every port is closed."""
        self._control.clear()
        for port in self._present():
            port.ready = False
            port.forget_output()
            port.open_for_guest(is_open=False)

    def queue_stopped(self, index: int) -> None:
        """Forget output that waits."""
        port = self._port_of(index)
        if port is not None and index & 1:
            port.forget_output()

    def _port_of(self, index: int) -> _Port | None:
        """The port that queue `index` belongs to (5.3.2); None for control queues and absent ports."""
        if index in {_CONTROL_RECEIVE, _CONTROL_TRANSMIT}:
            return None
        return self._ports[index >> 1 if index < _CONTROL_RECEIVE else (index >> 1) - 1]

    def is_blocked(self, index: int) -> bool:
        """A port whose character device takes no more output."""
        port = self._port_of(index)
        return port is not None and bool(index & 1) and port.output is not None

    def handle_queue(self, index: int, ring: Virtqueue) -> None:
        """Output, control messages, or new buffers for what waits."""
        port = self._port_of(index)
        if index == _CONTROL_TRANSMIT:
            self._take_control(ring)
            self._flush_control()
        elif index == _CONTROL_RECEIVE:
            self._flush_control()
        elif port is None:
            while index & 1 and (chain := ring.pop()) is not None:
                ring.push(chain, 0)
        elif index & 1:
            _write_output(port, ring)
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

    def peer_changed(self, port: _Port) -> None:
        """Tell the driver whether somebody is at the host's end of `port`."""

        def tell() -> None:
            if port.ready and not port.config.is_console:
                self._send_control(port.index, ConsoleEvent.PORT_OPEN, int(port.host_open))
                self._flush_control()

        self.run_locked(tell)

    # -- control messages (5.3.6.2) -----------------------------------------------------------------------------------

    def _send_control(self, port: int, event: ConsoleEvent, value: int = 0, extra: bytes = b"") -> None:
        if len(self._control) < _MAX_CONTROL_MESSAGES:
            self._control.append(_CONTROL.pack(port, event, value) + extra)

    def _send_size(self, port: int) -> None:
        config = self._ports[port]
        if config is not None and config.config.is_console:
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
                for port in self._present():
                    self._send_control(port.index, ConsoleEvent.DEVICE_ADD)
            return
        found = self._ports[port_index] if port_index < len(self._ports) else None
        if found is None:
            return
        if event == ConsoleEvent.PORT_READY and value:
            found.ready = True
            if found.config.is_console:
                self._send_control(port_index, ConsoleEvent.CONSOLE_PORT, 1)
                if self._columns and self._rows:
                    self._send_size(port_index)
            if found.config.name:
                self._send_control(port_index, ConsoleEvent.PORT_NAME, 1, found.config.name.encode())
            if found.host_open:
                self._send_control(port_index, ConsoleEvent.PORT_OPEN, 1)
        elif event == ConsoleEvent.PORT_OPEN:
            found.open_for_guest(is_open=bool(value))
            self._deliver_input(found)


def _write_output(port: _Port, ring: Virtqueue) -> None:
    """Pass on what the guest wrote, as far as the character device takes it."""
    chardev = port.config.chardev
    while True:
        if port.output is None:
            chain = ring.pop()
            if chain is None:
                return
            port.output = (chain, _pieces(chain, port.output_done))
        chain, pieces = port.output
        while chardev.output_room > 0:
            piece = next(pieces, None)
            if piece is None:
                port.forget_output()
                ring.push(chain, 0)
                break
            chardev.write(bytes(piece))
            port.output_done += len(piece)
        else:
            return


def _pieces(chain: DescriptorChain, skip: int) -> Iterator[memoryview]:
    """What is to be read of `chain` behind its first `skip` bytes, in pieces that can be copied."""
    for view in chain.readable:
        for start in range(min(skip, len(view)), len(view), _OUTPUT_CHUNK_BYTES):
            yield view[start : start + _OUTPUT_CHUNK_BYTES]
        skip = max(0, skip - len(view))


def _pop_or_wait(ring: Virtqueue) -> DescriptorChain | None:
    """The next buffer; None when there is none, and then the driver's next one brings a kick."""
    chain = ring.pop()
    if chain is None and ring.enable_notify():
        chain = ring.pop()
    return chain
