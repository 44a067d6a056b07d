from __future__ import annotations

from dataclasses import replace

import pytest

from pyhyve.accel.cpu_models import BASELINE, MODEL_NAMES, V2, V3, CpuModelError, guest_cpuid
from pyhyve.kvm.cpuid import CpuidEntry, pack_entries, unpack_entries

ALL = 0xFFFFFFFF
HOST = (
    CpuidEntry(0, 0, 0, 0x1F, 0x756E6547, 0x6C65746E, 0x49656E69),
    CpuidEntry(1, 0, 0, 0x806F8, 0x0010_0800, ALL, ALL),
    CpuidEntry(4, 0, 1, 0x1C004121, 0x2C0003F, 0x3F, 0),
    CpuidEntry(4, 3, 1, 0x1C004163, 0x2C0003F, 0x3F, 0),
    CpuidEntry(7, 0, 1, 2, ALL, ALL, ALL),
    CpuidEntry(7, 1, 1, ALL, 0, 0, ALL),
    CpuidEntry(0xB, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0xB, 1, 1, 0, 0, 0, 0),
    CpuidEntry(0xD, 0, 1, 0xE7, 0xA80, 0xA80, 0),
    CpuidEntry(0xD, 2, 1, 0x100, 0x240, 0, 0),
    CpuidEntry(0xD, 5, 1, 0x40, 0x440, 0, 0),
    CpuidEntry(0x80000001, 0, 0, 0, 0, ALL, ALL),
)


def leaf(entries: tuple[CpuidEntry, ...], function: int, index: int = 0) -> CpuidEntry:
    return next(entry for entry in entries if (entry.function, entry.index) == (function, index))


def test_host_model_keeps_every_feature() -> None:
    entries = guest_cpuid(HOST, "host", 0, 1)
    assert leaf(entries, 7) == leaf(HOST, 7)
    assert leaf(entries, 1).ecx == ALL


@pytest.mark.parametrize(("model", "levels"), [("x86-64-v2", BASELINE | V2), ("x86-64-v3", BASELINE | V2 | V3)])
def test_named_model_has_its_level(model: str, levels: dict[str, object]) -> None:
    entries = guest_cpuid(HOST, model, 0, 1)
    for name, flag in (BASELINE | V2 | V3).items():
        value = getattr(leaf(entries, flag.function), flag.register) >> flag.bit & 1
        assert value == (name in levels), name


def test_v2_has_no_avx_state_and_v3_no_avx512() -> None:
    assert leaf(guest_cpuid(HOST, "x86-64-v2", 0, 1), 0xD).eax == 0
    entries = guest_cpuid(HOST, "x86-64-v3", 0, 1)
    assert leaf(entries, 0xD).eax == 7
    assert leaf(entries, 0xD, 2).eax == 0x100
    assert leaf(entries, 0xD, 5).eax == 0
    assert not leaf(entries, 7).ebx >> 16 & 1
    assert leaf(entries, 7, 1).eax == 0


def test_missing_features_are_named() -> None:
    poor = [replace(entry, ebx=0) if (entry.function, entry.index) == (7, 0) else entry for entry in HOST]
    with pytest.raises(CpuModelError, match="CPU model x86-64-v3: this host lacks bmi1, avx2, bmi2"):
        guest_cpuid(poor, "x86-64-v3", 0, 1)


def test_unknown_model_lists_the_known_ones() -> None:
    with pytest.raises(CpuModelError, match="486: unknown") as caught:
        guest_cpuid(HOST, "486", 0, 1)
    assert all(name in str(caught.value) for name in MODEL_NAMES)


def test_topology_tells_vcpus_apart() -> None:
    for index in range(3):
        entries = guest_cpuid(HOST, "host", index, 3)
        assert leaf(entries, 1).ebx >> 24 == index
        assert leaf(entries, 1).ebx >> 16 & 0xFF == 4
        assert leaf(entries, 0xB, 1).edx == index
        assert (leaf(entries, 0xB, 1).eax, leaf(entries, 0xB, 1).ebx) == (2, 3)
        assert leaf(entries, 4, 3).eax >> 14 & 0xFFF == 3
        assert leaf(entries, 4, 0).eax >> 14 & 0xFFF == 0


def test_tsc_deadline_follows_the_capability() -> None:
    bare = [replace(entry, ecx=0) if entry.function == 1 else entry for entry in HOST]
    assert leaf(guest_cpuid(bare, "host", 0, 1), 1).ecx == 1 << 31
    assert leaf(guest_cpuid(bare, "host", 0, 1, has_tsc_deadline=True), 1).ecx == 1 << 31 | 1 << 24


def test_entries_round_trip() -> None:
    assert unpack_entries(pack_entries(HOST)) == HOST
