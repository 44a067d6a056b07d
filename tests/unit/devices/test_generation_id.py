"""The generation ID in guest memory, and who hears of changes."""

from __future__ import annotations

from uuid import UUID

import pytest

from pyhyve.boot.acpi import AcpiPlatform, dsdt_body
from pyhyve.devices.chipset.generation_id import GENERATION_ID_BYTES, GENERATION_ID_GPA, GenerationId
from pyhyve.memory.guest import GuestMemory

NAME = UUID("01234567-89ab-cdef-0123-456789abcdef")


class Page:
    """A machine's page for the identifier, and the events of its device."""

    def __init__(self, name: UUID | None) -> None:
        self.memory = GuestMemory()
        self.memory.add(GENERATION_ID_GPA, GENERATION_ID_BYTES)
        self.events = 0
        self.device = GenerationId(self.memory, None if name is None else name.bytes, self._event)

    def _event(self) -> None:
        self.events += 1

    @property
    def shown(self) -> UUID:
        return UUID(bytes_le=self.memory.read(GENERATION_ID_GPA, 16))


def test_identifier_is_stored_as_guids_are() -> None:
    page = Page(NAME)
    assert page.memory.read(GENERATION_ID_GPA, 8).hex() == "67452301ab89efcd"
    assert page.shown == NAME


def test_reset_shows_it_again() -> None:
    page = Page(NAME)
    page.memory.write(GENERATION_ID_GPA, bytes(16))
    page.device.reset()
    assert page.shown == NAME
    assert page.events == 0


def test_copy_gets_another_and_is_told() -> None:
    first, copy = Page(None), Page(None)
    state = first.device.save()
    copy.memory.write(GENERATION_ID_GPA, first.memory.read(GENERATION_ID_GPA, 16))
    copy.device.load(state)
    assert copy.shown != first.shown
    assert copy.events == 1
    assert copy.shown.bytes == copy.device.identifier
    assert copy.shown.version == 4


def test_machine_that_goes_back_gets_another() -> None:
    page = Page(None)
    before, state = page.shown, page.device.save()
    page.device.load(state)
    assert page.shown != before
    assert page.events == 1


@pytest.mark.parametrize("other", [NAME, UUID(int=1)])
def test_name_that_was_given_is_kept(other: UUID) -> None:
    page = Page(NAME)
    page.device.load(Page(other).device.save())
    assert page.shown == NAME
    assert page.events == (other != NAME)


def test_tables_say_where_it_is() -> None:
    platform = AcpiPlatform(1, 0, 0, 0, 0, (), generation_id_gpa=GENERATION_ID_GPA)
    body = dsdt_body(platform)
    # Name (ADDR, Package {0xFEF00000, 0}), and an event that notifies the device.
    assert b"\x08ADDR\x12\x08\x02\x0c" + GENERATION_ID_GPA.to_bytes(4, "little") + b"\x00" in body
    assert b"_E05\x00\x86\\\x2e_SB_VGEN\x0a\x80" in body
    assert b"VGEN" not in dsdt_body(AcpiPlatform(1, 0, 0, 0, 0, ()))
