"""A CD-ROM drive (SPC-4, MMC-6), with or without a disc."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.devices.scsi.spec import Command, SenseCode, SenseKey, Status

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_BYTES = 2048
_CD_BLOCKS = 450_000
"""More than any CD holds: such a disc is a DVD."""
_PROFILE_CD_ROM, _PROFILE_DVD_ROM = 0x08, 0x10
_LEAD_OUT = 0xAA
_CAPABILITIES_PAGE = 0x2A
_ALL_PAGES = 0x3F
_MEDIA_EVENTS = 0x10
_NEW_MEDIA, _NO_CHANGE, _EJECT_REQUEST = 2, 0, 1
_MEDIA_PRESENT, _TRAY_OPEN = 2, 1
_NOTHING_TO_DO = frozenset({
    Command.TEST_UNIT_READY,
    Command.SEEK_10,
    Command.SYNCHRONIZE_CACHE_10,
    Command.SET_CD_SPEED,
})  # fmt: skip
_WITHOUT_DISC = frozenset({
    Command.START_STOP_UNIT,
    Command.PREVENT_ALLOW_MEDIUM_REMOVAL,
    Command.REQUEST_SENSE,
    Command.INQUIRY,
    Command.REPORT_LUNS,
    Command.MODE_SENSE_6,
    Command.MODE_SENSE_10,
    Command.GET_CONFIGURATION,
    Command.GET_EVENT_STATUS,
    Command.SET_CD_SPEED,
})  # fmt: skip
"""What a drive answers that has nothing to read."""
_BEFORE_ATTENTION = frozenset({
    Command.INQUIRY, Command.REPORT_LUNS, Command.REQUEST_SENSE, Command.GET_EVENT_STATUS, Command.GET_CONFIGURATION,
})  # fmt: skip
"""Commands that leave a unit attention for the next (SPC-4, 5.14)."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a command: `data` for the initiator, or bytes `[offset, offset + length)` of the disc."""

    status: Status = Status.GOOD
    data: bytes = b""
    offset: int = 0
    length: int = 0
    sense: bytes = b""


def failure(key: SenseKey, code: SenseCode) -> Result:
    """CHECK CONDITION with its reason."""
    return Result(Status.CHECK_CONDITION, sense=sense_data(key, code))


def sense_data(key: SenseKey, code: SenseCode) -> bytes:
    """Fixed format sense data (SPC-4, 4.5.3)."""
    return struct.pack(">BBB4xB4xH4x", 0x70, 0, key, 10, code)


class Cdrom:
    """The drive's command set; whoever owns it reads the disc."""

    def __init__(self, size_bytes: int | None) -> None:
        """A disc of `size_bytes`, the last block padded; None: the drive is empty."""
        self.blocks = 0
        self.has_disc = self.is_tray_open = self.is_locked = False
        self.on_tray: Callable[[bool], None] | None = None
        """Called with whether the tray is open when the guest moves it."""
        self._attention = False
        self._event = _NO_CHANGE
        if size_bytes is not None:
            self._load(size_bytes)

    def _load(self, size_bytes: int) -> None:
        self.has_disc = True
        self.blocks = -(-size_bytes // BLOCK_BYTES)

    def insert(self, size_bytes: int) -> None:
        """Put a disc in."""
        self._load(size_bytes)
        self._attention = True
        self._event = _NEW_MEDIA

    def remove(self) -> None:
        """Take the disc out."""
        self.has_disc = False
        self.blocks = 0

    def move_tray(self, *, is_open: bool) -> None:
        """Open or close the tray."""
        self.is_tray_open = is_open
        if not is_open and self.has_disc:
            self._attention = True
            self._event = _NEW_MEDIA

    def power_on(self) -> None:
        """The machine is reset: the tray is closed, and nobody holds it."""
        self.is_locked = False
        if self.is_tray_open:
            self.move_tray(is_open=False)

    def request_eject(self) -> None:
        """Press the button on the drive: a guest that locked the tray is asked."""
        self._event = _EJECT_REQUEST

    def _start_stop(self, cdb: bytes) -> Result:
        """START STOP UNIT (MMC-6, 6.42): LoEj moves the tray."""
        if cdb[4] & 2 and not cdb[4] & 0xF0:
            is_open = not cdb[4] & 1
            if is_open and self.is_locked and self.has_disc and not self.is_tray_open:
                return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.MEDIUM_REMOVAL_PREVENTED)
            if is_open != self.is_tray_open:
                self.move_tray(is_open=is_open)
                if self.on_tray is not None:
                    self.on_tray(is_open)
        return Result()

    def execute(self, cdb: bytes) -> Result:
        """Carry out one command block of at least 12 bytes."""
        if self._attention and cdb[0] not in _BEFORE_ATTENTION:
            self._attention = False
            return failure(SenseKey.UNIT_ATTENTION, SenseCode.MEDIUM_MAY_HAVE_CHANGED)
        if cdb[0] not in _WITHOUT_DISC and (self.is_tray_open or not self.has_disc):
            why = (
                SenseCode.MEDIUM_NOT_PRESENT_TRAY_OPEN
                if self.is_tray_open
                else SenseCode.MEDIUM_NOT_PRESENT_TRAY_CLOSED
            )
            return failure(SenseKey.NOT_READY, why)
        match cdb[0]:
            case Command.START_STOP_UNIT:
                return self._start_stop(cdb)
            case Command.PREVENT_ALLOW_MEDIUM_REMOVAL:
                self.is_locked = bool(cdb[4] & 1)
                return Result()
            case code if code in _NOTHING_TO_DO:
                return Result()
            case Command.READ_10:
                return self._read(*struct.unpack_from(">IxH", cdb, 2))
            case Command.READ_12:
                return self._read(*struct.unpack_from(">II", cdb, 2))
            case Command.READ_CAPACITY_10:
                return Result(data=struct.pack(">II", min(max(self.blocks - 1, 0), 0xFFFF_FFFF), BLOCK_BYTES))
            case Command.REQUEST_SENSE:
                return _limited(sense_data(SenseKey.NO_SENSE, SenseCode.NONE), cdb[4])
            case Command.INQUIRY:
                return _inquiry(cdb)
            case Command.REPORT_LUNS:
                return _limited(struct.pack(">I4xQ", 8, 0), struct.unpack_from(">I", cdb, 6)[0])
            case Command.MODE_SENSE_6:
                return _mode_sense(cdb[2], cdb[4], header_bytes=4)
            case Command.MODE_SENSE_10:
                return _mode_sense(cdb[2], struct.unpack_from(">H", cdb, 7)[0], header_bytes=8)
            case (
                Command.READ_TOC | Command.GET_CONFIGURATION | Command.GET_EVENT_STATUS | Command.READ_DISC_INFORMATION
            ):
                return self._multimedia(cdb)
            case _:
                return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.INVALID_COMMAND)

    def _read(self, lba: int, blocks: int) -> Result:
        if lba + blocks > self.blocks:
            return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.LBA_OUT_OF_RANGE)
        return Result(offset=lba * BLOCK_BYTES, length=blocks * BLOCK_BYTES)

    def _multimedia(self, cdb: bytes) -> Result:
        (limit,) = struct.unpack_from(">H", cdb, 7)
        match cdb[0]:
            case Command.READ_TOC:
                return self._read_toc(cdb, limit)
            case Command.GET_CONFIGURATION:
                profile = _PROFILE_DVD_ROM if self.blocks > _CD_BLOCKS else _PROFILE_CD_ROM
                if not self.has_disc or self.is_tray_open:
                    profile = 0
                return _limited(struct.pack(">IxxH", 4, profile), limit)
            case Command.GET_EVENT_STATUS if not cdb[1] & 1:
                return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.INVALID_FIELD)
            case Command.GET_EVENT_STATUS if cdb[4] & _MEDIA_EVENTS:
                # What happened since it was asked last, and how the drive is now (MMC-6, 6.6.2.7).
                event, self._event = self._event, _NO_CHANGE
                state = _TRAY_OPEN if self.is_tray_open else _MEDIA_PRESENT if self.has_disc else 0
                return _limited(struct.pack(">HBBBBxx", 6, 4, _MEDIA_EVENTS, event, state), limit)
            case Command.GET_EVENT_STATUS:
                return _limited(struct.pack(">HBB", 2, 0x80, _MEDIA_EVENTS), limit)
            case _:
                # One finished session of one track (MMC-6, 6.22.3.1).
                return _limited(struct.pack(">HBBBBBB", 32, 0x0E, 1, 1, 1, 1, 0x20).ljust(34, b"\0"), limit)

    def _read_toc(self, cdb: bytes, limit: int) -> Result:
        """READ TOC/PMA/ATIP (MMC-6, 6.26): one data track, or the one session."""
        is_msf = bool(cdb[1] & 2)
        form = cdb[2] & 0xF or cdb[9] >> 6
        tracks: tuple[int, ...]
        if form == 0 and cdb[6] in {0, 1}:
            tracks = (1, _LEAD_OUT)
        elif form == 0 and cdb[6] == _LEAD_OUT:
            tracks = (_LEAD_OUT,)
        elif form == 1:
            tracks = (1,)
        else:
            return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.INVALID_FIELD)
        entries = b"".join(
            struct.pack(">xBBx", 0x14, track) + _position(self.blocks if track == _LEAD_OUT else 0, is_msf=is_msf)
            for track in tracks
        )
        return _limited(struct.pack(">HBB", 2 + len(entries), 1, 1) + entries, limit)


def _position(lba: int, *, is_msf: bool) -> bytes:
    """A block's address, or its minute, second and frame, which begin 150 frames earlier."""
    if not is_msf:
        return struct.pack(">I", min(lba, 0xFFFF_FFFF))
    seconds, frame = divmod(lba + 150, 75)
    return bytes((0, min(seconds // 60, 255), seconds % 60, frame))


def _limited(data: bytes, limit: int) -> Result:
    return Result(data=data[:limit])


def _inquiry(cdb: bytes) -> Result:
    (limit,) = struct.unpack_from(">H", cdb, 3)
    if cdb[1] & 1:
        if cdb[2]:
            return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.INVALID_FIELD)
        return _limited(b"\x05\x00\x00\x01\x00", limit)
    names = b"PYHYVE  " + b"CD-ROM".ljust(16) + b"1.0 "
    return _limited(bytes((0x05, 0x80, 0x05, 0x02, 31, 0, 0, 0)) + names, limit)


def _mode_sense(page: int, limit: int, *, header_bytes: int) -> Result:
    """The capabilities page (MMC-3, 5.5.10): reads discs, has a tray."""
    if page & 0x3F not in {_CAPABILITIES_PAGE, _ALL_PAGES}:
        return failure(SenseKey.ILLEGAL_REQUEST, SenseCode.INVALID_FIELD)
    body = bytes((_CAPABILITIES_PAGE, 0x12, 0x3B, 0, 0, 0, 0x20)).ljust(20, b"\0")
    length = header_bytes + len(body)
    header = bytes((length - 1, 0, 0, 0)) if header_bytes == 4 else struct.pack(">HBBxxH", length - 2, 0, 0, 0)
    return _limited(header + body, limit)
