"""The engine as a whole on small guests: chaining, changed code, changed mappings, devices, interrupts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.api import ExitKind

if TYPE_CHECKING:
    from tests.unit.cpu.engine.conftest import Guest

CODE = 0x10000
DATA = 0x40000


def test_loop_runs_to_its_end(guest: Guest) -> None:
    # xor eax, eax; L: add eax, ecx; dec ecx; jnz L; hlt
    guest.code("31c0 01c8 ffc9 75fa f4")
    assert guest.run_to_halt(rcx=1000)["rax"] == 500500


def test_call_and_return_across_pages(guest: Guest) -> None:
    # mov ecx, 100; L: call 0x12000; dec ecx; jnz L; hlt ... at 0x12000: inc rax; ret
    guest.code("b964000000 e8f61f0000 ffc9 75f7 f4")
    guest.code("48ffc0 c3", at=0x12000)
    assert guest.run_to_halt(rax=0)["rax"] == 100


def test_code_written_by_the_guest_runs_as_written(guest: Guest) -> None:
    # The loop rewrites the immediate of its own next instruction: mov [rip+1], cl; mov al, imm8; add rbx, rax; ...
    # 10000: movb %cl, 0x1(%rip) -> the byte after `mov al` at 10006
    guest.code("880d01000000 b000 0fb6c0 4801c3 ffc9 75ee f4")
    assert guest.run_to_halt(rcx=10, rbx=0)["rbx"] == 55


def test_code_in_another_block_is_dropped_when_written(guest: Guest) -> None:
    # call f; mov byte [f+1], 7; call f; hlt      f: mov al, 1; ret
    guest.code("e8fb0f0000 c60425 0110010007 e8ee0f0000 f4".replace(" ", ""))
    guest.code("b001 c3", at=0x11000)
    registers = guest.run_to_halt(rax=0)
    assert registers["rax"] & 0xFF == 7


def test_data_beside_code_can_be_written_without_losing_the_code(guest: Guest) -> None:
    # L: inc dword [0x10800]; dec ecx; jnz L; hlt: the counter stands in the code's own page
    guest.code("ff042500080100 ffc9 75f5 f4")
    guest.run_to_halt(rcx=1000)
    assert int.from_bytes(guest.memory.read(0x10800, 4), "little") == 1000
    assert guest.vcpu.engine.get("count_translated") < 20


def test_code_written_by_the_host_is_dropped(guest: Guest) -> None:
    guest.code("b001 f4")
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 1
    guest.code("b002 f4")
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 2


def test_a_view_written_through_is_dropped_after_mark_written(guest: Guest) -> None:
    guest.code("b001 f4")
    guest.run_to_halt(rip=CODE)
    guest.memory.view(CODE, 3)[:] = b"\xb0\x09\xf4"
    guest.memory.mark_written(CODE, 3)
    assert guest.run_to_halt(rip=CODE)["rax"] & 0xFF == 9


def test_instruction_across_pages_follows_a_changed_second_page(guest: Guest) -> None:
    # mov eax, imm32 at 0x12ffd: its immediate lies in the next page, which is then mapped elsewhere
    guest.code("b8 11 22", at=0x12FFD)
    guest.code("33 44 f4", at=0x13000)
    guest.code("55 66 f4", at=0x20000)
    assert guest.run_to_halt(rip=0x12FFD)["rax"] == 0x44332211
    guest.map(0x13000, 0x20000)
    assert guest.run_to_halt(rip=0x12FFD)["rax"] == 0x66552211


def test_changed_mapping_takes_effect_after_invlpg(guest: Guest) -> None:
    # mov rax, [0x50000]; mov qword [pte], new; invlpg [0x50000]; mov rbx, [0x50000]; hlt
    guest.memory.write(0x50000, b"A" * 8)
    guest.memory.write(0x60000, b"B" * 8)
    pte = 0x103000 + 8 * 0x50
    guest.code(
        "488b042500000500"
        "48c70425" + pte.to_bytes(4, "little").hex() + "03000600" + "0f013c2500000500" + "488b1c2500000500 f4"
    )
    registers = guest.run_to_halt()
    assert registers["rax"] == int.from_bytes(b"A" * 8, "little")
    assert registers["rbx"] == int.from_bytes(b"B" * 8, "little")


def test_page_fault_is_precise_and_restartable(guest: Guest) -> None:
    # add [0x50000], eax faults; the handler maps the page and returns; nothing happened before
    guest.map(0x50000, 0, flags=0)
    pte = 0x103000 + 8 * 0x50
    guest.gate(14, 0x18000)
    guest.code("01042500000500 f4")
    # handler: mov rbx, cr2; pop rcx (error code); mov qword [pte], 0x50003; iretq
    guest.code("0f20d3 59 48c70425" + pte.to_bytes(4, "little").hex() + "03000500 48cf", at=0x18000)
    guest.memory.write(0x50000, (40).to_bytes(4, "little"))
    registers = guest.run_to_halt(rax=2)
    assert registers["rbx"] == 0x50000
    assert registers["rcx"] == 2  # not present, write, supervisor
    assert int.from_bytes(guest.memory.read(0x50000, 4), "little") == 42


def test_access_across_a_page_boundary_faults_before_it_changes_anything(guest: Guest) -> None:
    guest.map(0x51000, 0, flags=0)
    guest.gate(14, 0x18000)
    guest.code("48890425fc0f0500 f4")  # mov [0x50ffc], rax
    guest.code("0f20d3 f4", at=0x18000)
    guest.memory.write(0x50FFC, b"....")
    registers = guest.run_to_halt(rax=0)
    assert registers["rbx"] == 0x51000
    assert guest.memory.read(0x50FFC, 4) == b"...."


def test_port_accesses_reach_the_machine_once_and_in_order(guest: Guest) -> None:
    # in al, 0x60; inc al; out 0x61, al; hlt
    guest.code("e460 fec0 e661 f4")
    reason = guest.run()
    assert (reason.kind, reason.address, reason.size, reason.is_write) == (ExitKind.IO, 0x60, 1, False)
    reason.value = 0x41
    reason = guest.resume()
    assert (reason.kind, reason.address, reason.is_write, reason.value) == (ExitKind.IO, 0x61, True, 0x42)
    assert guest.resume().kind == ExitKind.HALT


def test_read_modify_write_of_a_device_reads_once_and_writes_once(guest: Guest) -> None:
    device = RAM_END = 8 << 20
    guest.memory.write(0x102000 + 8 * 4, (device | 0x83).to_bytes(8, "little"))
    guest.code("830425" + device.to_bytes(4, "little").hex() + "05 f4")  # add dword [device], 5
    reason = guest.run()
    assert (reason.kind, reason.address, reason.size, reason.is_write) == (ExitKind.MMIO, RAM_END, 4, False)
    reason.value = 37
    reason = guest.resume()
    assert (reason.kind, reason.address, reason.is_write, reason.value) == (ExitKind.MMIO, RAM_END, True, 42)
    assert guest.resume().kind == ExitKind.HALT


def test_repeated_output_makes_one_exit_an_element(guest: Guest) -> None:
    guest.memory.write(DATA, b"abc")
    guest.code("f3 6e f4")  # rep outsb
    seen = []
    reason = guest.run(rcx=3, rsi=DATA, rdx=0x3F8)
    while reason.kind == ExitKind.IO:
        seen.append(reason.value)
        reason = guest.resume()
    assert reason.kind == ExitKind.HALT
    assert bytes(seen) == b"abc"
    assert guest.vcpu.read_registers()["rcx"] == 0


def test_interrupt_waits_for_if_and_then_is_delivered(guest: Guest) -> None:
    guest.gate(0x40, 0x18000)
    guest.code("31c0 ffc0 fb 90 ffc0 ebfc")  # xor eax, eax; inc eax; sti; nop; L: inc eax; jmp L
    guest.code("f4", at=0x18000)
    guest.vcpu.set_interrupt(pending=True)
    reason = guest.run()
    assert reason.kind == ExitKind.INTERRUPT_WINDOW
    assert guest.vcpu.read_registers()["rip"] == CODE + 6, "not before the instruction after STI"
    guest.vcpu.set_interrupt(pending=False)
    guest.vcpu.inject(0x40)
    assert guest.resume().kind == ExitKind.HALT
    assert guest.vcpu.read_registers()["rip"] == 0x18001


def test_an_instruction_that_waits_for_a_device_is_not_interrupted(guest: Guest) -> None:
    guest.gate(0x40, 0x18000)
    guest.code("e661 fb 90 f4")  # out 0x61, al
    reason = guest.run(rflags=0x202)
    assert reason.kind == ExitKind.IO
    guest.vcpu.set_interrupt(pending=True)
    reason = guest.resume()
    assert reason.kind == ExitKind.INTERRUPT_WINDOW
    assert guest.vcpu.read_registers()["rip"] == CODE + 2, "the OUT is done, and done once"


def test_kick_ends_an_endless_loop(guest: Guest) -> None:
    guest.code("ebfe")
    timer = threading.Timer(0.05, guest.vcpu.kick)
    timer.start()
    assert guest.run().kind == ExitKind.KICKED
    timer.join()


def test_kick_before_the_run_is_not_lost(guest: Guest) -> None:
    guest.code("ebfe")
    guest.vcpu.kick()
    assert guest.run().kind == ExitKind.KICKED


def test_other_threads_go_on_while_the_guest_computes(guest: Guest) -> None:
    guest.code("ebfe")
    ticks = 0

    def count() -> None:
        nonlocal ticks
        while ticks < 100_000:
            ticks += 1
        guest.vcpu.kick()

    thread = threading.Thread(target=count)
    thread.start()
    assert guest.run().kind == ExitKind.KICKED
    thread.join()
    assert ticks == 100_000


def test_single_step_trap_follows_each_instruction(guest: Guest) -> None:
    guest.gate(1, 0x18000)
    guest.code("ffc0 ffc0 ffc0 f4")
    # handler: inc ebx; cmp ebx, 3; jb +7; and qword [rsp+16], ~0x100; iretq
    guest.code("ffc3 83fb03 7209 48816424 10fffeffff 48cf".replace(" ", ""), at=0x18000)
    registers = guest.run_to_halt(rax=0, rbx=0, rflags=0x102)
    assert registers["rax"] == 3
    assert registers["rbx"] == 3
    assert registers["dr6"] & 0x4000


def test_triple_fault_is_reported(guest: Guest) -> None:
    guest.code("0f0b")  # ud2 without an IDT
    assert guest.run(**{"idtr.limit": 0}).kind == ExitKind.SHUTDOWN


def test_code_where_there_is_no_memory_is_an_internal_error_with_the_address(guest: Guest) -> None:
    guest.memory.write(0x102000 + 8 * 4, ((8 << 20) | 0x83).to_bytes(8, "little"))
    reason = guest.run(rip=8 << 20)
    assert reason.kind == ExitKind.INTERNAL_ERROR
    assert "0x800000" in reason.message


def test_a_full_code_cache_starts_anew(guest: Guest) -> None:
    guest.code("31c0 01c8 ffc9 75fa f4")
    engine = guest.vcpu.engine
    guest.run_to_halt(rcx=10)
    engine.set("cache_end", engine.get("cache_next") + (1 << 17) - 1)
    guest.code("b805000000 f4", at=0x14000)
    assert guest.run_to_halt(rip=0x14000)["rax"] == 5
    assert engine.get("block_count") == 2, "only the new block is left"
    assert guest.run_to_halt(rip=CODE, rcx=1000)["rax"] == 500500


def test_registers_refuse_an_unknown_name(guest: Guest) -> None:
    with pytest.raises(KeyError, match="r99"):
        guest.vcpu.write_registers({"r99": 1})


@pytest.mark.parametrize(
    ("condition", "expected"),
    [(1, ["w4"]), (3, ["r4", "w4"])],
    ids=["write", "access"],
)
def test_data_breakpoint_traps_after_the_access(guest: Guest, condition: int, expected: list[str]) -> None:
    # mov ecx, [DATA]; mov [DATA+3], ecx; mov [DATA+4], ecx; hlt, watching 4 bytes at DATA
    guest.gate(1, 0x18000)
    guest.code("8b0c2500000400 890c2503000400 890c2504000400 f4")
    guest.code("f4", at=0x18000)
    control = 0x403 | condition << 16 | 3 << 18
    stops = {7: "r4", 14: "w4"}
    seen = []
    registers = guest.run_to_halt(dr0=DATA, dr7=control)
    while registers["rip"] == 0x18001:
        assert registers["dr6"] & 0xF == 1
        back = int.from_bytes(guest.memory.read(registers["rsp"], 8), "little")
        seen.append(stops[back - CODE])
        registers = guest.run_to_halt(rip=back, rsp=0x80000, rflags=2, dr6=0)
    assert seen == expected


def test_instruction_breakpoint_faults_once_and_goes_on_under_rf(guest: Guest) -> None:
    guest.gate(1, 0x18000)
    guest.code("ffc0 ffc0 ffc0 f4")
    guest.code("ffc3 48814c24 1000000100 48cf".replace(" ", ""), at=0x18000)  # inc ebx; or [rsp+16], RF; iretq
    registers = guest.run_to_halt(rax=0, rbx=0, dr1=CODE + 2, dr7=0x404)
    assert registers["rax"] == 3
    assert registers["rbx"] == 1
    assert registers["dr6"] & 0xF == 2


def test_port_breakpoint_needs_cr4_de(guest: Guest) -> None:
    guest.gate(1, 0x18000)
    guest.code("e661 90 f4")
    guest.code("f4", at=0x18000)
    for cr4, where in ((0x620, CODE + 4), (0x628, 0x18001)):
        reason = guest.run(rip=CODE, cr4=cr4, dr2=0x60, dr7=0x410 | 2 << 24 | 1 << 26, rsp=0x80000)
        assert reason.kind == ExitKind.IO
        assert guest.resume().kind == ExitKind.HALT
        assert guest.vcpu.read_registers()["rip"] == where


def test_single_step_trap_follows_indirect_jumps_that_are_in_the_jump_cache(guest: Guest) -> None:
    guest.gate(1, 0x18000)
    guest.code("ffc3 48cf", at=0x18000)  # inc ebx; iretq
    # f: nop; ret       twice: call rdx; then with TF: call rdx; nop; and off again
    guest.code("90 c3", at=0x12000)
    guest.code("ffd2 ffd2 9c 810c2400010000 9d ffd2 90 9c 812424fffeffff 9d 90 f4")
    registers = guest.run_to_halt(rdx=0x12000, rbx=0)
    # call, nop, ret, nop, pushfq, and, popfq: the last one began with TF set.
    assert registers["rbx"] == 7


def test_jumps_to_code_that_was_replaced_are_sent_on(guest: Guest) -> None:
    # L: inc eax; jmp M; M: add ebx, 1; dec ecx; jnz L; hlt: chained within a page; then the host rewrites M.
    guest.code("ffc0 e939000000", at=CODE)
    guest.code("83c301 ffc9 75b9 f4", at=CODE + 0x40)
    guest.run_to_halt(rip=CODE, rax=0, rbx=0, rcx=100)
    guest.code("83c302", at=CODE + 0x40)
    before = guest.vcpu.engine.get("count_entered")
    registers = guest.run_to_halt(rip=CODE, rax=0, rbx=0, rcx=1000)
    assert (registers["rax"], registers["rbx"]) == (1000, 2000)
    assert guest.vcpu.engine.get("count_entered") - before < 20
