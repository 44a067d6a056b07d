"""vCPUs of KVM as values: a copy of a machine goes on where the original was."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.kvm.probe import cached_probe
from pyhyve.state.errors import StateError
from pyhyve.state.record import from_json, to_json

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.skipif(not cached_probe().usable, reason=f"needs hardware KVM: {cached_probe().reason}"),
]

if TYPE_CHECKING:
    from collections.abc import Callable

    from .conftest import TinyMachine

COUNT = "bb0000 43 89d8 e6e0 ebf9"
"""xor-free counter: MOV BX,0; INC BX; MOV AX,BX; OUT E0h,AL; JMP back to INC."""
ECHO = "e4e0 e6e1 ebfa"
"""IN AL,E0h; OUT E1h,AL; again."""


def transfer(source: TinyMachine, target: TinyMachine) -> None:
    """Put `target` into the state of `source`, through JSON."""
    for mine, theirs in ((target.vm, source.vm), (target.vcpu, source.vcpu)):
        plain: Any = json.loads(json.dumps(to_json(theirs.save())))
        mine.load(from_json(mine.state_type, plain, "kvm"))
    target.memory.write(0, source.memory.read(0, 0x20000))


@pytest.mark.parametrize("kernel_irqchip", [True, False])
def test_copy_goes_on_at_the_next_instruction(tiny: Callable[..., TinyMachine], kernel_irqchip: bool) -> None:
    first, second = (tiny(COUNT, kernel_irqchip=kernel_irqchip) for _ in range(2))
    first.enter()
    for expected in range(1, 6):
        first.run_to(ExitKind.IO)
        assert first.vcpu.exit.value == expected
    transfer(first, second)
    for expected in range(6, 20):
        second.run_to(ExitKind.IO)
        assert second.vcpu.exit.value == expected


def test_answer_to_an_access_is_part_of_the_state(tiny: Callable[..., TinyMachine]) -> None:
    first, second = tiny(ECHO), tiny(ECHO)
    first.enter()
    first.run_to(ExitKind.IO)
    assert not first.vcpu.exit.is_write
    first.vcpu.exit.value = 0x5A
    transfer(first, second)
    second.run_to(ExitKind.IO)
    assert (second.vcpu.exit.is_write, second.vcpu.exit.value) == (True, 0x5A)


def test_registers_are_restored_whole(tiny: Callable[..., TinyMachine]) -> None:
    first, second = tiny(COUNT), tiny(COUNT)
    first.enter(rbx=0x1234, rcx=1 << 63, rsi=7)
    first.vcpu.handle.set_msrs({0x174: 0x10, 0xC0000102: 0x1234_5678_9000})
    transfer(first, second)
    assert second.vcpu.read_registers() == first.vcpu.read_registers()
    assert second.vcpu.handle.msrs([0x174, 0xC0000102]) == {0x174: 0x10, 0xC0000102: 0x1234_5678_9000}
    assert second.vcpu.handle.cpuid() == first.vcpu.handle.cpuid()


def test_clocks_go_on_and_leap(tiny: Callable[..., TinyMachine]) -> None:
    first, second = tiny(COUNT), tiny(COUNT)
    first.enter()
    first.vm.handle.set_clock(10**15)
    transfer(first, second)
    assert 10**15 <= second.vm.clock_ns() < 10**15 + 10**10
    before = second.vcpu.handle.msrs([0x10])[0x10]
    second.vm.advance_time(10**12)
    assert second.vm.clock_ns() >= 10**15 + 10**12
    ahead = (second.vcpu.handle.msrs([0x10])[0x10] - before) / (second.vcpu.handle.tsc_khz() * 1000)
    assert 1000 <= ahead < 1010


def test_processor_with_features_that_this_host_lacks_is_refused(tiny: Callable[..., TinyMachine]) -> None:
    first, second = tiny(COUNT), tiny(COUNT)
    first.enter()
    state = first.vcpu.save()
    numbers = list(state.cpuid)
    at = next(at for at in range(0, len(numbers), 7) if numbers[at] == 7 and numbers[at + 1] == 0)
    numbers[at + 6] |= 1 << 0  # a reserved bit of leaf 7, EDX
    with pytest.raises(StateError, match=r"features that this host lacks \(CPUID leaf 0x7, EDX 0x1\)"):
        second.vcpu.load(state.replaced(cpuid=tuple(numbers)))


def test_state_of_a_machine_without_chips_is_refused(tiny: Callable[..., TinyMachine]) -> None:
    first, second = tiny(COUNT, kernel_irqchip=False), tiny(COUNT)
    with pytest.raises(StateError, match="without an interrupt chip in the kernel"):
        second.vm.load(first.vm.save())
    with pytest.raises(StateError, match="with an interrupt chip in the kernel"):
        first.vm.load(second.vm.save())
