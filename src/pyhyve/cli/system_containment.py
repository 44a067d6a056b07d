"""Giving up rights: `-runas` and `-sandbox`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.properties import parse_properties
from pyhyve.support.enums import Enum
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyhyve.machine.config import MachineConfig

_DENIED = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
"""What QEMU denies on request; here it is always denied."""
_LOADED_LATE = ("pyhyve.machine", "pyhyve.devices", "pyhyve.backends", "pyhyve.image", "pyhyve.state", "pyhyve.boot")
_PATH_KEYS = {"filename", "file", "path", "logfile", "mem-path"}
_ONLY_READ = ("kernel", "initrd", "firmware")


class Sandbox(Enum):
    """What `-sandbox` asks for."""

    NONE = "none"
    CALLS = "calls"
    """System calls are limited."""
    CALLS_AND_FILES = "calls and files"


def parse_sandbox(value: str) -> Sandbox:
    """The value of `-sandbox`. Raises InputError.

    Files are limited too, unless a manager spells out QEMU's parameters: QEMU does not limit them, and a manager plugs
    in disks from anywhere. `files` says it explicitly.
    """
    given = parse_properties("-sandbox", value, "enable")
    wanted = given.switch("enable", default=False)
    of_qemu = any(key in given.values for key in _DENIED)
    for key in _DENIED:
        given.only(key, "deny")
    files = given.take("files")
    given.finish()
    if files is None:
        files = "allow" if of_qemu else "deny"
    if files not in {"allow", "deny"}:
        msg = f"-sandbox: files={files}: use allow or deny"
        raise InputError(msg)
    if not wanted:
        return Sandbox.NONE
    return Sandbox.CALLS_AND_FILES if files == "deny" else Sandbox.CALLS


def contain(config: MachineConfig, runas: str, paths: list[Path], sandbox: Sandbox) -> None:
    """Become `runas`, if given, and enter the sandbox, if wanted; all that the machine needs is open by now.

    `paths` are files beside those of the configuration that are still to be written or removed. Raises UserError.
    """
    if not runas and sandbox is Sandbox.NONE:
        return
    from pyhyve.sandbox.contain import become, enter, find_identity

    if runas:
        preload()
        become(find_identity(runas))
    if sandbox is not Sandbox.NONE:
        written = [path.parent for path in (*paths, *_written(config))]
        read = [Path(found) for name in _ONLY_READ if (found := getattr(config, name)) is not None]
        limits_files = sandbox is Sandbox.CALLS_AND_FILES
        enter(readable=[path.resolve().parent for path in read], writable=written, limits_files=limits_files)


def preload() -> None:
    """Load what is otherwise loaded when it is first needed: another user may not be able to read it."""
    import importlib
    import pkgutil

    for name in _LOADED_LATE:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            with contextlib.suppress(ImportError):  # of a library for one kind of host or image
                importlib.import_module(found.name)
    importlib.import_module("encodings.idna")


def _written(config: MachineConfig) -> Iterator[Path]:
    """Files of the configuration that the machine writes, or whose neighbours (overlays, sockets) it makes."""
    for disk in config.disks:
        yield Path(disk.path).resolve()
    if config.console.path is not None:
        yield config.console.path.resolve()
    yield from _paths_in([
        *config.additions.blockdevs, *config.additions.objects, *(backend for _, backend in config.additions.chardevs),
        *config.additions.netdevs,
    ])  # fmt: skip


def _paths_in(value: Any) -> Iterator[Path]:  # noqa: ANN401 - JSON values
    if isinstance(value, dict):
        for key, item in value.items():
            if key in _PATH_KEYS and isinstance(item, str):
                yield Path(item).resolve()
            else:
                yield from _paths_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _paths_in(item)


def check_identity(text: str) -> str:
    """The value of `-runas`. Raises InputError."""
    from pyhyve.sandbox.contain import find_identity

    if not text:
        msg = "-runas: needs a user"
        raise InputError(msg)
    find_identity(text)
    return text
