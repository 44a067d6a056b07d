"""What IDE and SATA controllers have in common, for those who put drives on them."""

from __future__ import annotations

from pyhyve.support.hints import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyhyve.devices.ide.drive import Drive


class IdeController(Protocol):
    """A PCI function with buses for drives."""

    slot: int
    function: int

    def units(self, bus: int) -> list[Drive | None]:
        """The drives on a bus, None for places that are free."""

    def connect(self, bus: int, unit: int, drive: Drive) -> None:
        """Put a drive into a free place."""
