"""Configurations that no machine can have are refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyhyve.machine.builder import build
from pyhyve.machine.config import (
    MAX_DEVICES,
    BalloonConfig,
    ConfigError,
    ConsoleConfig,
    ConsoleKind,
    DiskConfig,
    MachineConfig,
    NetConfig,
    PortConfig,
    RngConfig,
    SerialBusConfig,
    VsockConfig,
)
from pyhyve.machine.config_record import from_plain, to_plain

KERNEL = Path("/kernel")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_bytes": 0}, "memory: 0 bytes is too little"),
        ({"memory_bytes": 1 << 50}, "more than a guest can address"),
        ({"cpus": 0}, "cpus: 0 is not in"),
        ({"initrd": Path("/initrd")}, "initrd: needs a kernel"),
        ({"append": "quiet"}, "append: needs a kernel"),
        ({"kernel": KERNEL, "append": "a\0b"}, "NUL"),
        ({"kernel": KERNEL, "firmware": Path("/bios")}, "cannot be combined with a kernel"),
        ({"boot_order": "x"}, "not made of c, d and n"),
        ({"timeout_s": 0.0}, "not positive"),
        (
            {"disks": (DiskConfig(Path("/disk")),) * MAX_DEVICES, "nets": (NetConfig(),)},
            "31 disks, network cards and other devices, but the PCI bus has room for 30",
        ),
    ],
)
def test_impossible_configuration(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MachineConfig(**options)


def test_full_bus_is_possible() -> None:
    MachineConfig(disks=(DiskConfig(Path("/disk")),) * MAX_DEVICES)


def test_network_boot_is_refused_for_want_of_a_boot_rom() -> None:
    with pytest.raises(ConfigError, match="boot ROM"):
        build(MachineConfig(boot_order="n"))


def test_every_kind_of_device_survives_in_a_saved_configuration() -> None:
    port = PortConfig(1, ConsoleConfig(ConsoleKind.UNIX, Path("/s")), "agent")
    extras = (RngConfig(Path("/r"), "r"), BalloonConfig(), SerialBusConfig((port,), "b"), VsockConfig(3, Path("/v")))
    config = MachineConfig(kernel=KERNEL, extras=extras)
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config


def test_two_ports_cannot_have_one_number() -> None:
    port = PortConfig(1, ConsoleConfig(ConsoleKind.NONE))
    with pytest.raises(ConfigError, match="two ports with the number 1"):
        SerialBusConfig((port, port))
