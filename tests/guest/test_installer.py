"""The Debian installer, as Debian ships it, on the serial console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .conftest import BOOT_TIMEOUT_S

if TYPE_CHECKING:
    from pyhyve.guest.builder import Guest

    from .conftest import StartMachine


def test_installer_shows_its_first_dialog_and_takes_keys(installer: Guest, start: StartMachine) -> None:
    console = start(installer, "console=ttyS0", "--memory", "1024M")
    console.expect("Select a language", BOOT_TIMEOUT_S)
    console.expect("English")
    # Tab leaves the list for the buttons, Enter presses "Continue" for English: the next dialog asks where we are.
    console.send("\r")
    console.expect("Select your location", 120)
