"""Key codes: from the sets a call may use to QEMU's numbers ("qnum": XT scan codes, an extended one with bit 7 set).

Source: the Linux kernel's input-event-codes.h, the USB HID usage tables (page 7), the AT set 1 scan codes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["to_qnum"]

_LINUX, _XT, _USB, _QNUM = 0, 1, 7, 9
_PLAIN_MAX: Final = 88
_EXTENDED: Final = {
    96: 0x9C,
    97: 0x9D,
    98: 0xB5,
    99: 0x54,
    100: 0xB8,
    101: 0x5B,
    102: 0xC7,
    103: 0xC8,
    104: 0xC9,
    105: 0xCB,
    106: 0xCD,
    107: 0xCF,
    108: 0xD0,
    109: 0xD1,
    110: 0xD2,
    111: 0xD3,
    112: 0xEF,
    113: 0xA0,
    114: 0xAE,
    115: 0xB0,
    116: 0xDE,
    117: 0x59,
    119: 0xC6,
    121: 0x7E,
    125: 0xDB,
    126: 0xDC,
    127: 0xDD,
    128: 0xE8,
    140: 0xA1,
    142: 0xDF,
    143: 0xE3,
    155: 0xEC,
    158: 0xEA,
    159: 0xE9,
    163: 0x99,
    164: 0xA2,
    165: 0x90,
    166: 0xA4,
    172: 0xB2,
    173: 0xE7,
    183: 0x5D,
    184: 0x5E,
    185: 0x5F,
}
"""Linux key codes beyond those that are XT scan codes."""
_USB_TO_LINUX: Final = {
    **dict(
        zip(
            range(4, 30),
            (30, 48, 46, 32, 18, 33, 34, 35, 23, 36, 37, 38, 50, 49, 24, 25, 16, 19, 31, 20, 22, 47, 17, 45, 21, 44),
            strict=True,
        )
    ),
    **dict(zip(range(30, 40), range(2, 12), strict=True)),
    **dict(zip(range(40, 58), (28, 1, 14, 15, 57, 12, 13, 26, 27, 43, 43, 39, 40, 41, 51, 52, 53, 58), strict=True)),
    **dict(zip(range(58, 68), range(59, 69), strict=True)),
    **dict(
        zip(range(68, 84), (87, 88, 99, 70, 119, 110, 102, 104, 111, 107, 109, 106, 105, 108, 103, 69), strict=True)
    ),
    **dict(zip(range(84, 89), (98, 55, 74, 78, 96), strict=True)),
    **dict(zip(range(89, 100), (79, 80, 81, 75, 76, 77, 71, 72, 73, 82, 83), strict=True)),
    100: 86,
    101: 127,
    102: 116,
    **dict(zip(range(224, 232), (29, 42, 56, 125, 97, 54, 100, 126), strict=True)),
}


def to_qnum(codeset: int, code: int) -> int | None:
    """Return QEMU's number of a key (codeset as in virKeycodeSet: Linux, XT, …), or None where it has none."""
    if codeset in {_XT, _QNUM}:
        return code if 0 < code <= 0xFF else None
    if codeset == _USB:
        found = _USB_TO_LINUX.get(code)
        if found is None:
            return None
        code = found
    elif codeset != _LINUX:
        return None
    return code if 0 < code <= _PLAIN_MAX else _EXTENDED.get(code)
