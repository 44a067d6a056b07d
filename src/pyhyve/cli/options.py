"""How option values are written: sizes, `name,key=value` lists, machine parts."""

from __future__ import annotations

import os

from pyhyve.support.errors import InputError
from pyhyve.support.paths import FileName

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

_UNITS = {"": 1 << 20, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
MAX_DIGITS = 18


def parse_size(option: str, text: str) -> int:
    """Bytes in a size such as `512M`, `2G` or `1.5G`; a bare number counts MiB.

    Raises InputError for anything else.
    """
    number = text.strip().upper().removesuffix("IB").rstrip("KMGTB")
    unit = text.strip().upper().removesuffix("IB")[len(number) :]
    whole, _, fraction = number.partition(".")
    is_number = (whole + fraction).isascii() and (whole + fraction).isdigit() and len(whole + fraction) <= MAX_DIGITS
    if unit not in _UNITS or not is_number or number.endswith("."):
        msg = f"{option} {text}: not a size (write 512M or 2G)"
        raise InputError(msg)
    # Integer arithmetic: 0.1G is exact to the byte.
    scaled = int(whole + fraction or "0") * _UNITS[unit]
    return scaled // int("1" + "0" * len(fraction))


def parse_switch(option: str, key: str, value: str) -> bool:
    """A value of `on` or `off`. Raises InputError for anything else."""
    if value not in {"on", "off"}:
        msg = f"{option}: {key}={value}: use on or off"
        raise InputError(msg)
    return value == "on"


def parse_pairs(option: str, words: list[str], known: set[str]) -> list[tuple[str, str]]:
    """`key=value` words. Raises InputError on a key that is not `known` or a word without '='."""
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in known:
            msg = f"{option}: {word!r} is not one of {', '.join(f'{name}=…' for name in sorted(known))}"
            raise InputError(msg)
        pairs.append((key, value))
    return pairs


def existing_file(option: str, text: str) -> Path:
    """A path to something that can be read. Raises InputError otherwise."""
    readable_file(option, text)
    from pathlib import Path

    return Path(text)


def readable_file(option: str, text: str) -> FileName:
    """`existing_file` for what is only opened."""
    try:
        if os.path.isdir(text):  # noqa: PTH112 - without pathlib, as above
            msg = f"{option} {text}: is a directory"
            raise InputError(msg)
        with open(text, "rb"):  # noqa: PTH123 - ditto
            pass
    except OSError as error:
        msg = f"{option} {text}: {error.strerror}"
        raise InputError(msg) from error
    except ValueError as error:
        msg = f"{option}: not a file name"
        raise InputError(msg) from error
    return FileName(text)
