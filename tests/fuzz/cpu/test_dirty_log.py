"""The emulator's log of written pages, under random instructions of every kind: what changed is marked."""

from __future__ import annotations

import platform
import secrets

import pytest

if platform.machine() != "x86_64":
    pytest.skip("the oracle is the host's own CPU, which must be x86-64", allow_module_level=True)

from pyhyve.memory.dirty import DirtyTable
from tests.fuzz.cpu import guest_kernel as kernel
from tests.fuzz.cpu.guest_engine import GuestEngine
from tests.fuzz.cpu.pyhyve_engine import VmMachine
from tests.fuzz.cpu.session import Session

PAGE = 4096


class LoggingMachine(VmMachine):
    """As `VmMachine`; each case begins with no page marked, and must not change one that is not marked after it."""

    def __init__(self) -> None:
        super().__init__("jit")
        self.log = DirtyTable(self._memory)
        self.unmarked: list[int] = []
        self.changed = 0

    def start(self, image: kernel.KernelImage) -> None:
        super().start(image)
        self._vm.start_dirty_log(self.log)  # type: ignore[attr-defined] # the emulator is one that can

    def go_on(self) -> int:
        self._vm.sync_dirty_log()  # type: ignore[attr-defined] # the emulator is one that can
        self.log.take()
        before = bytes(self.ram)
        answer = super().go_on()
        changed = _differing(before, bytes(self.ram))
        marked = {gpa + at for gpa, size in self.log.take() for at in range(0, size, PAGE)}
        self.changed += len(changed)
        self.unmarked += changed - marked
        return answer


def _differing(before: bytes, after: bytes, start: int = 0) -> set[int]:
    """Addresses of the pages that differ."""
    if before == after:
        return set()
    if len(before) == PAGE:
        return {start}
    half = -(-len(before) // PAGE // 2) * PAGE
    return _differing(before[:half], after[:half], start) | _differing(before[half:], after[half:], start + half)


@pytest.mark.parametrize("bits", [64, 32, 16])
def test_no_instruction_writes_unseen(bits: int) -> None:
    seed = secrets.token_hex(4)
    machine = LoggingMachine()
    session = Session(GuestEngine("pyhyve", machine, kernel.Doorbell.PORT), seed, bits=bits, lenient=True)
    try:
        for number in range(3):
            session.run(session.generate(number))
    finally:
        session.close()
    assert not machine.unmarked, f"seed {seed}: {[hex(page) for page in machine.unmarked[:8]]}"
    assert machine.changed > 100
