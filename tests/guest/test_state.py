"""Saved machines: guests go on where they were, or are refused with a reason."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pyhyve.accel.counter import sample
from pyhyve.accel.emulator import EmulatorVm
from pyhyve.machine import saving
from pyhyve.machine.clock import MonotonicClock
from pyhyve.machine.config import MIB, AccelChoice, Additions, DiskConfig, MachineConfig, RngConfig
from pyhyve.machine.monitor.commands import MachineCommands
from pyhyve.machine.outcome import OutcomeKind
from pyhyve.machine.saving import read_saved
from pyhyve.machine.state_file import open_state
from pyhyve.state.errors import StateError

from .conftest import ACCEL
from .in_process import RunningMachine
from .tiny import HALT, kernel, out32, print32

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.guest.builder import Guest

COUNTER = (
    # ebx counts; each round prints its low bits as a letter and waits for a while in a loop.
    b"\x31\xdb\x43\x89\xd8\x83\xe0\x0f\x83\xc0\x41\xba\xf8\x03\x00\x00\xee\xb9\x00\x00\x20\x00\x49\x75\xfd\xeb\xe7"
)
LETTERS = "ABCDEFGHIJKLMNOP"


def tiny_config(tmp_path: Path, code: bytes) -> MachineConfig:
    path = tmp_path / "kernel"
    path.write_bytes(kernel(code))
    return MachineConfig(memory_bytes=16 * MIB, accel=AccelChoice.JIT, kernel=path)


def wait_for_text(machine: RunningMachine, count: int) -> None:
    machine.expect(rf"[A-P\s]{{{count},}}", 60)


def test_program_goes_on_at_the_next_instruction(tmp_path: Path) -> None:
    machine = RunningMachine.boot(tiny_config(tmp_path, COUNTER))
    printed = machine.expect(r"[A-P]{20}", 120)
    for number in range(3):
        state = tmp_path / f"state{number}"
        machine.save(state)
        printed += machine.screen.text
        machine.stop()
        machine = RunningMachine.restore(state)
        printed += machine.expect(r"[A-P]{20}", 120)
    printed += machine.screen.text
    machine.stop()
    start = LETTERS.index(printed[0])
    assert printed == "".join(LETTERS[(start + i) % 16] for i in range(len(printed)))


def test_one_state_is_restored_twice_at_once(tmp_path: Path) -> None:
    machine = RunningMachine.boot(tiny_config(tmp_path, COUNTER))
    machine.expect(r"[A-P]{5}", 120)
    machine.save(tmp_path / "state")
    machine.stop()
    first, second = (RunningMachine.restore(tmp_path / "state") for _ in range(2))
    assert first.expect(r"[A-P]{30}")[:30] == second.expect(r"[A-P]{30}")[:30]
    first.stop()
    second.stop()


def test_machine_that_was_saved_goes_on(tmp_path: Path) -> None:
    machine = RunningMachine.boot(tiny_config(tmp_path, COUNTER))
    printed = machine.expect(r"[A-P]{5}", 120)
    machine.save(tmp_path / "state")
    assert machine.machine.resume().wait(60)
    printed += machine.expect(r"[A-P]{20}")
    start = LETTERS.index(printed[0])
    assert printed == "".join(LETTERS[(start + i) % 16] for i in range(len(printed)))
    machine.stop()


def counter_ahead_s(machine: RunningMachine) -> float:
    """How far the time-stamp counter is ahead of the machine's clock; the machine is paused."""
    vm, clock = machine.machine.parts.vm, machine.machine.parts.loop.clock
    assert isinstance(vm, EmulatorVm)
    now = sample(lambda: vm.read_tsc(0))
    return now.counter / vm.tsc_hz - (now.monotonic_ns - clock.start_ns) / 1e9


def ahead_of_the_present_s(machine: RunningMachine) -> float:
    """How far the machine's clock, with what it has yet to catch up, is ahead of the host's."""
    now_ns, wall_ns = machine.machine.parts.loop.clock.present()
    return (now_ns + machine.machine.behind_ns - wall_ns) / 1e9


def test_clocks_agree_when_the_host_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux's clocksource watchdog gives up its time-stamp counter when the ACPI timer is 500 us away from it."""

    def slowly(name: str, owner: object) -> None:
        original = getattr(owner, name)

        def slow(*arguments: object) -> object:
            result = original(*arguments)
            time.sleep(0.05)
            return result

        monkeypatch.setattr(owner, name, slow)

    slowly("describe", saving)
    slowly("set_now", MonotonicClock)
    slowly("advance", MonotonicClock)
    machine = RunningMachine.boot(tiny_config(tmp_path, COUNTER))
    machine.expect(r"[A-P]{5}", 120)
    assert machine.machine.pause().wait(60)
    ahead, before = counter_ahead_s(machine), ahead_of_the_present_s(machine)
    machine.save(tmp_path / "state")
    machine.stop()
    time.sleep(0.5)
    machine = RunningMachine.restore(tmp_path / "state")
    machine.expect(r"[A-P]{5}", 120)
    assert machine.machine.pause().wait(60)
    assert counter_ahead_s(machine) == pytest.approx(ahead, abs=300e-6)
    assert ahead_of_the_present_s(machine) == pytest.approx(before, abs=300e-6)
    machine.stop()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """The state of a machine that halts after a line; it is small."""
    machine = RunningMachine.boot(tiny_config(tmp_path, print32("up\n") + HALT))
    machine.expect("up\n", 120)
    machine.save(tmp_path / "state")
    machine.stop()
    return tmp_path / "state"


def run_restored(path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyhyve", "run", "--restore", str(path), "--timeout", "1", *options]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--memory", "32M"], "bytes of memory: 16777216 in the state, 33554432 here"),
        (["--cpus", "2"], "processors: 1 in the state, 2 here"),
        (["--disk", "DISK,format=raw"], "it has no pci.02.0"),
    ],
    ids=["memory", "cpus", "disk"],
)
def test_state_of_another_machine_is_refused(saved: Path, options: list[str], reason: str) -> None:
    disk = saved.with_name("disk")
    disk.write_bytes(bytes(MIB))
    done = run_restored(saved, *(option.replace("DISK", str(disk)) for option in options))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pyhyve run: {saved}: the state does not fit this machine: {reason}\n"


def test_restored_machine_runs_until_its_time_limit(saved: Path) -> None:
    done = run_restored(saved)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "pyhyve run: gave up after 1 s\n")


def test_truncated_state_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    for length in (0, 10, 100, 5000, len(data) - 1):
        saved.write_bytes(data[:length])
        done = run_restored(saved)
        assert done.returncode == 1
        assert done.stderr.startswith(f"pyhyve run: {saved}: "), done.stderr
        assert "truncated" in done.stderr or "foreign or empty" in done.stderr


def test_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "kernel"
    foreign.write_bytes(kernel(HALT))
    done = run_restored(foreign)
    assert (done.returncode, done.stderr) == (
        1, f"pyhyve run: {foreign}: not a state of a machine (a foreign or empty file)\n",
    )  # fmt: skip
    assert run_restored(tmp_path / "missing").returncode == 2


def test_flipped_bits_are_found_in_the_head_before_the_guest_runs(saved: Path) -> None:
    data = saved.read_bytes()
    source = random.Random()
    opened = open_state(saved)
    head = opened.saved.head.memory_offset
    opened.close()
    used = len(data[:head].rstrip(b"\0"))
    refused = 0
    for _ in range(300):
        position, bit = source.randrange(used), source.randrange(8)
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        saved.write_bytes(damaged)
        try:
            open_state(saved).close()
        except StateError as error:
            assert str(error).startswith(f"{saved}: ")  # noqa: PT017 - many rounds
            refused += 1
    assert refused > 290  # a few bits are reserved, or padding


def test_flipped_bit_in_memory_ends_the_machine_with_a_reason(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    opened = open_state(saved)
    place = opened.saved.head.memory_offset + opened.saved.head.memory_bytes - 5000
    opened.close()
    data[place] ^= 4
    saved.write_bytes(data)
    machine = RunningMachine.restore(saved)
    deadline = time.monotonic() + 60
    while machine.outcome is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert machine.outcome.kind is OutcomeKind.INTERNAL_ERROR
    assert machine.outcome.message.startswith("the state is damaged: memory at 0x")


def test_no_space_leaves_nothing_behind_and_the_guest_goes_on(tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "none", str(full)], capture_output=True, check=False
    ).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        machine = RunningMachine.boot(tiny_config(tmp_path, COUNTER))
        machine.expect(r"[A-P]{5}", 120)
        with pytest.raises(OSError, match="No space left on device"):
            machine.save(full / "state")
        assert list(full.iterdir()) == []
        assert machine.machine.resume().wait(60)
        machine.expect(r"[A-P]{20}")
        machine.stop()
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_second_machine_on_the_disk_of_a_saved_one_is_kept_out(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(MIB))
    config = replace(tiny_config(tmp_path, print32("up\n") + HALT), disks=(DiskConfig(disk, format="raw"),))
    machine = RunningMachine.boot(config)
    machine.expect("up\n", 120)
    machine.save(tmp_path / "state")
    done = run_restored(tmp_path / "state")
    assert done.returncode == 2
    assert "lock" in done.stderr
    machine.stop()
    disk.write_bytes(bytes(2 * MIB))
    done = run_restored(tmp_path / "state")
    assert done.stderr.endswith("virtio block: the disk had 1048576 bytes, not 2097152\n")


def test_reset_of_a_restored_machine_boots_its_kernel(tmp_path: Path) -> None:
    machine = RunningMachine.boot(tiny_config(tmp_path, print32("start\n") + COUNTER))
    machine.expect("start\n[A-P]{5}", 120)
    machine.save(tmp_path / "state")
    machine.stop()
    machine = RunningMachine.restore(tmp_path / "state")
    machine.expect("[A-P]{5}")
    machine.machine.reset()
    machine.expect("start\n[A-P]{5}")
    machine.stop()


def test_power_off_after_a_restore(tmp_path: Path) -> None:
    power_off = out32(0x604, 0x3400, size=2)
    delay = b"\xb9\x00\x00\x00\x20\x49\x75\xfd"
    machine = RunningMachine.boot(tiny_config(tmp_path, print32("up\n") + delay + power_off + HALT))
    machine.expect("up\n", 120)
    machine.save(tmp_path / "state")
    machine.stop()
    done = run_restored(tmp_path / "state", "--timeout", "100")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root, and ip (iproute2)")
@pytest.mark.parametrize("cpus", [1, 2])
def test_linux_goes_on_computing_and_downloading(cpus: int, debian_6_1: Guest) -> None:
    command = [sys.executable, "-m", "tests.guest.cycles", "--cycles", "3", "--cpus", str(cpus)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("3 cycles: no error, clock right\n")


def test_linux_hears_that_it_was_copied(debian_6_12: Guest, tmp_path: Path) -> None:
    config = MachineConfig(
        memory_bytes=256 * MIB,
        accel=AccelChoice(ACCEL),
        kernel=debian_6_12.kernel,
        initrd=debian_6_12.initrd,
        append="console=ttyS0 quiet",
        extras=(RngConfig(),),
        additions=Additions(devices=({"driver": "vmgenid"},)),
    )
    machine = RunningMachine.boot(config)
    machine.expect("pyhyve guest ready", 240)
    machine.shell("until dmesg | grep -q 'crng init done'; do sleep 0.1; done")
    assert machine.shell("dmesg | grep -c 'virtual machine fork'") == "0"
    machine.save(tmp_path / "state")
    first = generation_of(machine)
    machine.stop()
    machine = RunningMachine.restore(tmp_path / "state")
    machine.shell("until dmesg | grep -q 'crng reseeded due to virtual machine fork'; do sleep 0.1; done")
    assert generation_of(machine) != first
    machine.stop()


def generation_of(machine: RunningMachine) -> str:
    return str(MachineCommands(machine.machine).execute("query-vm-generation-id", {})["guid"])


def test_disk_saved_under_load_passes_fsck(debian_6_1: Guest, tmp_path: Path) -> None:
    if shutil.which("mkfs.ext4") is None or shutil.which("e2fsck") is None:
        pytest.skip("e2fsprogs is not installed (apt-get install e2fsprogs)")
    disk, copy, state = (tmp_path / name for name in ("disk", "copy", "state"))
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    config = MachineConfig(
        memory_bytes=256 * MIB,
        accel=AccelChoice.JIT,
        kernel=debian_6_1.kernel,
        initrd=debian_6_1.initrd,
        append="console=ttyS0 quiet",
        disks=(DiskConfig(disk, format="raw"),),
    )
    machine = RunningMachine.boot(config)
    machine.expect("pyhyve guest ready", 240)
    machine.shell("mount /dev/vda /mnt; cd /mnt")
    machine.shell(
        "(n=0; while :; do n=$((n+1)); d=/mnt/d$((n%50)); mkdir -p $d; seq $((n*7%20000)) > $d/f; mv $d/f $d/g;"
        " [ $((n%7)) = 0 ] && rm -r $d; [ $((n%9)) = 0 ] && sync; echo $n > /tmp/m; mv /tmp/m /tmp/n; done) & :"
    )
    machine.shell("until [ -e /tmp/n ]; do usleep 100000; done")
    for _ in range(2):
        time.sleep(1)
        machine.save(state)
        machine.stop()
        shutil.copyfile(disk, copy)
        assert subprocess.run(["e2fsck", "-p", str(copy)], capture_output=True, check=False).returncode in {0, 1}
        checked = subprocess.run(["e2fsck", "-fn", str(copy)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout
        machine = RunningMachine.restore(state)
        before, deadline = int(machine.shell("cat /tmp/n")), time.monotonic() + 60
        while int(machine.shell("cat /tmp/n")) <= before:
            assert time.monotonic() < deadline
            time.sleep(1)
        assert machine.shell("dmesg | grep -cE 'EXT4-fs error|I/O error'") == "0"
    machine.shell("cd /; kill %1; until umount /mnt; do usleep 100000; done")
    machine.stop()
    assert subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, check=False).returncode == 0


def test_restored_copy_gets_the_generation_id_it_is_given(tmp_path: Path) -> None:
    name, other = "01234567-89ab-cdef-0123-456789abcdef", "00000000-0000-4000-8000-000000000001"
    devices = ({"driver": "vmgenid", "guid": name},)
    config = replace(tiny_config(tmp_path, print32("up\n") + HALT), additions=Additions(devices=devices))
    machine = RunningMachine.boot(config)
    machine.expect("up\n", 120)
    assert generation_of(machine) == name
    machine.save(tmp_path / "state")
    machine.stop()
    machine = RunningMachine.restore(tmp_path / "state")
    assert machine.machine.started.wait(60)
    assert generation_of(machine) == name
    machine.stop()
    done = run_restored(tmp_path / "state", "--generation-id", other)
    assert done.stderr == "pyhyve run: gave up after 1 s\n"
    done = run_restored(tmp_path / "state", "--generation-id", "mine")
    assert (done.returncode, done.stderr) == (2, "pyhyve run: --generation-id mine: not a UUID\n")


def test_generation_id_is_not_for_a_machine_that_had_none(saved: Path) -> None:
    done = run_restored(saved, "--generation-id")
    assert done.returncode == 2
    assert done.stderr == "pyhyve run: --generation-id: the machine was started without one\n"


def test_state_is_read_from_a_stream(saved: Path) -> None:
    from pyhyve.state.streams import FdSource

    with saved.open("rb") as file:
        found = read_saved(FdSource(file.fileno()))
    assert (found.state.engine, found.state.memory_bytes, found.state.cpus) == ("emulator", 16 * MIB, 1)
    assert found.configuration().memory_bytes == 16 * MIB
