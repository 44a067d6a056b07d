from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.daemon.domains.emulators import Emulator, MachineType
from pyhyve.daemon.drivers.qemu.capabilities import _guest

if TYPE_CHECKING:
    from pyhyve.xml.document import Node


def _emulator(architecture: str) -> Emulator:
    machines = (MachineType("pc-q35-5.2", "pc-q35-5.2", 288), MachineType("pc-2", "pc-2", 255))
    return Emulator(
        path="/usr/bin/qemu",
        architecture=architecture,
        version=(7, 2, 0),
        package="",
        machines={item.name: item for item in (*machines, MachineType("pc", "pc-2", 255))},
        default_machine="pc-2",
        devices=frozenset(),
        commands=frozenset(),
        kvm=False,
    )


def _named(node: Node, name: str) -> Node:
    return next(child for child in node.children if child.name == name)


def test_default_machine_comes_first_for_virt_install_takes_that() -> None:
    names = [node.text for node in _named(_guest(_emulator("x86_64")), "arch").children if node.name == "machine"]
    assert names == ["pc-2", "pc", "pc-q35-5.2"]


def test_processors_of_32_bit_may_have_pae_or_not() -> None:
    features = [
        [node.name for node in _named(_guest(_emulator(name)), "features").children] for name in ("i386", "arm")
    ]
    assert features[0][:2] == ["pae", "nonpae"]
    assert "pae" not in features[1]
