"""Linux on real KVM, saved and restored: in the nested machine, or where a host has it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from pyhyve.kvm.probe import cached_probe
from pyhyve.machine.config import AccelChoice, MachineConfig
from tests.guest.in_process import RunningMachine
from tests.guest.kvm.test_boot import guest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.guest,
    pytest.mark.skipif(not cached_probe().usable, reason=f"needs hardware KVM: {cached_probe().reason}"),
]
ROUNDS = 3
CLOCK_TOLERANCE_S = 3.0
PATIENCE = float(os.environ.get("PYHYVE_GUEST_PATIENCE", "1"))
TROUBLE = "lockup|stall|BUG|unstable" if PATIENCE == 1 else "BUG:"
"""In the kernel's log. A guest whose host is emulated on a busy machine stalls by itself."""


def clock_is_right(machine: RunningMachine) -> bool:
    """Whether the guest's clock shows what ours did while it was asked, however long that took."""
    asked = time.time()
    shown = int(machine.shell("date +%s"))
    return asked - CLOCK_TOLERANCE_S <= shown <= time.time() + CLOCK_TOLERANCE_S


@pytest.mark.parametrize("cpus", [1, 2])
def test_linux_goes_on_after_each_restore(cpus: int, tmp_path: Path) -> None:
    kernel, initrd = guest("debian")
    config = MachineConfig(
        memory_bytes=256 << 20,
        cpus=cpus,
        accel=AccelChoice.KVM,
        kernel=kernel,
        initrd=initrd,
        append="console=ttyS0 quiet panic=-1",
    )
    machine = RunningMachine.boot(config)
    machine.expect("pyhyve guest ready", 200)
    machine.shell("seq 1000 > /tmp/numbers; : > /tmp/sums")
    expected = machine.shell("sha256sum < /tmp/numbers").split()[0]
    machine.shell("(while :; do sha256sum < /tmp/numbers >> /tmp/sums; done) & :")
    before = 0
    for _ in range(ROUNDS):
        time.sleep(1)
        machine.save(tmp_path / "state")
        machine.stop()
        machine = RunningMachine.restore(tmp_path / "state")
        count, deadline = before, time.monotonic() + 60 * PATIENCE
        while count <= before:
            assert time.monotonic() < deadline, "the guest does not get on"
            found = machine.shell("sort /tmp/sums | uniq -c").split()
            assert found[1:] in ([], [expected, "-"]), found
            count = int(found[0]) if found else 0
        before = count
        deadline = time.monotonic() + 60 * PATIENCE
        while not clock_is_right(machine):
            assert time.monotonic() < deadline, "the guest's clock is wrong"
        assert machine.shell("grep -c ^processor /proc/cpuinfo") == str(cpus)
        assert machine.shell(f"dmesg | grep -cE '{TROUBLE}'") == "0"
    machine.stop()
