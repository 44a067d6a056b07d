"""Putting the host to sleep for a while (Documentation/admin-guide/pm/sleep-states.rst, rtc(4))."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Final

from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain

__all__ = ["HostSleep"]

_log = logging.getLogger(__name__)
_faults: Final = Faults(ErrorDomain.NONE)
_TARGETS: Final = (("mem", "Suspend-to-RAM"), ("disk", "Suspend-to-Disk"), ("", "Hybrid-Suspend"))
"""virNodeSuspendTarget: the kernel's word and libvirt's; it cannot do both at once by one word."""
_DURATION_LEAST_S: Final = 60
_DELAY_S: Final = 10.0
"""How long it takes to begin, so that the answer reaches whoever asked."""


class HostSleep:
    """The host's power states, in ``root``, the kernel's ``/sys``."""

    def __init__(self, root: Path = Path("/sys"), delay_s: float = _DELAY_S) -> None:
        self._root = root
        self._delay_s = delay_s
        self.task: asyncio.Task[None] | None = None
        """Going to sleep, once it was asked for."""

    def begin(self, target: int, duration_s: int) -> None:
        """Have the host sleep soon, and wake up after so many seconds. Raises LibvirtError."""
        if not 0 <= target < len(_TARGETS):
            detail = f"unknown suspend target {target}"
            raise _faults.argument(detail)
        word, name = _TARGETS[target]
        try:
            known = (self._root / "power/state").read_text(encoding="ascii").split()
        except OSError:
            known = []
        if word not in known:
            raise LibvirtError(ErrorCode.ARGUMENT_UNSUPPORTED, ErrorDomain.NONE, name)
        if self.task is not None and not self.task.done():
            detail = "Suspend operation already in progress"
            raise _faults.invalid(detail)
        if duration_s < _DURATION_LEAST_S:
            detail = "Suspend duration is too short"
            raise _faults.argument(detail)
        alarm = self._root / "class/rtc/rtc0/wakealarm"
        try:
            for text in ("0", f"+{duration_s}"):
                alarm.write_text(text, encoding="ascii")
        except OSError as error:
            detail = f"cannot set {alarm}"
            raise _faults.system(detail, error) from error
        self.task = asyncio.get_running_loop().create_task(self._sleep(word))

    async def _sleep(self, word: str) -> None:
        await asyncio.sleep(self._delay_s)
        try:
            await asyncio.to_thread((self._root / "power/state").write_text, word, encoding="ascii")
        except OSError as error:
            _log.error("the host does not sleep: %s", error.strerror)
