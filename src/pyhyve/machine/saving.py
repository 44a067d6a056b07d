"""A whole machine into a state and back: its configuration, its devices by name, its memory.

Both directions run on the machine's control thread while it stands still (`Machine.inspect` of a paused machine, or
before it starts). docs/state-format.md describes what the sections hold.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyhyve.accel.api import TimeKeeper
from pyhyve.machine import catch_up
from pyhyve.machine.catch_up import CatchUp
from pyhyve.machine.config_record import from_plain, to_plain
from pyhyve.memory import contents
from pyhyve.memory.rounds import read_rounds
from pyhyve.state.contract import Saveable
from pyhyve.state.errors import StateError, StateTruncatedError
from pyhyve.state.format import build_head, parse_head
from pyhyve.state.record import I64, U32, U64, from_json, prepare, record, to_json
from pyhyve.state.streams import FdSource

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyhyve.machine.config import MachineConfig
    from pyhyve.machine.inventory import Inventory
    from pyhyve.machine.machine import Machine
    from pyhyve.memory.contents import Settling
    from pyhyve.state.format import Head
    from pyhyve.state.streams import StateSink, StateSource


@record
class MachineState:
    """What a machine must be to take a state over, and its clocks when it was saved."""

    saved_by: str
    engine: str
    memory_bytes: U64
    cpus: U32
    firmware_bytes: U64
    clock_ns: I64
    wall_ns: U64


@dataclass(frozen=True, slots=True)
class SaveResult:
    """What was written."""

    state_bytes: int
    memory_bytes: int
    """Of the guest's memory; the rest is zero."""
    vm_clock_ns: int


# -- what there is to save ---------------------------------------------------------------------------------------------


def parts_to_save(machine: Machine) -> Iterator[tuple[str, Saveable]]:
    """Everything that has a state, by name, in the order in which it is to be loaded."""
    parts = machine.parts
    if isinstance(parts.vm, Saveable):
        yield "vm", parts.vm
    for runner in parts.runners:
        if not isinstance(runner.vcpu, Saveable):
            msg = "this engine's processors cannot be saved"
            raise StateError(msg)
        yield f"cpu{runner.vcpu.index}", runner.vcpu
        yield f"cpu{runner.vcpu.index}.thread", runner
    yield from parts.saveables.items()
    if parts.inventory is not None:
        for place, function in parts.inventory.functions():
            for suffix, part in function.saveables():
                yield place + suffix, part


def describe(machine: Machine, saved_by: str = "") -> MachineState:
    """The machine as it is now; `saved_by` is the version that says so."""
    inventory, parts = _inventory(machine), machine.parts
    clock_ns, wall_ns = parts.loop.clock.present()
    return MachineState(
        saved_by=saved_by,
        engine="kvm" if parts.vm.has_kernel_irqchip else "emulator",
        memory_bytes=inventory.config.memory_bytes,
        cpus=len(parts.runners),
        firmware_bytes=sum(region.size_bytes for region in parts.vm.memory.regions if region.readonly),
        clock_ns=clock_ns,
        wall_ns=wall_ns - machine.behind_ns,
    )


def _inventory(machine: Machine) -> Inventory:
    inventory = machine.parts.inventory
    if inventory is None:
        msg = "the machine has no inventory"
        raise StateError(msg)
    return inventory


def version() -> str:
    """The version of pyhyve, for a state to name it."""
    from importlib import metadata  # noqa: PLC0415 - takes a while to load, and only a save needs it

    try:
        return metadata.version("pyhyve")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def present_config(machine: Machine) -> MachineConfig:
    """The configuration with the devices that are there now."""
    inventory = _inventory(machine)
    return replace(inventory.present_config(), uuid=inventory.uuid)


# -- saving ------------------------------------------------------------------------------------------------------------


def save(machine: Machine, sink: StateSink, *, with_memory: bool = True) -> SaveResult:
    """Write the state of `machine`, which stands still. Raises StateError and OSError; the machine can go on after.

    Without memory it is the end of a stream that had it before (`state.live`).
    """
    if not all(runner.is_parked for runner in machine.parts.runners):
        msg = "a processor does not stop"
        raise StateError(msg)
    machine.suspend_devices()
    flush_disks(machine)
    parts = machine.parts
    with parts.lock:
        description = describe(machine, version())
        set_instant(machine, description.clock_ns)
        devices = {
            name: {"version": part.state_version, "state": to_json(part.save())}
            for name, part in parts_to_save(machine)
        }
    section = machine_section(machine, description)
    memory = parts.vm.memory
    pieces = contents.find_pieces(memory) if with_memory else []
    head = build_head(section, json.dumps(devices).encode(), pieces, sink.start)
    sink.write(head)
    contents.write_pieces(memory, pieces, sink)
    sink.finish()
    memory_bytes = sum(piece.size_bytes for piece in pieces)
    return SaveResult(len(head) + memory_bytes, memory_bytes, description.clock_ns)


def machine_section(machine: Machine, state: MachineState) -> bytes:
    """What a state says of the machine as a whole: `describe`'s answer, and the configuration."""
    return json.dumps({"state": to_json(state), "config": to_plain(present_config(machine))}).encode()


def set_instant(machine: Machine, clock_ns: int) -> None:
    """Have the engine's clocks saved or loaded as they are when the machine's clock shows `clock_ns`."""
    vm = machine.parts.vm
    if isinstance(vm, TimeKeeper):
        vm.set_instant(machine.parts.loop.clock.start_ns + clock_ns)


def flush_disks(machine: Machine) -> None:
    """What the guest wrote is in the images' files: a state is worth nothing without the disks that go with it."""
    from pyhyve.backends.block import BlockError  # noqa: PLC0415 - only with disks

    for plugged in _inventory(machine).hardware.devices:
        if plugged.attachment is None or plugged.attachment.node is None:
            continue
        backend = plugged.attachment.device.backend
        try:
            if not backend.readonly:
                backend.flush()
        except BlockError as error:
            raise OSError(error.code, str(error)) from error


# -- restoring ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """A state, parsed and checked in itself."""

    head: Head
    state: MachineState
    config: dict[str, Any]
    devices: dict[str, Any]

    def configuration(self) -> MachineConfig:
        """How the machine was made. Raises StateError, or ConfigError when it could not be made."""
        return from_plain(self.config)


def read_saved(source: StateSource) -> SavedMachine:
    """Read a state up to the contents of its memory. Raises StateError and OSError."""
    return _parsed(parse_head(source.read, may_be_live=True))


def receive_rounds(machine: Machine, saved: SavedMachine, source: StateSource) -> SavedMachine:
    """After `read_saved` of a stream of rounds: put them into the memory of `machine`, which is zero; gives its end.

    Nothing is changed when the state does not fit the machine, which is unusable after other errors. Raises StateError
    and OSError.
    """
    check_fit(machine, saved.state)
    read_rounds(machine.parts.vm.memory, source)
    last = _parsed(parse_head(source.read))
    if last.head.pieces:
        msg = "the state is damaged: its end has memory"
        raise StateError(msg)
    return last


def _parsed(head: Head) -> SavedMachine:
    machine = _json_object(head.machine, "machine")
    state = from_json(MachineState, machine.get("state"), "machine")
    config = machine.get("config")
    if not isinstance(config, dict):
        msg = "the state has no configuration"
        raise StateError(msg)
    devices = {} if head.is_live else _json_object(head.devices, "devices")
    return SavedMachine(head, state, config, devices)


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"the state's section {where} is not understood"
        raise StateError(msg) from error
    if not isinstance(value, dict):
        msg = f"the state's section {where} is not understood"
        raise StateError(msg)
    return value


def prepare_to_load(machine: Machine) -> None:
    """Do what `load` does the first time: for a machine that waits for its state."""
    prepare(MachineState)
    for _, part in parts_to_save(machine):
        prepare(part.state_type)


def load(machine: Machine, saved: SavedMachine, source: StateSource, *, is_fresh: bool = True) -> Settling | None:
    """Put `machine`, which stands still, into a saved state; its devices stay suspended.

    `source` is where `read_saved` left it: a file's memory is mapped when `source` is a `MappableSource`. `is_fresh`
    says that guest memory is still zero: it must be for a stream of rounds. Nothing is changed when the state does not
    fit the machine; when it turns out to be damaged later, the machine is left unusable. Raises StateError, OSError,
    MemoryError.
    """
    if saved.head.is_live:
        saved = receive_rounds(machine, saved, source)
    check_fit(machine, saved.state)
    parts = machine.parts
    states = decode_states(machine, saved.devices)
    memory, pieces = parts.vm.memory, saved.head.pieces
    contents.check_fit(memory, pieces)
    machine.suspend_devices()
    if not is_fresh:
        contents.clear(memory)
    settling = None
    offset = saved.head.memory_offset
    if pieces and isinstance(source, MappableSource) and contents.can_map(memory, source.start + offset):
        settling = source.map(machine, saved.head)
    else:
        contents.read_pieces(memory, pieces, source)
    inventory = _inventory(machine)
    with parts.lock:
        clock = parts.loop.clock
        clock.set_now(saved.state.clock_ns)
        set_instant(machine, saved.state.clock_ns)
        inventory.pci.unmap_all()
        for part, state in states:
            part.load(state)
        parts.loop.timers.reprogram()
    now_ns, wall_ns = clock.present()
    passed_ns = now_ns - saved.state.clock_ns
    away_ns = min(max(wall_ns - saved.state.wall_ns - passed_ns, 0), catch_up.MAX_NS)
    if not inventory.config.rtc_follows_host:
        away_ns = 0
    first_ns = min(away_ns, catch_up.STEP_NS)
    catch_up.leap(machine, first_ns)
    machine.catch_up(CatchUp(machine, away_ns - first_ns))
    return settling


def check_fit(machine: Machine, saved: MachineState) -> None:
    """Raise StateError, which says why, when `machine` cannot take over a state of such a machine."""
    ours = describe(machine)
    for name, theirs, mine in (
        ("engine", saved.engine, ours.engine),
        ("bytes of memory", saved.memory_bytes, ours.memory_bytes),
        ("processors", saved.cpus, ours.cpus),
        ("bytes of firmware", saved.firmware_bytes, ours.firmware_bytes),
    ):
        if theirs != mine:
            msg = f"the state does not fit this machine: {name}: {theirs} in the state, {mine} here"
            raise StateError(msg)


def decode_states(machine: Machine, devices: dict[str, Any]) -> list[tuple[Saveable, Any]]:
    """The state of every part, in loading order. Raises StateError for parts that are not on both sides, or newer."""
    parts = dict(parts_to_save(machine))
    for name in devices:
        if name not in parts:
            msg = f"the state does not fit this machine: it has {name[:40]}, which is missing here"
            raise StateError(msg)
    states = []
    for name, part in parts.items():
        entry = devices.get(name)
        if not isinstance(entry, dict):
            msg = f"the state does not fit this machine: it has no {name}"
            raise StateError(msg)
        version = entry.get("version")
        if not isinstance(version, int) or version > part.state_version:
            msg = f"the state of {name} is of version {version}; this version of pyhyve knows {part.state_version}"
            raise StateError(msg)
        states.append((part, from_json(part.state_type, entry.get("state"), name)))
    return states


class MappableSource(FdSource):
    """A file that stays as it is while the machine comes to life: its memory is mapped, and read when needed."""

    def __init__(self, fd: int) -> None:
        """Takes `fd` over. Raises OSError for what is not a file."""
        super().__init__(fd)
        self.start = os.lseek(fd, 0, os.SEEK_CUR)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def map(self, machine: Machine, head: Head) -> Settling:
        """Map the memory; gives what makes it independent of the file, not yet started. Raises StateError."""
        offset = self.start + head.memory_offset
        if os.fstat(self.fd).st_size < offset + head.memory_bytes:
            raise StateTruncatedError
        memory = machine.parts.vm.memory
        contents.map_pieces(memory, head.pieces, self.fd, offset)

        def damaged(error: StateError) -> None:
            machine.fail(str(error))

        def while_still(work: Callable[[], None]) -> None:
            machine.inspect(work, devices=True).wait()

        return contents.Settling(memory, head.pieces, os.dup(self.fd), offset, damaged, while_still)
