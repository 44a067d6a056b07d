"""Exits that KVM cannot go on from, in words."""

from __future__ import annotations

from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import EMULATION_FLAG_INSTRUCTION_BYTES, ExitReason, InternalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.kvm.layout import Buffer

_SUBERRORS = {
    InternalError.EMULATION: "it met an instruction that it cannot emulate",
    InternalError.SIMUL_EX: "an exception arrived while another was being delivered",
    InternalError.DELIVERY_EV: "an exit while an event was being delivered",
    InternalError.UNEXPECTED_EXIT_REASON: "the processor left the guest for a reason unknown to KVM",
}
_VMX_INVALID_STATE = 0x8000_0021
_MAX_DATA = 16


def describe_exit(run: Buffer) -> str:
    """One line about a fatal exit in `struct kvm_run`."""
    reason = s.RUN.unpack_ints(run)["exit_reason"]
    if reason == ExitReason.INTERNAL_ERROR:
        return _internal_error(run)
    if reason == ExitReason.FAIL_ENTRY:
        fields = s.RUN_FAIL_ENTRY.unpack_ints(run)
        code = fields["fail_entry.hardware_entry_failure_reason"]
        hint = " (the guest's registers are not a state the processor can be in)" if code == _VMX_INVALID_STATE else ""
        return f"the processor refused to enter the guest: hardware reason {code:#x}{hint}"
    if reason == ExitReason.UNKNOWN:
        code = s.RUN_FAIL_ENTRY.unpack_ints(run)["fail_entry.hardware_entry_failure_reason"]
        return f"KVM does not know hardware exit reason {code:#x}"
    try:
        name = ExitReason(reason).name
    except ValueError:
        name = "unknown to this program"
    return f"unexpected KVM exit {reason} ({name})"


def _internal_error(run: Buffer) -> str:
    fields = s.RUN_INTERNAL.unpack(run)
    code, count, data = (fields[f"internal.{name}"] for name in ("suberror", "ndata", "data"))
    if not isinstance(code, int) or not isinstance(count, int) or not isinstance(data, tuple):
        raise TypeError
    text = (
        f"KVM internal error {code}: {_SUBERRORS.get(InternalError(code), '')}"
        if code in _KNOWN
        else (f"KVM internal error {code}")
    )
    if code == InternalError.EMULATION and count >= 1:
        emulation = s.RUN_EMULATION_FAILURE.unpack(run)
        flags = emulation["emulation_failure.flags"]
        size, instruction = emulation["emulation_failure.insn_size"], emulation["emulation_failure.insn_bytes"]
        if (
            isinstance(flags, int)
            and flags & EMULATION_FLAG_INSTRUCTION_BYTES
            and isinstance(size, int)
            and isinstance(instruction, bytes)
        ):
            return f"{text}: {instruction[:size].hex(' ')}"
    values = " ".join(f"{value:#x}" for value in data[: min(count, _MAX_DATA)])
    return f"{text} (data {values})" if values else text


_KNOWN = frozenset(InternalError)
