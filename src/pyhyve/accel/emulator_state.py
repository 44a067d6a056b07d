"""A vCPU of the translator as a value: every field of its state that a program could notice.

Fields are taken from the declaration of the state (`cpu.isa.x86.state`), so that a new register is saved without a
change here. What the engine keeps for itself is listed below and made anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.cpu.engine.state import Request
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import Pointer
from pyhyve.state.errors import StateError
from pyhyve.state.record import I64, U32, U64, record

if TYPE_CHECKING:
    from pyhyve.cpu.engine.vcpu import EngineVcpu

_OF_THE_ENGINE = frozenset({
    # where code is and how to get there
    "lookup_tag", "link_stub", "link_site", "mode", "generation", "regions", "region_count", "block_count",
    "cache_start", "cache_next", "cache_end", "template_code", "template_relocations", "uops", "hot_address",
    "block_gpa", "block_gpa2", "block_length", "block_leave", "code_page_gva", "code_page_gpa", "code_page_hva",
    # between vCPUs, and between a vCPU and its machine
    "stop", "request", "deferred", "invalidate_head", "invalidate_tail", "invalidate_ring", "owner_bit", "peer_count",
    "written_count", "written_all", "written", "dirty", "interrupt_line", "idle", "sleeps", "asleep", "rests",
    "poll_fd", "wake_fd", "listen_count", "listen_fd", "listen_queue", "listen_help", "quiet_at", "kick_address",
    "kick_queue", "kick_count", "cpuid_count", "tsc_offset", "tsc_hz",
    # the local APIC's, which its machine saves
    "apic_irr", "apic_isr", "apic_tmr", "apic_tpr", "apic_on",
    # what the last exit, step or look-up left behind
    "exit_kind", "exit_size", "exit_write", "exit_address", "exit_value", "msr_address", "last_error", "bounce",
    "bounce_size", "bounce_address", "bounce_index", "step", "step_from", "fetch_bytes", "zeros",
    # follow from the debug and control registers
    "watch_on", "watch_hits", "watch_address", "watch_length", "watch_kind", "fpu_blocked",
})  # fmt: skip
_FORMER = frozenset({"cr8"})
"""Registers in states of earlier versions that are elsewhere now: CR8 is the local APIC's task priority."""
_PREFIXES = ("d_", "count_")
"""Of the instruction being decoded, and of statistics."""


def saved_fields() -> dict[str, tuple[int, int]]:
    """Offset and size in bytes of each field that is saved, by name."""
    return {
        name: (offset, kind.size_bytes)
        for name, (offset, kind) in STATE.fields.items()
        if name not in _OF_THE_ENGINE
        and not name.startswith(_PREFIXES)
        and not name.endswith("_pad")
        and not isinstance(kind, Pointer)
    }


@record
class RegisterState:
    """One field of a vCPU's state, little-endian."""

    name: str
    data: bytes


@record
class EmulatorVcpuState:
    """One vCPU. `tsc_skew` is how far its time-stamp counter is ahead of vCPU 0's."""

    registers: tuple[RegisterState, ...]
    tsc_skew: I64
    nmi_pending: bool


@record
class EmulatorState:
    """What all vCPUs share: the counter of vCPU 0, its frequency, and what CPUID tells (rows of six numbers)."""

    tsc: U64
    tsc_hz: U64
    cpuid: tuple[U32, ...]


def save_vcpu(engine: EngineVcpu, tsc_skew: int) -> EmulatorVcpuState:
    """The vCPU as a value; it must stand still between two instructions."""
    return EmulatorVcpuState(
        registers=tuple(
            RegisterState(name=name, data=bytes(engine.view[offset : offset + size]))
            for name, (offset, size) in saved_fields().items()
        ),
        tsc_skew=tsc_skew,
        nmi_pending=bool((engine.get("request") | engine.get("deferred")) & Request.NMI),
    )


def load_vcpu(engine: EngineVcpu, state: EmulatorVcpuState) -> None:
    """Put the vCPU, fresh from its reset, into a saved state; StateError for registers that do not exist.

    A register that the state does not have keeps its value after the reset: older versions did not know it.
    """
    fields = saved_fields()
    for register in state.registers:
        if register.name in _FORMER:
            continue
        place = fields.get(register.name)
        if place is None or place[1] != len(register.data):
            msg = f"state of processor: unknown register {register.name[:40]}"
            raise StateError(msg)
        engine.view[place[0] : place[0] + place[1]] = register.data
    # It looks for interrupts once: some may have been posted before.
    engine.set("request", Request.INTERRUPT | (Request.NMI if state.nmi_pending else 0))
    engine.call("dispatch.forget_code")
    engine.call("mmu.flush_all")
    engine.call("x86.arm_breakpoints")
    engine.call("x86.mode_changed")
