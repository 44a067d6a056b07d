from __future__ import annotations

from dataclasses import replace

import pytest

from pyhyve.accel.cpu_features import FEATURES, canonical, with_dependents, with_needs
from pyhyve.accel.cpu_models import (
    BASELINE,
    HOST,
    MODEL_NAMES,
    V2,
    V3,
    CpuModel,
    CpuModelError,
    CpuUnavailableError,
    available,
    guest_cpuid,
)
from pyhyve.kvm.cpuid import CpuidEntry, pack_entries, unpack_entries

ALL = 0xFFFFFFFF
ENTRIES = (
    CpuidEntry(0, 0, 0, 0x1F, 0x756E6547, 0x6C65746E, 0x49656E69),
    CpuidEntry(1, 0, 0, 0x806F8, 0x0010_0800, ALL, ALL),
    CpuidEntry(4, 0, 1, 0x1C004121, 0x2C0003F, 0x3F, 0),
    CpuidEntry(4, 3, 1, 0x1C004163, 0x2C0003F, 0x3F, 0),
    CpuidEntry(7, 0, 1, 2, ALL, ALL, ALL),
    CpuidEntry(7, 1, 1, ALL, 0, 0, ALL),
    CpuidEntry(0xB, 0, 1, 0, 0, 0, 0),
    CpuidEntry(0xB, 1, 1, 0, 0, 0, 0),
    CpuidEntry(0xD, 0, 1, 0x2E7, 0xA88, 0xA88, 0),
    CpuidEntry(0xD, 1, 1, 0xF, 0xA08, 0x1800, 0),
    CpuidEntry(0xD, 2, 1, 0x100, 0x240, 0, 0),
    CpuidEntry(0xD, 5, 1, 0x40, 0x440, 0, 0),
    CpuidEntry(0xD, 9, 1, 8, 0xA80, 0, 0),
    CpuidEntry(0xD, 11, 1, 0x10, 0, 1, 0),
    CpuidEntry(0x80000001, 0, 0, 0, 0, ALL, ALL),
    CpuidEntry(0x80000007, 0, 0, 0, 0, 0, 1 << 8),
    CpuidEntry(0x80000008, 0, 0, 0x3028, ALL, 0, 0),
)


def leaf(entries: tuple[CpuidEntry, ...], function: int, index: int = 0) -> CpuidEntry:
    return next(entry for entry in entries if (entry.function, entry.index) == (function, index))


def of(text: str, entries: tuple[CpuidEntry, ...] = ENTRIES) -> tuple[CpuidEntry, ...]:
    return guest_cpuid(entries, CpuModel.parse(text), 0, 1)


def test_host_model_keeps_every_feature() -> None:
    entries = guest_cpuid(ENTRIES, HOST, 0, 1)
    for function, index in ((7, 0), (7, 1), (0xD, 0), (0xD, 5), (0x80000001, 0)):
        assert leaf(entries, function, index) == leaf(ENTRIES, function, index)
    assert leaf(entries, 1).ecx == ALL
    assert of("max") == entries


@pytest.mark.parametrize(("model", "levels"), [("x86-64-v2", BASELINE | V2), ("x86-64-v3", BASELINE | V2 | V3)])
def test_named_model_has_its_level(model: str, levels: frozenset[str]) -> None:
    entries = of(model)
    assert (BASELINE | V2 | V3) & available(entries) == levels
    for name in (BASELINE | V2 | V3) - {"xsave"}:
        flag = FEATURES[name]
        assert getattr(leaf(entries, flag.function), flag.register) >> flag.bit & 1 == (name in levels), name


def test_v2_has_no_avx_state_and_v3_no_avx512() -> None:
    assert leaf(of("x86-64-v2"), 0xD).eax == 0
    entries = of("x86-64-v3")
    assert (leaf(entries, 0xD).eax, leaf(entries, 0xD).ecx) == (7, 0x340)
    assert leaf(entries, 0xD, 2).eax == 0x100
    assert leaf(entries, 0xD, 5).eax == 0
    assert not leaf(entries, 7).ebx >> 16 & 1
    assert leaf(entries, 7, 1).eax == 0


def test_feature_added_to_a_model_brings_what_it_needs() -> None:
    found = available(of("x86-64-v2,+avx2,+sha_ni"))
    assert {"avx2", "avx", "xsave", "sha-ni"} <= found
    assert not {"fma", "avx512f"} & found
    assert leaf(of("x86-64-v2,avx=on"), 0xD).eax == 7


def test_feature_taken_away_takes_its_dependents_along() -> None:
    entries = of("host,-avx2")
    found = available(entries)
    assert available(guest_cpuid(ENTRIES, HOST, 0, 1)) - found == with_dependents({"avx2"})
    assert leaf(entries, 0xD).eax == 0x207
    assert leaf(entries, 0xD).ecx == 0xA88
    assert (leaf(entries, 0xD, 5).eax, leaf(entries, 0xD, 9).eax) == (0, 8)
    assert leaf(entries, 0xD, 11) == leaf(ENTRIES, 0xD, 11)
    without_xsave = of("host,xsave=off")
    assert leaf(without_xsave, 0xD).eax == 0
    assert "avx" not in available(without_xsave)


def test_flags_that_amd_repeats_follow_the_first() -> None:
    assert not leaf(of("host,-mmx"), 0x80000001).edx >> 23 & 1
    assert leaf(of("host,-avx"), 0x80000001).edx >> 23 & 1
    assert leaf(of("x86-64-v2"), 0x80000001).edx & 0x0183F3FF == 0x0183F3FF & leaf(of("x86-64-v2"), 1).edx


def test_hypervisor_flag_can_be_taken_away() -> None:
    assert leaf(of("x86-64-v2"), 1).ecx >> 31 == 1
    assert leaf(of("host,-hypervisor"), 1).ecx >> 31 == 0


def test_missing_features_are_named() -> None:
    poor = tuple(replace(entry, ebx=0) if (entry.function, entry.index) == (7, 0) else entry for entry in ENTRIES)
    with pytest.raises(CpuUnavailableError, match="cpu: x86-64-v3 needs bmi1, avx2, bmi2, which this host lacks"):
        of("x86-64-v3", poor)
    with pytest.raises(CpuUnavailableError, match="cpu: host needs erms, which this host lacks"):
        of("host,+erms", poor)
    assert "bmi1" not in available(of("x86-64-v3,-bmi1,-avx2,-bmi2", poor))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("486", "cpu 486: unknown model (use "),
        ("", "cpu : unknown model"),
        ("host,+warp", "cpu host,+warp: unknown feature 'warp'"),
        ("host,avx=maybe", "cpu avx=maybe: use avx=on or avx=off"),
        ("host,+avx2,-avx", "cpu host,+avx2,-avx: avx, avx2 both asked for and taken away"),
    ],
)
def test_bad_models_are_refused(text: str, message: str) -> None:
    with pytest.raises(CpuModelError) as caught:
        CpuModel.parse(text)
    assert str(caught.value).startswith(message)
    if "model" in message:
        assert all(name in str(caught.value) for name in MODEL_NAMES)


def test_properties_of_qemu_models_change_nothing() -> None:
    assert CpuModel.parse("host,migratable=on,check,enforce=on") == HOST


def test_last_word_on_a_feature_counts() -> None:
    assert CpuModel.parse("host,+aes,-aes") == CpuModel.parse("host,-aes")


def test_names_have_their_usual_spellings() -> None:
    assert canonical("SSE4.1") == canonical("sse4_1") == "sse4-1"
    assert (canonical("lzcnt"), canonical("sse3"), canonical("nonsense")) == ("abm", "pni", None)


def test_needs_are_features_and_end() -> None:
    for name in FEATURES:
        assert with_needs({name}) <= FEATURES.keys()
        assert name in with_dependents(with_needs({name}))


def test_topology_tells_vcpus_apart() -> None:
    for index in range(3):
        entries = guest_cpuid(ENTRIES, HOST, index, 3)
        assert leaf(entries, 1).ebx >> 24 == index
        assert leaf(entries, 1).ebx >> 16 & 0xFF == 4
        assert leaf(entries, 0xB, 1).edx == index
        assert (leaf(entries, 0xB, 1).eax, leaf(entries, 0xB, 1).ebx) == (2, 3)
        assert leaf(entries, 4, 3).eax >> 14 & 0xFFF == 3
        assert leaf(entries, 4, 0).eax >> 14 & 0xFFF == 0


def test_tsc_deadline_follows_the_capability() -> None:
    bare = [replace(entry, ecx=0) if entry.function == 1 else entry for entry in ENTRIES]
    assert leaf(guest_cpuid(bare, HOST, 0, 1), 1).ecx == 1 << 31
    assert leaf(guest_cpuid(bare, HOST, 0, 1, has_tsc_deadline=True), 1).ecx == 1 << 31 | 1 << 24


def test_entries_round_trip() -> None:
    assert unpack_entries(pack_entries(ENTRIES)) == ENTRIES
