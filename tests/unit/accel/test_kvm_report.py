from __future__ import annotations

import pytest

from pyhyve.accel.kvm_registers import names_to_system, system_to_names
from pyhyve.accel.kvm_report import describe_exit
from pyhyve.kvm import structures as s
from pyhyve.kvm.abi import ExitReason, InternalError


def page(reason: int, union: bytes = b"") -> bytes:
    return (s.RUN.pack_fields({"exit_reason": reason}) + union).ljust(4096, b"\0")


def test_failed_entry_explains_an_invalid_state() -> None:
    text = describe_exit(page(ExitReason.FAIL_ENTRY, (0x80000021).to_bytes(8, "little")))
    assert "0x80000021" in text
    assert "not a state the processor can be in" in text


def test_emulation_failure_shows_the_instruction() -> None:
    union = (
        (1).to_bytes(4, "little")
        + (4).to_bytes(4, "little")
        + (1).to_bytes(8, "little")
        + b"\x03\x0f\x0b\x90"
        + bytes(12)
    )
    assert describe_exit(page(ExitReason.INTERNAL_ERROR, union)).endswith("cannot emulate: 0f 0b 90")


def test_internal_error_shows_its_data() -> None:
    union = (
        (3).to_bytes(4, "little")
        + (2).to_bytes(4, "little")
        + (0x80000B0E).to_bytes(8, "little")
        + (5).to_bytes(8, "little")
    )
    assert describe_exit(page(ExitReason.INTERNAL_ERROR, union)).endswith("(data 0x80000b0e 0x5)")
    unknown = (77).to_bytes(4, "little") + bytes(4)
    assert describe_exit(page(ExitReason.INTERNAL_ERROR, unknown)) == "KVM internal error 77"


def test_other_exits_are_named_or_numbered() -> None:
    assert describe_exit(page(ExitReason.DEBUG)) == "unexpected KVM exit 4 (DEBUG)"
    assert describe_exit(page(999)) == "unexpected KVM exit 999 (unknown to this program)"
    assert "0x33" in describe_exit(page(ExitReason.UNKNOWN, (0x33).to_bytes(8, "little")))


def test_hostile_counts_do_not_read_past_the_data() -> None:
    union = (4).to_bytes(4, "little") + (0xFFFFFFFF).to_bytes(4, "little") + bytes(range(128))
    assert describe_exit(page(ExitReason.INTERNAL_ERROR, union)).count("0x") == 16


def test_segment_attributes_round_trip() -> None:
    sregs = s.SREGS.unpack(bytes(s.SREGS.size_bytes))
    values = {"cs.attributes": 0xA09B, "tr.attributes": 0x8B, "ldtr.attributes": 0x10000, "ds.attributes": 0xC0F3}
    names_to_system(values, sregs)
    assert (sregs["cs.l"], sregs["cs.g"], sregs["tr.type"], sregs["ldt.unusable"], sregs["ds.dpl"]) == (1, 1, 11, 1, 3)
    found = system_to_names(sregs)
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize("reason", sorted(ExitReason))
def test_every_exit_reason_has_a_readable_report(reason: ExitReason) -> None:
    text = describe_exit(page(reason))
    assert "\n" not in text
    explained = {
        ExitReason.INTERNAL_ERROR: "KVM internal error",
        ExitReason.FAIL_ENTRY: "refused to enter the guest",
        ExitReason.UNKNOWN: "does not know hardware exit reason",
    }
    assert explained.get(reason, f"unexpected KVM exit {int(reason)} ({reason.name})") in text


@pytest.mark.parametrize("error", sorted(InternalError))
def test_every_internal_error_is_explained(error: InternalError) -> None:
    text = describe_exit(page(ExitReason.INTERNAL_ERROR, int(error).to_bytes(4, "little") + bytes(4)))
    assert text.startswith(f"KVM internal error {int(error)}: ")
    assert len(text) > 40
