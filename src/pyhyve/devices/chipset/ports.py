"""Small fixed ports: diagnostics, page registers, the firmware's debug console."""

from __future__ import annotations

from pyhyve.state.errors import StateError
from pyhyve.state.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

DEBUG_CONSOLE_MAGIC = 0xE9
"""What firmware reads to find out whether anyone listens."""
_LINE_LIMIT = 1024


@record
class ScratchPortsState:
    """The registers."""

    registers: bytes


class ScratchPorts:
    """Byte registers that remember what was written: DMA page registers and port 0x80."""

    state_type: ClassVar = ScratchPortsState
    state_version: ClassVar = 1

    def __init__(self, size: int) -> None:
        """`size` ports."""
        self._registers = bytearray(size)

    def save(self) -> ScratchPortsState:
        """What was written."""
        return ScratchPortsState(registers=bytes(self._registers))

    def load(self, state: ScratchPortsState) -> None:
        """Take over what was written."""
        if len(state.registers) != len(self._registers):
            msg = f"state of scratch ports: has {len(state.registers)} registers"
            raise StateError(msg)
        self._registers[:] = state.registers

    def read(self, offset: int, _size: int) -> int:
        """Read back."""
        return self._registers[offset]

    def write(self, offset: int, _size: int, value: int) -> None:
        """Remember `value`."""
        self._registers[offset] = value


class DebugConsole:
    """Port 0x402: firmware writes its log here, a character at a time."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """`log` gets whole lines."""
        self._log = log
        self._line = bytearray()

    def read(self, _offset: int, _size: int) -> int:
        """Say that someone listens."""
        return DEBUG_CONSOLE_MAGIC

    def write(self, _offset: int, _size: int, value: int) -> None:
        """Take a character."""
        if value != 0x0A:
            self._line.append(value)
        if value == 0x0A or len(self._line) >= _LINE_LIMIT:
            self._log(self._line.decode("latin-1"))
            self._line.clear()
