from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.daemon.host.groups import Controller, MachineGroup, find_controllers

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    1: {
        "cpu": {"cpu.shares": "1024", "cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "-1", "cgroup.procs": ""},
        "memory": {
            "memory.limit_in_bytes": "9223372036854771712",
            "memory.soft_limit_in_bytes": "9223372036854771712",
            "memory.memsw.limit_in_bytes": "9223372036854771712",
            "cgroup.procs": "",
        },
        "blkio": {"blkio.bfq.weight": "100", "blkio.throttle.read_bps_device": "", "cgroup.procs": ""},
    },
    2: {
        "": {
            "cpu.weight": "100",
            "cpu.max": "max 100000",
            "memory.max": "max",
            "memory.high": "max",
            "memory.swap.max": "max",
            "io.weight": "default 100",
            "io.max": "",
            "cgroup.procs": "",
            "cgroup.subtree_control": "",
        }
    },
}


@pytest.fixture(params=[1, 2])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> MachineGroup:
    """A machine's group, with the files the kernel would have put there."""
    version: int = request.param
    controllers = {}
    for name in ("cpu", "memory", "blkio"):
        root = tmp_path if version == 2 else tmp_path / name
        controllers[name] = Controller(root, version)
    for name, files in FILES[version].items():
        root = tmp_path / name
        (root / "pyhyve/machine-7").mkdir(parents=True)
        for place in (root, root / "pyhyve", root / "pyhyve/machine-7"):
            for file, text in files.items():
                (place / file).write_text(text)
    return MachineGroup(controllers, 7)


def test_group_takes_the_process(group: MachineGroup) -> None:
    group.create()
    for name in ("cpu", "memory", "blkio"):
        assert group.has(name)
        assert group.read(name, "cgroup.procs") == "7"


def test_group_without_limits_says_so(group: MachineGroup) -> None:
    assert group.bandwidth() == (100000, -1)
    assert group.bandwidth("vcpu0") == (100000, -1)
    assert group.memory_limit("hard_limit") is None
    assert group.memory_limit("swap_hard_limit") is None
    assert group.weight == 100


def test_limits_are_written_as_the_kernel_wants_them(group: MachineGroup) -> None:
    version = group.version("cpu")
    group.shares = 2048
    group.set_bandwidth(group.path("cpu"), None, 20000)
    assert group.shares == 2048
    assert group.bandwidth() == (100000, 20000)
    group.set_bandwidth(group.path("cpu"), 50000, -1)
    assert group.bandwidth() == (50000, -1)
    group.set_memory_limit("hard_limit", 1 << 30)
    group.set_memory_limit("swap_hard_limit", 3 << 30)
    assert group.memory_limit("hard_limit") == 1 << 30
    assert group.memory_limit("swap_hard_limit") == 3 << 30
    if version == 2:
        assert group.read("memory", "memory.swap.max") == str(2 << 30)  # beyond the memory itself
    group.set_memory_limit("hard_limit", None)
    assert group.read("memory", "memory.max" if version == 2 else "memory.limit_in_bytes") in {"max", "-1"}
    group.set_throttle("read_bps", "8:0", 1000)
    file, text = ("io.max", "8:0 rbps=1000") if version == 2 else ("blkio.throttle.read_bps_device", "8:0 1000")
    assert group.read("blkio", file) == text


def test_controllers_are_found_where_they_are_mounted(tmp_path: Path) -> None:
    (tmp_path / "v2").mkdir()
    (tmp_path / "v1").mkdir()
    (tmp_path / "v2/cgroup.controllers").write_text("io memory pids\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"1 0 0:1 / {tmp_path}/v1 rw - cgroup cgroup rw,cpu\n2 0 0:2 / {tmp_path}/v2 rw shared:1 - cgroup2 x rw\n"
        f"3 0 0:3 / {tmp_path}/gone rw - cgroup cgroup rw,memory\n"
    )
    found = find_controllers(mounts)
    assert {name: (held.root.name, held.version) for name, held in found.items()} == {
        "cpu": ("v1", 1),
        "blkio": ("v2", 2),
        "memory": ("v2", 2),
    }
