from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.cpu import host
from pyhyve.daemon.cpu.compare import Comparison, baseline, compare
from pyhyve.daemon.cpu.decode import decode
from pyhyve.daemon.cpu.definition import parse_cpu
from pyhyve.daemon.cpu.model import feature_places, models
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable

HASWELL = models["Haswell"].features


def test_tables_are_consistent() -> None:
    assert len(models) == 58
    for model in models.values():
        assert model.features <= feature_places.keys(), model.name
        assert not model.features & model.removed
    assert feature_places["fpu"][0].bit == 0
    assert feature_places["rdctl-no"][0].msr
    places = [place for found in feature_places.values() for place in found]
    assert len(set(places)) >= len(places) - 20  # some bits have two names, AMD's and Intel's


@pytest.mark.parametrize("name", [name for name, model in models.items() if model.host])
def test_a_models_own_features_decode_to_it(name: str) -> None:
    model = models[name]
    found = decode(model.features, vendor=model.vendor, host=True)
    assert found is not None
    assert found.model.features == model.features
    assert not found.less
    assert not found.more


def test_a_cpus_own_signature_wins_over_nearness() -> None:
    features = models["Haswell"].features | models["Broadwell"].features
    near = decode(features, vendor="Intel", host=True)
    own = decode(features, vendor="Intel", signature=(6, 63), host=True)
    assert near is not None
    assert own is not None
    assert (near.model.name, own.model.name) == ("Broadwell", "Haswell")
    assert decode(frozenset(), vendor="Intel", host=True) is None


@pytest.mark.parametrize(
    ("document", "result"),
    [
        ("<cpu><arch>x86_64</arch><model>Haswell</model></cpu>", Comparison.IDENTICAL),
        ("<cpu match='strict'><model>Haswell</model></cpu>", Comparison.IDENTICAL),
        ("<cpu match='exact'><model>Nehalem</model></cpu>", Comparison.SUPERSET),
        ("<cpu match='strict'><model>Nehalem</model></cpu>", "Extra features: pclmuldq, fma"),
        ("<cpu match='exact'><model>Broadwell</model></cpu>", "required features: rdseed, adx, smap, 3dnowprefetch"),
        (
            "<cpu match='exact'><model>Haswell</model><feature policy='forbid' name='aes'/></cpu>",
            "forbidden features: aes",
        ),
        ("<cpu match='exact'><model>Haswell</model><feature policy='force' name='svm'/></cpu>", Comparison.IDENTICAL),
        (
            "<cpu match='exact'><model>Haswell</model><feature policy='optional' name='svm'/></cpu>",
            Comparison.IDENTICAL,
        ),
        ("<cpu><arch>x86_64</arch><model>Haswell</model><vendor>AMD</vendor></cpu>", "required CPU vendor AMD"),
        ("<cpu><arch>aarch64</arch><model>cortex-a57</model></cpu>", "arch aarch64"),
    ],
)
def test_a_cpu_is_compared(document: str, result: Comparison | str) -> None:
    found = compare(HASWELL, "Intel", parse_cpu(document))
    if isinstance(result, str):
        assert isinstance(found, LibvirtError)
        assert result in str(found)
    else:
        assert found is result


@pytest.mark.parametrize(
    ("document", "code", "words"),
    [
        ("<gpu/>", ErrorCode.XML_ERROR, "expected 'cpu' element"),
        ("<cpu", ErrorCode.XML_DETAIL, "not well-formed"),
        ("<cpu mode='x'/>", ErrorCode.XML_ERROR, "attribute 'mode'"),
        ("<cpu match='x'/>", ErrorCode.XML_ERROR, "attribute 'match'"),
        ("<cpu><model>x</model></cpu>", ErrorCode.INTERNAL_ERROR, "Unknown CPU model x"),
        ("<cpu><model>Haswell</model><feature name='x'/></cpu>", ErrorCode.INTERNAL_ERROR, "Unknown CPU feature x"),
        ("<cpu><model>Haswell</model><feature/></cpu>", ErrorCode.XML_ERROR, "Missing 'name'"),
        ("<cpu><feature name='aes'/></cpu>", ErrorCode.XML_ERROR, "without CPU model"),
    ],
)
def test_elements_that_make_no_sense_are_refused(document: str, code: ErrorCode, words: str) -> None:
    with pytest.raises(LibvirtError, match=words) as raised:
        parse_cpu(document)
    assert raised.value.code is code


def test_baseline_is_what_all_have() -> None:
    two = [parse_cpu(f"<cpu><arch>x86_64</arch><model>{name}</model></cpu>") for name in ("Haswell", "Broadwell")]
    assert baseline(two) == "<cpu mode='custom' match='exact'>\n  <model fallback='allow'>Haswell</model>\n</cpu>\n"
    expanded = baseline(two[:1], expand=True)
    assert "<model fallback='forbid'>Haswell</model>" in expanded
    assert expanded.count("policy='require'") == len(HASWELL)
    intel = parse_cpu("<cpu><arch>x86_64</arch><model>Haswell</model><vendor>Intel</vendor></cpu>")
    amd = parse_cpu("<cpu><arch>x86_64</arch><model>EPYC</model><vendor>AMD</vendor></cpu>")
    assert "<vendor>Intel</vendor>" in baseline([intel])
    for wrong, words in (
        ([intel, amd], "vendors do not match"),
        ([parse_cpu("<cpu mode='host-passthrough'/>")], "mode"),
    ):
        with pytest.raises(LibvirtError, match=words):
            baseline(wrong)


KERNEL = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 63
stepping\t: 2
microcode\t: 0x49
flags\t\t: fpu sse4_1 pclmulqdq tsc_deadline_timer nonstop_tsc avx512_vnni nosuchflag md_clear
address sizes\t: 46 bits physical, 48 bits virtual
"""


def test_the_kernels_flags_are_understood_where_the_instruction_cannot_run() -> None:
    cpu = host.from_kernel(KERNEL)
    assert (cpu.vendor, cpu.family, cpu.model, cpu.stepping) == ("Intel", 6, 63, 2)
    assert (cpu.physical_address_bits, cpu.microcode) == (46, 0x49)
    assert {"fpu", "sse4.1", "pclmuldq", "tsc-deadline", "invtsc", "md-clear"} <= cpu.features
    assert "nosuchflag" not in cpu.features


def cpuid_of(
    leaves: dict[tuple[int, int], tuple[int, int, int, int]],
) -> Callable[[int, int], tuple[int, int, int, int]]:
    return lambda leaf, subleaf: leaves.get((leaf, subleaf), (0, 0, 0, 0))


def test_signature_and_bits_come_from_the_instruction() -> None:
    leaves = {
        (0, 0): (7, 0x756E6547, 0x6C65746E, 0x49656E69),
        (1, 0): (0x000306F2, 0, 1 << 25, 1),
        (7, 0): (0, 1 << 5, 0, 0),
        (0x8000_0000, 0): (0x8000_0008, 0, 0, 0),
        (0x8000_0008, 0): (0x302E, 0, 0, 0),
    }
    cpu = host._from_instruction(cpuid_of(leaves))
    assert (cpu.vendor, cpu.family, cpu.model, cpu.stepping, cpu.physical_address_bits) == ("Intel", 6, 63, 2, 46)
    assert cpu.features == {"fpu", "aes", "avx2"}


def test_this_hosts_kernel_and_instruction_agree() -> None:
    real, told = host.host_cpu(), host.from_kernel(host._cpu_text())
    assert (real.family, real.model, real.stepping) == (told.family, told.model, told.stepping)
    # The kernel may hide what it does not use, and show what it emulates; the old features are never among those.
    assert real.features & models["kvm64"].features == told.features & models["kvm64"].features
