"""Commands on character devices."""

from __future__ import annotations

import base64
from typing import Any

from pyhyve.backends.chardev_descriptors import LoggedChardev, RingChardev
from pyhyve.machine.hardware.chardevs import KINDS, NamedChardev
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.group import CommandGroup


class ChardevCommands(CommandGroup):
    """Character devices by name."""

    def query_chardev(self) -> list[dict[str, Any]]:
        """All of them."""
        return [
            {"label": entry.label, "filename": entry.description, "frontend-open": entry.is_open}
            for entry in self.hardware.chardevs
        ]

    def query_chardev_backends(self) -> list[dict[str, Any]]:
        """Kinds of them."""
        return [{"name": kind} for kind in KINDS]

    def chardev_add(self, id: str, backend: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - QEMU's name
        """Open another."""
        self.hardware.was_changed = True
        return _opened(self.hardware.chardevs.add(id, backend))

    def chardev_change(self, id: str, backend: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - QEMU's name
        """Put another behind a name."""
        self.hardware.was_changed = True
        return _opened(self.hardware.chardevs.change(id, backend))

    def chardev_remove(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Close one."""
        self.hardware.was_changed = True
        self.hardware.chardevs.remove(id)

    def chardev_send_break(self, id: str) -> None:  # noqa: A002 - QEMU's name
        """Send a break to the device that uses it; one that knows no breaks takes no notice."""
        entry = self.hardware.chardevs.need(id)
        with self.machine.parts.lock:
            entry.chardev.send_break()

    # -- rings --------------------------------------------------------------------------------------------------------

    def _ring(self, device: str) -> RingChardev:
        entry = self.hardware.chardevs.find(device)
        if entry is None:
            msg = f"Device '{device}' not found"
            raise QmpError(msg)
        inner = entry.chardev.inner
        if isinstance(inner, LoggedChardev):
            inner = inner.inner
        if not isinstance(inner, RingChardev):
            msg = f"{device} is not a ringbuf device"
            raise QmpError(msg)
        return inner

    def ringbuf_read(self, device: str, size: int, format: str = "utf8") -> str:  # noqa: A002 - QEMU's name
        """Take what is in a ring."""
        ring = self._ring(device)
        if size <= 0:
            msg = "size must be greater than zero"
            raise QmpError(msg)
        with self.machine.parts.lock:
            data = ring.take(size)
        return base64.b64encode(data).decode() if format == "base64" else data.decode(errors="replace")

    def ringbuf_write(self, device: str, data: str, format: str = "utf8") -> None:  # noqa: A002 - QEMU's name
        """Put something into a ring."""
        ring = self._ring(device)
        try:
            raw = base64.b64decode(data, validate=True) if format == "base64" else data.encode(errors="replace")
        except ValueError as error:  # binascii.Error among them
            msg = "Base64 data is not valid"
            raise QmpError(msg) from error
        with self.machine.parts.lock:
            ring.write(raw)


def _opened(entry: NamedChardev) -> dict[str, Any]:
    if entry.description.startswith("pty:"):
        return {"pty": entry.description.removeprefix("pty:")}
    return {}
