"""Keys by QEMU's names (`QKeyCode`), and the codes that a PC keyboard sends for them.

A number is the code of scan code set 1, with bit 7 set for a key whose code follows 0xE0.
"""

from __future__ import annotations

EXTENDED = 0x80
_ROWS = {
    0x01: "esc 1 2 3 4 5 6 7 8 9 0 minus equal backspace tab",
    0x10: "q w e r t y u i o p bracket_left bracket_right ret ctrl",
    0x1E: "a s d f g h j k l semicolon apostrophe grave_accent shift backslash",
    0x2C: "z x c v b n m comma dot slash shift_r kp_multiply alt spc caps_lock",
    0x3B: "f1 f2 f3 f4 f5 f6 f7 f8 f9 f10 num_lock scroll_lock",
    0x47: "kp_7 kp_8 kp_9 kp_subtract kp_4 kp_5 kp_6 kp_add kp_1 kp_2 kp_3 kp_0 kp_decimal sysrq",
    0x56: "less f11 f12",
}
_EXTENDED = {
    "kp_enter": 0x1C, "ctrl_r": 0x1D, "kp_divide": 0x35, "print": 0x37, "alt_r": 0x38, "home": 0x47, "up": 0x48,
    "pgup": 0x49, "left": 0x4B, "right": 0x4D, "end": 0x4F, "down": 0x50, "pgdn": 0x51, "insert": 0x52,
    "delete": 0x53, "meta_l": 0x5B, "meta_r": 0x5C, "compose": 0x5D, "menu": 0x5D, "power": 0x5E, "sleep": 0x5F,
    "wake": 0x63, "audionext": 0x19, "audioprev": 0x10, "audiostop": 0x24, "audioplay": 0x22, "audiomute": 0x20,
    "volumeup": 0x30, "volumedown": 0x2E, "mail": 0x6C, "calculator": 0x21, "computer": 0x6B, "pause": 0x46,
}  # fmt: skip
NUMBERS: dict[str, int] = {
    name: first + offset for first, names in _ROWS.items() for offset, name in enumerate(names.split())
} | {name: EXTENDED | code for name, code in _EXTENDED.items()}
NUMBERS |= {"asterisk": NUMBERS["kp_multiply"], "kp_equals": 0x59, "ro": 0x73, "henkan": 0x79, "muhenkan": 0x7B,
            "yen": 0x7D, "kp_comma": 0x7E}  # fmt: skip

_TO_SET_2 = bytes((
    0, 118, 22, 30, 38, 37, 46, 54, 61, 62, 70, 69, 78, 85, 102, 13,
    21, 29, 36, 45, 44, 53, 60, 67, 68, 77, 84, 91, 90, 20, 28, 27,
    35, 43, 52, 51, 59, 66, 75, 76, 82, 14, 18, 93, 26, 34, 33, 42,
    50, 49, 58, 65, 73, 74, 89, 124, 17, 41, 88, 5, 6, 4, 12, 3,
    11, 131, 10, 1, 9, 119, 126, 108, 117, 125, 123, 107, 115, 116, 121, 105,
    114, 122, 112, 113, 132, 96, 97, 120, 7, 15, 23, 31, 39, 47, 55, 63,
    71, 79, 86, 94, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 87, 111,
    19, 25, 57, 81, 83, 92, 95, 98, 99, 100, 101, 103, 104, 106, 109, 110,
))  # fmt: skip
"""Code of set 2 for each of set 1 (8042 translation, backwards)."""
TO_SET_1 = {code: index for index, code in enumerate(_TO_SET_2) if code}
"""What the 8042 makes of codes of set 2."""


def scan_codes(number: int, *, is_pressed: bool) -> bytes:
    """What the keyboard sends, in set 2 (IBM PS/2 Hardware Interface, Keyboard, section 4)."""
    prefix = b"\xe0" if number & EXTENDED else b""
    return prefix + (b"" if is_pressed else b"\xf0") + _TO_SET_2[number & 0x7F : (number & 0x7F) + 1]
