"""Names of keys for send-key.

Source: Linux, ``include/uapi/linux/input-event-codes.h`` (the numbers of the "linux" codeset).
"""

from __future__ import annotations

from typing import Final

__all__ = ["CODESETS", "LINUX_KEYS", "key_code"]

CODESETS: Final = (
    "linux",
    "xt",
    "atset1",
    "atset2",
    "atset3",
    "os_x",
    "xt_kbd",
    "usb",
    "win32",
    "qnum",
)
"""By virKeycodeSet."""

_ROWS: Final = (
    (1, "ESC 1 2 3 4 5 6 7 8 9 0 MINUS EQUAL BACKSPACE TAB Q W E R T Y U I O P LEFTBRACE RIGHTBRACE ENTER LEFTCTRL"),
    (30, "A S D F G H J K L SEMICOLON APOSTROPHE GRAVE LEFTSHIFT BACKSLASH Z X C V B N M COMMA DOT SLASH RIGHTSHIFT"),
    (55, "KPASTERISK LEFTALT SPACE CAPSLOCK F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 NUMLOCK SCROLLLOCK KP7 KP8 KP9 KPMINUS"),
    (75, "KP4 KP5 KP6 KPPLUS KP1 KP2 KP3 KP0 KPDOT"),
    (87, "F11 F12"),
    (96, "KPENTER RIGHTCTRL KPSLASH SYSRQ RIGHTALT LINEFEED HOME UP PAGEUP LEFT RIGHT END DOWN PAGEDOWN INSERT DELETE"),
    (113, "MUTE VOLUMEDOWN VOLUMEUP POWER KPEQUAL KPPLUSMINUS PAUSE"),
    (125, "LEFTMETA RIGHTMETA COMPOSE STOP"),
    (142, "SLEEP WAKEUP"),
)

LINUX_KEYS: Final = {f"KEY_{name}": first + i for first, names in _ROWS for i, name in enumerate(names.split())}
"""Each key's name with its number."""


def key_code(word: str, codeset: str) -> int | None:
    """Return the number of a key given as a number or, in the linux codeset, by name; None where it is none."""
    try:
        number = int(word, 0)
    except ValueError:
        return LINUX_KEYS.get(word.upper()) if codeset == "linux" else None
    return number if 0 <= number < 1 << 32 else None
