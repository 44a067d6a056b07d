"""Commands on keyboard and screen."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.group import CommandGroup

if TYPE_CHECKING:
    from pyhyve.devices.display.picture import Picture
    from pyhyve.devices.display.screen import TextScreen
    from pyhyve.devices.display.vga import VgaRegisters

DEFAULT_HOLD_MS = 100
_MAX_HOLD_MS = 60_000


class UiCommands(CommandGroup):
    """What people see and type."""

    def send_key(self, keys: list[dict[str, Any]], hold_time: int | None = None) -> None:
        """Press keys one after the other, hold them, and let them go."""
        from pyhyve.devices.input.keys import NUMBERS  # noqa: PLC0415 - few clients type

        numbers = []
        for key in keys:
            data = key["data"]
            number = NUMBERS.get(data) if isinstance(data, str) else data
            if isinstance(number, int) and not 0 <= number <= 0xFF:
                # 0xE0xx and the like stand for extended keys, as in QEMU.
                number = number & 0x7F | 0x80 if number >> 8 == 0xE0 else None
            numbers.append(number)
        keyboard = self.hardware.keyboard
        if keyboard is None:
            msg = "the machine has no keyboard"
            raise QmpError(msg)
        hold_ms = DEFAULT_HOLD_MS if hold_time is None else min(max(hold_time, 0), _MAX_HOLD_MS)
        pressed = [number for number in numbers if number]  # a key that the keyboard lacks does nothing, as in QEMU
        self.hardware.type_keys(pressed, hold_ms)

    def screendump(
        self,
        filename: str,
        device: str | None = None,
        head: int | None = None,
        format: str = "ppm",  # noqa: A002 - QEMU's name
    ) -> None:
        """Write a picture of what is shown to a file."""
        if head is not None and device is None:
            msg = "'head' must be specified together with 'device'"
            raise QmpError(msg)
        if device is not None:
            plugged = self.hardware.devices.find(device)
            if plugged is None:
                msg = f"Device '{device}' not found"
                raise QmpError(msg, ErrorClass.DEVICE_NOT_FOUND)
            if head or plugged.device is not self.hardware.vga:
                msg = f"No such output: device '{device}', head {head or 0}"
                raise QmpError(msg)
        shown = self.picture()
        data = shown.png() if format == "png" else shown.ppm()
        try:
            fd = self.hardware.descriptors.open_set(filename, os.O_WRONLY)
            with open(filename if fd is None else fd, "wb") as file:  # noqa: PTH123 - maybe a descriptor
                file.write(data)
        except OSError as error:
            msg = f"failed to open file '{filename}': {error.strerror}"
            raise QmpError(msg) from error

    def picture(self) -> Picture:
        """What is shown. Raises QmpError when there is no graphics card."""
        from pyhyve.devices.display import screen  # noqa: PLC0415 - few clients look

        return screen.picture(self._registers(), self.machine.parts.vm.memory)

    def text(self) -> TextScreen | None:
        """The text that is shown, in a text mode. Raises QmpError when there is no graphics card."""
        from pyhyve.devices.display import screen  # noqa: PLC0415 - few clients look

        return screen.read_text(self._registers(), self.machine.parts.vm.memory)

    def _registers(self) -> VgaRegisters:
        """A copy, so that the guest need not wait while a picture is made."""
        from pyhyve.devices.display.vga import VgaRegisters  # noqa: PLC0415 - few clients look

        vga = self.hardware.vga
        if vga is None:
            msg = "There is no console to take a screendump from"
            raise QmpError(msg)
        copy = VgaRegisters()
        with self.machine.parts.lock:
            copy.load(vga.registers.save())
        return copy
