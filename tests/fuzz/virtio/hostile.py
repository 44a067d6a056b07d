"""A driver that breaks every rule it can: descriptors, rings, tables, registers, all biased towards the edges.

One `HostileDriver` holds one device on a small machine and runs one case after another against it. What must hold
after each case: no exception, read-only memory unchanged, no more outstanding buffers than the ring has entries, and
a broken device that comes back after a reset.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from pyhyve.accel.api import ExitKind
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.accel.routes import MessageRoute
from pyhyve.devices.scsi.drive import DiscDrive
from pyhyve.devices.virtio.balloon import VirtioBalloon
from pyhyve.devices.virtio.block import BlockOptions, VirtioBlock
from pyhyve.devices.virtio.console import PortConfig, VirtioConsole
from pyhyve.devices.virtio.mmio import VirtioMmio
from pyhyve.devices.virtio.net import NetOptions, VirtioNet
from pyhyve.devices.virtio.pci import VirtioPci
from pyhyve.devices.virtio.rng import VirtioRng
from pyhyve.devices.virtio.scsi import VirtioScsi
from pyhyve.devices.virtio.spec import DescFlag, Feature, Status
from pyhyve.devices.virtio.vsock import VirtioVsock
from pyhyve.devices.virtio.vsock_packet import VsockHeader
from pyhyve.testing.virtio_driver_transport import MiniMachine, PciDriverTransport

from .backends import Disk, Net, Sink, Sockets, Wire, walked_disk

if TYPE_CHECKING:
    import random

    from pyhyve.devices.virtio.device import VirtioDevice

MEMORY_BYTES = 1 << 20
ROM_GPA = 0x4000_0000
ROM_BYTES = 0x1000
RING_GPA = 0x1000
RING_STRIDE = 0x4000
DATA_GPA = 0x80000
TABLE_GPA = 0x70000
KICK_GPA = 0xD000_0000
VECTOR = 0x41
_KICK = b"\xa3\x00\x00\xf4"
"""MOV [0], AX; HLT."""
QUEUE_SIZE = 16
GUEST_CID = 3
_DESCRIPTOR = Struct("<QIHH")
_EDGES = (
    0, 1, 0xFFF, 0x1000, MEMORY_BYTES - 1, MEMORY_BYTES, MEMORY_BYTES + 1, ROM_GPA, ROM_GPA + ROM_BYTES - 1,
    1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096,
)  # fmt: skip
_LENGTHS = (0, 1, 11, 12, 16, 17, 20, 512, 513, 1024, 4096, 65536, MEMORY_BYTES, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFF000)
_INDICES = (0, 1, QUEUE_SIZE - 1, QUEUE_SIZE, QUEUE_SIZE + 1, 0x7FFF, 0x8000, 0xFFFF)
_WRITE = int(DescFlag.WRITE)
_NEXT = int(DescFlag.NEXT)
_INDIRECT = int(DescFlag.INDIRECT)
_AVAIL = int(DescFlag.AVAIL)
_USED = int(DescFlag.USED)


DEVICES = ("block", "net", "console", "rng", "balloon", "scsi", "vsock", "walked-block", "walked-net")
"""The walked ones are served by the emulator's compiled code, as far as that goes."""


class HostileDriver:
    """One device of type `kind`, driven by `rng`."""

    def __init__(self, kind: str, rng: random.Random) -> None:
        self.kind = kind
        self._rng = rng
        self.machine = MiniMachine(MEMORY_BYTES)
        rom = self.machine.memory.add(ROM_GPA, ROM_BYTES, readonly=True, name="rom")
        rom.view[:] = _KICK.ljust(ROM_BYTES, b"\xc3")
        self._rom = rom.view
        self._ram = self.machine.memory.regions[0].view
        self._net: Net | None = None
        self._sockets: Sockets | None = None
        self._chardev = Sink(rng)
        self._vm: EmulatorVm | None = None
        self._route: MessageRoute | None = None
        self.device = self._make(kind)
        if kind.startswith("walked-"):
            self.kind = kind.removeprefix("walked-")
            self._vm = EmulatorVm(self.machine.memory)
            self._vm.create_vcpu(0)
            self.device.use_walker(self._vm)
            self.device.kick_address = lambda index: KICK_GPA + 4 * index
            self._new_way()
        if rng.getrandbits(1):
            transport = PciDriverTransport(self.machine, self._pci(), msix=True)
            self._registers = [(bar.device, bar.size_bytes) for bar in transport.function.bars.values()]
        else:
            self._registers = [(VirtioMmio(self.device, self.machine), 0x200)]
        self._packed = False
        self._positions = [0] * len(self.device.queues)
        self.resets = 0
        self.broken = 0
        self._restart()

    def _new_way(self) -> None:
        """Let compiled code send interrupts by itself, on another way than before."""
        assert self._vm is not None
        (vcpu,) = self._vm.vcpus
        vcpu.apic_vectors.irr = 0
        vcpu.apic_vectors.enabled = self._rng.getrandbits(2) != 0
        if self._route is not None:
            self._route.end()
        route = self._route = MessageRoute(vcpu.apic_vectors, VECTOR, vcpu.look_for_interrupts)
        self.device.queue_route = lambda _index: route

    def _pci(self) -> VirtioPci:
        function = VirtioPci(self.device)
        self.machine.bus.attach(function)
        return function

    def _make(self, kind: str) -> VirtioDevice:
        memory, loop, rng = self.machine.memory, self.machine.loop, self._rng
        if kind == "block":
            return VirtioBlock(memory, loop, Disk(rng), BlockOptions(queues=2, queue_size=QUEUE_SIZE))
        if kind == "walked-block":
            return VirtioBlock(memory, loop, walked_disk(), BlockOptions(queues=2, queue_size=QUEUE_SIZE))
        if kind in {"net", "walked-net"}:
            self._net = Net(rng) if kind == "net" else Wire(rng)
            device = VirtioNet(memory, loop, self._net, NetOptions(bytes(6), queue_size=QUEUE_SIZE))
            device.start(loop)
            return device
        if kind == "console":
            ports = [PortConfig(self._chardev, is_console=True), None, PortConfig(Sink(rng))]
            console = VirtioConsole(memory, loop, ports)
            console.start(loop)  # type: ignore[arg-type]
            return console
        if kind == "scsi":
            scsi = VirtioScsi(memory, loop)
            scsi.targets[0] = DiscDrive(Disk(rng))
            return scsi
        if kind == "vsock":
            self._sockets = Sockets(rng)
            vsock = VirtioVsock(memory, loop, GUEST_CID, self._sockets)
            vsock.start()
            return vsock
        return VirtioRng(memory, loop) if kind == "rng" else VirtioBalloon(memory, loop)

    def _restart(self) -> None:
        """Reset and bring the device up, with random features and rings that are in order."""
        device, rng = self.device, self._rng
        self.resets += 1
        device.write_status(0)
        self._packed = bool(rng.getrandbits(1) and device.device_features & Feature.RING_PACKED)
        features = device.device_features | int(Feature.VERSION_1)
        if not self._packed:
            features &= ~int(Feature.RING_PACKED)
        for bit in (Feature.INDIRECT_DESC, Feature.EVENT_IDX):
            if rng.getrandbits(2) == 0:
                features &= ~int(bit)
        device.write_driver_features(0, features & 0xFFFFFFFF)
        device.write_driver_features(1, features >> 32)
        device.write_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
        self._ram[RING_GPA : RING_GPA + RING_STRIDE * len(device.queues)] = bytes(RING_STRIDE * len(device.queues))
        for queue in device.queues:
            base = RING_GPA + RING_STRIDE * queue.index
            queue.size = QUEUE_SIZE
            queue.descriptor_gpa, queue.driver_gpa, queue.device_gpa = base, base + 0x1000, base + 0x2000
            device.enable_queue(queue.index)
        self._positions = [0] * len(device.queues)
        device.write_status(device.status | Status.DRIVER_OK)

    # -- one case -----------------------------------------------------------------------------------------------------

    def run_case(self) -> None:
        """One hostile act, the device's answer, and the checks. AssertionError when something is wrong."""
        rng = self._rng
        choice = rng.getrandbits(6)
        index = rng.randrange(len(self.device.queues))
        if choice == 0:
            self._poke_registers()
        elif choice == 1:
            self._scribble(index)
        elif choice == 2:
            self._bad_layout(index)
        elif choice == 3 and self._vm is not None:
            self._new_way()
        elif self._packed:
            self._packed_chain(index)
        else:
            self._split_chain(index)
        if self._vm is not None and rng.getrandbits(1):
            self._kick_by_guest(index)
        else:
            self.device.notify(index)
        if self._net is not None:
            if choice & 1:
                self._net.arrive()
            else:
                self._net.writable(index & 1)
            if self._vm is not None:
                self.machine.run_events()
        elif self._sockets is not None:
            self._sockets.stir()
            self.machine.run_events()
        elif self.kind == "console" and choice & 7 == 7:
            self._chardev.feed(b"input" * (choice + 1))
            self._chardev.stir()
        for _ in range(3):
            self.machine.run()
        self._check()

    def _kick_by_guest(self, index: int) -> None:
        """Have the vCPU write to the queue's address: compiled code may serve it then."""
        assert self._vm is not None
        (vcpu,) = self._vm.vcpus
        vcpu.write_registers({"cs.base": ROM_GPA, "rip": 0, "ds.base": KICK_GPA + 4 * index})
        if vcpu.run().kind == ExitKind.MMIO:
            self.device.kick(index)
            vcpu.run()
        if vcpu.exit.kind != ExitKind.HALT:
            msg = f"the guest left with {vcpu.exit.kind!r}"
            raise AssertionError(msg)

    def _check(self) -> None:
        device = self.device
        for queue in device.queues:
            ring = queue.ring
            if ring is not None and not 0 <= ring.in_flight <= ring.size:
                msg = f"{ring.in_flight} outstanding in a ring of {ring.size}"
                raise AssertionError(msg)
        if len(self.machine.loop._calls) > 64:
            msg = "the worker's list of calls grows"
            raise AssertionError(msg)
        if device.status & Status.NEEDS_RESET:
            self.broken += 1
            self._restart()
            if device.status & Status.NEEDS_RESET or not device.is_running:
                msg = "a reset does not bring the device back"
                raise AssertionError(msg)
        elif not device.is_running or self._rng.getrandbits(7) == 0:
            self._restart()
        if len(self.machine.messages) > 4096:
            self.machine.messages.clear()

    def check_memory(self) -> None:
        """Read-only memory must be as it was."""
        if bytes(self._rom) != _KICK.ljust(ROM_BYTES, b"\xc3"):
            msg = "read-only guest memory was written"
            raise AssertionError(msg)

    # -- what can be wrong --------------------------------------------------------------------------------------------

    def _address(self) -> int:
        rng = self._rng
        pick = rng.getrandbits(5)
        if pick == 0:
            return rng.choice(_EDGES)
        if pick == 1:
            return rng.getrandbits(64)
        if pick == 2:
            return ROM_GPA + rng.getrandbits(13)
        if pick == 3:
            return RING_GPA + rng.getrandbits(14)
        return DATA_GPA + (rng.getrandbits(11) << 7)

    def _length(self) -> int:
        rng = self._rng
        pick = rng.getrandbits(5)
        if pick == 0:
            return rng.getrandbits(32)
        if pick < 8:
            return rng.choice(_LENGTHS)
        return rng.getrandbits(10) + 1

    def _descriptors(self, index: int) -> list[tuple[int, int, int]]:
        """Mostly plausible parts: a request's header, data, a place for the status; then some noise."""
        rng = self._rng
        if self._vm is not None and rng.getrandbits(2):
            return self._sound(index)
        if rng.getrandbits(2):
            header = DATA_GPA + (rng.getrandbits(8) << 4)
            data = self._header()
            self._ram[header : header + len(data)] = data
            usual = len(data)
            parts = [(header, rng.choice((usual, usual, usual, 8, usual - 1, usual + 8)), 0)]
            parts += [(self._address(), self._length(), _WRITE * rng.getrandbits(1)) for _ in range(rng.getrandbits(2))]
            parts.append((DATA_GPA + 0x7F00 + rng.getrandbits(4), 1, _WRITE))
        else:
            parts = [
                (self._address(), self._length(), _WRITE * rng.getrandbits(1)) for _ in range(1 + rng.getrandbits(2))
            ]
        if rng.getrandbits(3):
            parts.sort(key=lambda part: part[2])
        return parts

    def _sound(self, index: int) -> list[tuple[int, int, int]]:
        """Parts with nothing wrong, so that compiled code goes on with them."""
        rng = self._rng
        where = [DATA_GPA + (rng.getrandbits(11) << 7) for _ in range(1 + rng.getrandbits(2))]
        if self.kind == "net":
            if index & 1:
                return [(gpa, 13 + rng.getrandbits(11), 0) for gpa in where]
            return [(where[0], rng.choice((64, 100, 1536, 4096)), _WRITE)]
        header, writes = DATA_GPA + (rng.getrandbits(8) << 4), rng.getrandbits(1)
        self._ram[header : header + 16] = writes.to_bytes(8, "little") + rng.randrange(100).to_bytes(8, "little")
        data = [(gpa, 512 * rng.randrange(1, 5), 0 if writes else _WRITE) for gpa in where]
        return [(header, 16, 0), *data, (DATA_GPA + 0x7F00, 1, _WRITE)]

    def _header(self) -> bytes:
        rng = self._rng
        if self.kind == "block":
            kind = rng.choice((0, 0, 1, 1, 4, 8, 11, 13, 2, 0xFFFFFFFF))
            sector = rng.choice((0, 1, 100, 127, 128, 1 << 40, (1 << 64) - 1))
            return kind.to_bytes(4, "little") + bytes(4) + sector.to_bytes(8, "little")
        if self.kind == "net":
            return bytes((rng.randrange(7), rng.randrange(6))) + rng.randbytes(14)
        if self.kind == "console":
            return rng.randrange(4).to_bytes(4, "little") + bytes((rng.randrange(9), 0, rng.randrange(3), 0)) * 3
        if self.kind == "vsock":
            return self._vsock_header()
        if self.kind == "scsi":
            lun = rng.choice((b"\x01\0\0\0\0\0\0\0", b"\x01\0\x40\0\0\0\0\0", rng.randbytes(8)))
            command = rng.choice((0, 3, 0x12, 0x1B, 0x25, 0x28, 0x43, 0x5A, 0xA8, 0xFF))
            return lun + bytes(11) + bytes((command,)) + rng.randbytes(31)
        return rng.randbytes(16)

    def _vsock_header(self) -> bytes:
        """A packet on one of a few streams, mostly with everything as it should be."""
        rng = self._rng
        odd = rng.getrandbits(4) == 0
        return VsockHeader(
            GUEST_CID if not odd else rng.getrandbits(64),
            2 if rng.getrandbits(4) else rng.getrandbits(64),
            rng.randrange(4),
            rng.choice((1, 2, 3, (1 << 30) + rng.randrange(8))),
            rng.choice((0, 0, 1, 16, 100, 5000, 1 << 31)),
            1 if rng.getrandbits(4) else rng.getrandbits(16),
            rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 5, 5, 5, 6, 7, 0, 99)),
            rng.getrandbits(2),
            rng.choice((0, 100, 1 << 16, (1 << 32) - 1)),
            rng.choice((0, 0, 10, 1 << 31)),
        ).pack()

    def _split_chain(self, index: int) -> None:
        rng, ram = self._rng, self._ram
        base = RING_GPA + RING_STRIDE * index
        parts = self._descriptors(index)
        noise = rng.getrandbits(4) == 0
        if rng.getrandbits(2) == 0:
            self._write_table(parts, linked=True, noise=noise)
            length = len(parts) * 16 if rng.getrandbits(3) else rng.choice(_LENGTHS)
            flags = _INDIRECT | (_NEXT if noise and rng.getrandbits(1) else 0)
            parts = [(TABLE_GPA if rng.getrandbits(4) else self._address(), length, flags)]
        start = rng.randrange(QUEUE_SIZE)
        count = len(parts)
        for i, (gpa, length, access) in enumerate(parts):
            flags = access
            following = (start + i + 1) % QUEUE_SIZE
            if i + 1 < count:
                flags |= _NEXT
            if noise and rng.getrandbits(1):
                flags ^= 1 << rng.randrange(4)
                following = rng.choice(_INDICES)
            slot = base + 16 * ((start + i) % QUEUE_SIZE)
            ram[slot : slot + 16] = _DESCRIPTOR.pack(gpa, length, flags, following)
        position = self._positions[index]
        head = start if rng.getrandbits(6) else rng.choice(_INDICES)
        where = base + 0x1004 + 2 * (position % QUEUE_SIZE)
        ram[where : where + 2] = head.to_bytes(2, "little")
        position = (position + (1 if rng.getrandbits(6) else rng.choice(_INDICES))) & 0xFFFF
        self._positions[index] = position
        ram[base + 0x1002 : base + 0x1004] = position.to_bytes(2, "little")
        ram[base + 0x1000] = rng.getrandbits(1)
        if rng.getrandbits(3) == 0:
            event = base + 0x1004 + 2 * QUEUE_SIZE
            ram[event : event + 2] = rng.getrandbits(16).to_bytes(2, "little")

    def _packed_chain(self, index: int) -> None:
        rng, ram = self._rng, self._ram
        base = RING_GPA + RING_STRIDE * index
        parts = self._descriptors(index)
        noise = rng.getrandbits(4) == 0
        if rng.getrandbits(2) == 0:
            self._write_table(parts, linked=False, noise=noise)
            length = len(parts) * 16 if rng.getrandbits(3) else rng.choice(_LENGTHS)
            flags = _INDIRECT | (_NEXT if noise and rng.getrandbits(1) else 0)
            parts = [(TABLE_GPA if rng.getrandbits(4) else self._address(), length, flags)]
        position = self._positions[index]
        for i, (gpa, length, access) in enumerate(parts):
            cycle, slot = divmod(position + i, QUEUE_SIZE)
            flags = access | (_NEXT if i + 1 < len(parts) else 0) | (_USED if cycle & 1 else _AVAIL)
            if noise:
                flags ^= 1 << rng.randrange(16)
            where = base + 16 * slot
            ram[where : where + 16] = _DESCRIPTOR.pack(gpa, length, rng.getrandbits(16), flags)
        self._positions[index] = position + len(parts)
        ram[base + 0x1000 : base + 0x1004] = rng.getrandbits(32).to_bytes(4, "little")

    def _write_table(self, parts: list[tuple[int, int, int]], *, linked: bool, noise: bool) -> None:
        rng = self._rng
        table = bytearray()
        for i, (gpa, length, flags) in enumerate(parts):
            more = linked and i + 1 < len(parts)
            following, bits = i + 1, flags | (_NEXT if more else 0)
            if noise and rng.getrandbits(1):
                following, bits = rng.choice(_INDICES), bits ^ 1 << rng.randrange(16)
            table += _DESCRIPTOR.pack(gpa, length, *((bits, following) if linked else (following, bits)))
        self._ram[TABLE_GPA : TABLE_GPA + len(table)] = table

    def _scribble(self, index: int) -> None:
        """Random bytes over a whole queue."""
        base = RING_GPA + RING_STRIDE * index + 0x1000 * self._rng.randrange(3)
        self._ram[base : base + 0x100] = self._rng.randbytes(0x100)

    def _bad_layout(self, index: int) -> None:
        """Queue reset, then a ring anywhere."""
        rng, device = self._rng, self.device
        device.reset_queue(index)
        queue = device.queues[index]
        queue.size = rng.choice((0, 1, 3, QUEUE_SIZE, 256, 32768, 65535))
        queue.descriptor_gpa = self._address() & ~0xF
        queue.driver_gpa = self._address() & ~0x3
        queue.device_gpa = self._address() & ~0x3
        device.enable_queue(index)
        self._positions[index] = 0

    def _poke_registers(self) -> None:
        """Random accesses to every register the guest reaches."""
        rng = self._rng
        for _ in range(8):
            registers, size_bytes = rng.choice(self._registers)
            size = rng.choice((1, 2, 4, 8))
            offset = rng.randrange(min(size_bytes, 0x140) if rng.getrandbits(1) else size_bytes) & -size
            if rng.getrandbits(1):
                value = rng.choice((0, 1, 2, 0xF, rng.getrandbits(8 * size)))
                registers.write(offset, size, value)
            elif not 0 <= registers.read(offset, size) < 1 << 8 * size:
                msg = f"register {offset:#x} does not fit {size} bytes"
                raise AssertionError(msg)

    def close(self) -> None:
        """Release the machine."""
        self.device.reset()
        if isinstance(self.device, VirtioBlock):
            self.device.close()
        if self._sockets is not None:
            self._sockets.close()
        if self._net is not None:
            self._net.close()
        if self._vm is not None:
            self._vm.close()
        self.machine.close()
