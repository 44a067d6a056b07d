"""CPUs compared with those of machines, through real virsh on both daemons."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from daemon_process import DaemonProcess, virsh

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-system-x86_64") is None, reason="no QEMU (Debian package qemu-system-x86)"
)
CPUS = {
    "haswell": "<cpu><arch>x86_64</arch><model>Haswell</model></cpu>",
    "qemu64": "<cpu match='exact'><model>qemu64</model></cpu>",
    "host": "<cpu mode='host-passthrough'/>",
    "penryn": "<cpu><arch>x86_64</arch><model>Penryn</model><feature name='vme'/><feature name='hle'/></cpu>",
}


@pytest.mark.parametrize(
    "command",
    [
        "hypervisor-cpu-compare haswell --error --virttype qemu",
        "hypervisor-cpu-compare haswell --virttype qemu",
        "hypervisor-cpu-compare qemu64 --virttype qemu",
        "hypervisor-cpu-compare host --virttype qemu",
        "hypervisor-cpu-compare haswell --virttype foo",
        "hypervisor-cpu-compare haswell --virttype qemu --machine nosuch",
        "hypervisor-cpu-baseline haswell --virttype qemu",
        "hypervisor-cpu-baseline haswell --virttype qemu --features",
        "hypervisor-cpu-baseline penryn --virttype qemu",
    ],
)
def test_answers_are_libvirts(ours: DaemonProcess, theirs: Path, tmp_path: Path, command: str) -> None:
    verb, name, *options = command.split()
    (tmp_path / name).write_text(CPUS[name])
    uris = (f"qemu:///system?socket={ours.socket}", f"qemu:///system?socket={theirs}")
    mine, real = (virsh(uri, verb, str(tmp_path / name), *options) for uri in uris)
    assert (mine.returncode, mine.stdout, mine.stderr) == (real.returncode, real.stdout, real.stderr)
