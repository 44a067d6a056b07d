"""Control groups of machines: what limits their use of processors, memory and disks. Everything here blocks.

Both versions are there at once on many hosts: each controller is used where it is. Source: Linux,
``Documentation/admin-guide/cgroup-v2.rst`` and ``cgroup-v1/``.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Controller", "MachineGroup", "find_controllers"]

_log = logging.getLogger(__name__)
_WANTED: Final = ("cpu", "memory", "blkio")
_V2_NAMES: Final = {"cpu": "cpu", "memory": "memory", "blkio": "io"}
_PARENT: Final = "pyhyve"
_UNLIMITED_FROM: Final = 1 << 62
_DEFAULT_PERIOD_US: Final = 100_000


@dataclass(frozen=True, slots=True)
class Controller:
    """Where a controller is: its mount, and the version of its files."""

    root: Path
    version: int


def find_controllers(mounts: Path = Path("/proc/self/mountinfo")) -> dict[str, Controller]:
    """Return the controllers that this host has, and this process may make groups for."""
    found: dict[str, Controller] = {}
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root = Path(fields[4].replace("\\040", " "))
        if not os.access(root, os.W_OK):
            continue
        if kind[0] == "cgroup":
            options = kind[2].split(",")
            found.update({name: Controller(root, 1) for name in _WANTED if name in options})
        elif kind[0] == "cgroup2":
            with contextlib.suppress(OSError):
                there = (root / "cgroup.controllers").read_text(encoding="ascii").split()
                for name in _WANTED:
                    if _V2_NAMES[name] in there:
                        found.setdefault(name, Controller(root, 2))
    return found


class MachineGroup:
    """The groups of one machine, by controller. Methods raise OSError where the kernel refuses."""

    def __init__(self, controllers: Mapping[str, Controller], pid: int) -> None:
        """The groups are called after the machine's process, which no other machine of this host is."""
        self._controllers = dict(controllers)
        self._pid = pid
        self._place = Path(_PARENT) / f"machine-{pid}"

    def has(self, controller: str) -> bool:
        """Whether the machine is in a group of this controller."""
        held = self._controllers.get(controller)
        return held is not None and (held.root / self._place).is_dir()

    def path(self, controller: str) -> Path:
        """Directory of a controller's group."""
        return self._controllers[controller].root / self._place

    def version(self, controller: str) -> int:
        """Version of a controller's files."""
        return self._controllers[controller].version

    def create(self) -> None:
        """Make the groups and put the process into them; what cannot be made is left out, and logged."""
        for name, controller in self._controllers.items():
            path = controller.root / self._place
            try:
                if controller.version == 2:
                    _enable(controller.root, name)
                    path.parent.mkdir(exist_ok=True)
                    _enable(path.parent, name)
                path.mkdir(parents=True, exist_ok=True)
                (path / "cgroup.procs").write_text(str(self._pid), encoding="ascii")
            except OSError as error:
                _log.info("no control group %s: %s", path, error.strerror)

    def remove(self) -> None:
        """Remove the groups, which nothing is in any more; what is gone already is no error."""
        for controller in self._controllers.values():
            path = controller.root / self._place
            with contextlib.suppress(OSError):
                for child in path.iterdir():
                    if child.is_dir():
                        child.rmdir()
            with contextlib.suppress(OSError):
                path.rmdir()

    # -- values -------------------------------------------------------------------------------------------------------

    def read(self, controller: str, file: str) -> str:
        """Return what a file of a group says."""
        return (self.path(controller) / file).read_text(encoding="ascii").strip()

    def write(self, controller: str, file: str, text: str) -> None:
        """Write to a file of a group."""
        (self.path(controller) / file).write_text(text, encoding="ascii")

    def find(self, controller: str, *files: str) -> str | None:
        """Return the first of these files that a group has."""
        return next((file for file in files if (self.path(controller) / file).exists()), None)

    # -- processors ---------------------------------------------------------------------------------------------------

    def thread_group(self, name: str, threads: Iterable[int]) -> Path:
        """Make a group of the cpu controller for some of the machine's threads; return its directory."""
        path = self.path("cpu") / name
        if not path.is_dir():
            path.mkdir()
            if self.version("cpu") == 2:
                (path / "cgroup.type").write_text("threaded", encoding="ascii")
                _enable(self.path("cpu"), "cpu")
        into = path / ("cgroup.threads" if self.version("cpu") == 2 else "tasks")
        for thread in threads:
            with contextlib.suppress(ProcessLookupError):
                into.write_text(str(thread), encoding="ascii")
        return path

    def bandwidth(self, name: str = "") -> tuple[int, int]:
        """Return the period and the quota (-1: no limit) of the group, or of one of its threads' groups."""
        path = self.path("cpu") / name
        if not path.is_dir():
            return _DEFAULT_PERIOD_US, -1
        if self.version("cpu") == 2:
            quota, period = (path / "cpu.max").read_text(encoding="ascii").split()
            return int(period), -1 if quota == "max" else int(quota)
        period = (path / "cpu.cfs_period_us").read_text(encoding="ascii")
        return int(period), int((path / "cpu.cfs_quota_us").read_text(encoding="ascii"))

    def set_bandwidth(self, path: Path, period: int | None, quota: int | None) -> None:
        """Set the period and the quota of a group, one or both."""
        if self.version("cpu") == 2:
            old_quota, old_period = (path / "cpu.max").read_text(encoding="ascii").split()
            told = old_quota if quota is None else "max" if quota < 0 else str(quota)
            (path / "cpu.max").write_text(f"{told} {period or old_period}", encoding="ascii")
            return
        if period:
            (path / "cpu.cfs_period_us").write_text(str(period), encoding="ascii")
        if quota is not None:
            (path / "cpu.cfs_quota_us").write_text(str(max(quota, -1)), encoding="ascii")

    @property
    def shares(self) -> int:
        """The group's share among others."""
        return int(self.read("cpu", "cpu.weight" if self.version("cpu") == 2 else "cpu.shares"))

    @shares.setter
    def shares(self, value: int) -> None:
        self.write("cpu", "cpu.weight" if self.version("cpu") == 2 else "cpu.shares", str(value))

    # -- memory -------------------------------------------------------------------------------------------------------

    def memory_limit(self, kind: str) -> int | None:
        """Return a limit in bytes (``hard_limit``, ``soft_limit``, ``swap_hard_limit``); None where there is none."""
        file = _MEMORY_FILES[self.version("memory")][kind]
        try:
            text = self.read("memory", file)
        except FileNotFoundError:
            return None
        value = _UNLIMITED_FROM if text == "max" else int(text)
        if kind == "swap_hard_limit" and self.version("memory") == 2:
            hard = self.memory_limit("hard_limit")
            return None if value >= _UNLIMITED_FROM or hard is None else value + hard
        return None if value >= _UNLIMITED_FROM else value

    def set_memory_limit(self, kind: str, value: int | None) -> None:
        """Set a limit in bytes, or (None) take it away."""
        version = self.version("memory")
        if kind == "swap_hard_limit" and version == 2 and value is not None:
            value = max(value - (self.memory_limit("hard_limit") or 0), 0)
        text = ("max" if version == 2 else "-1") if value is None else str(value)
        self.write("memory", _MEMORY_FILES[version][kind], text)

    # -- disks --------------------------------------------------------------------------------------------------------

    @property
    def weight(self) -> int:
        """The group's share of disks; 0 where the kernel's schedulers have none."""
        file = self.find("blkio", *_WEIGHT_FILES)
        return 0 if file is None else int(self.read("blkio", file).split()[-1])

    def set_weight(self, value: int) -> None:
        """Set that. FileNotFoundError where there is none."""
        file = self.find("blkio", *_WEIGHT_FILES) or _WEIGHT_FILES[0]
        self.write("blkio", file, str(value))

    def set_throttle(self, kind: str, device: str, value: int) -> None:
        """Limit what goes to a device (``8:0``) in a second: ``read_bps``, ``write_iops``, …; 0 takes it away."""
        if self.version("blkio") == 1:
            self.write("blkio", f"blkio.throttle.{kind}_device", f"{device} {value}")
            return
        way, _, unit = kind.partition("_")
        self.write("blkio", "io.max", f"{device} {way[0]}{unit}={value or 'max'}")


_WEIGHT_FILES: Final = ("blkio.bfq.weight", "blkio.weight", "io.bfq.weight", "io.weight")
_MEMORY_FILES: Final = {
    1: {
        "hard_limit": "memory.limit_in_bytes",
        "soft_limit": "memory.soft_limit_in_bytes",
        "swap_hard_limit": "memory.memsw.limit_in_bytes",
    },
    2: {"hard_limit": "memory.max", "soft_limit": "memory.high", "swap_hard_limit": "memory.swap.max"},
}


def _enable(path: Path, controller: str) -> None:
    """Have groups below a version 2 group use a controller."""
    name = _V2_NAMES[controller]
    control = path / "cgroup.subtree_control"
    if name not in control.read_text(encoding="ascii").split():
        control.write_text(f"+{name}", encoding="ascii")
