"""Machine states inside qcow2 images, shared with `savevm` and `loadvm` of a real QEMU."""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.image.opening import OpenSettings, create_image, open_image
from tests.conformance.image.conftest import environment, qemu_img, require

if TYPE_CHECKING:
    from pathlib import Path

    from pyhyve.image.contract import Image

OPTIONS: list[dict[str, Any]] = [{}, {"compat": "v2"}, {"cluster_size": 4096}, {"extended_l2": True}]


def human_monitor(disk: Path, *commands: str) -> str:
    """What a stopped machine with the disk answers to monitor commands."""
    require("qemu-system-x86_64")
    done = subprocess.run(
        ["qemu-system-x86_64", "-accel", "tcg", "-m", "32", "-S", "-display", "none", "-nodefaults", "-monitor",
         "stdio", "-drive", f"file={disk},format=qcow2,if=virtio"],
        input="".join(f"{line}\n" for line in (*commands, "quit")), env=environment(), capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.stdout


def vm_state(image: Image, length: int) -> bytes:
    found = bytearray(length)
    image.pread_vm_state_into(memoryview(found), 0)
    return bytes(found)


def snapshots(disk: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(qemu_img("info", "--output", "json", str(disk)).stdout)["snapshots"]
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_machine_state_that_we_copied_is_loaded_by_qemu(tmp_path: Path, options: dict[str, Any]) -> None:
    disk = tmp_path / "disk.qcow2"
    create_image(str(disk), "qcow2", (8 << 20) + 512, options)
    human_monitor(disk, "savevm theirs")
    (theirs,) = snapshots(disk)
    length = theirs["vm-state-size"]
    assert length > 100_000
    with open_image(str(disk)) as image:
        image.select_snapshot(image.find_snapshot("theirs"))  # type: ignore[arg-type]
        state = vm_state(image, length)
    assert state.startswith(b"QEVM")
    with open_image(str(disk), OpenSettings(writable=True)) as image:
        image.apply_snapshot(image.find_snapshot("theirs"))  # type: ignore[arg-type]
        assert vm_state(image, length) == state
        image.delete_snapshot(image.find_snapshot("theirs"))  # type: ignore[arg-type]
        for at in range(0, length, 100_000):
            image.pwrite_vm_state(state[at : at + 100_000], at)
        image.create_snapshot(
            "ours", date_ns=1_700_000_000_123_456_789, vm_clock_ns=3_000_000_004, vm_state_size_bytes=length
        )
    (ours,) = snapshots(disk)
    assert ours == {
        "id": "1", "name": "ours", "vm-state-size": length, "date-sec": 1_700_000_000, "date-nsec": 123_456_789,
        "vm-clock-sec": 3, "vm-clock-nsec": 4,
    }  # fmt: skip
    assert qemu_img("check", str(disk)).returncode == 0
    table = human_monitor(disk, "info snapshots", "loadvm ours", "savevm again", "delvm ours")
    assert "Error" not in table, table
    assert " ours " in table
    assert qemu_img("check", str(disk)).returncode == 0
    with open_image(str(disk)) as image:
        image.select_snapshot(image.find_snapshot("again"))  # type: ignore[arg-type]
        assert vm_state(image, 4) == b"QEVM"


def test_image_with_our_machine_states_is_changed_by_qemu_img(tmp_path: Path) -> None:
    disk, chance = tmp_path / "disk.qcow2", random.Random(3)
    create_image(str(disk), "qcow2", 4 << 20, {"cluster_size": 4096})
    states = {f"s{number}": chance.randbytes(300_000) for number in range(3)}
    with open_image(str(disk), OpenSettings(writable=True)) as image:
        for name, state in states.items():
            image.pwrite(chance.randbytes(50_000), 0)
            image.pwrite_vm_state(state, 0)
            image.create_snapshot(name, date_ns=1, vm_state_size_bytes=len(state))
    assert [(item["name"], item["vm-state-size"]) for item in snapshots(disk)] == [(name, 300_000) for name in states]
    for words in (("-a", "s1"), ("-d", "s0"), ("-c", "plain"), ("-a", "s2")):
        assert qemu_img("snapshot", *words, str(disk)).returncode == 0
        assert qemu_img("check", str(disk)).returncode == 0
    with open_image(str(disk)) as image:
        assert image.check().corruptions == 0
        assert vm_state(image, 300_000) == states["s2"]
        image.select_snapshot(image.find_snapshot("s1"))  # type: ignore[arg-type]
        assert vm_state(image, 300_000) == states["s1"]
