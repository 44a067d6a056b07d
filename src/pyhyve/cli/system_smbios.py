"""The option `-smbios`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyhyve.cli.run import parse_number
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pyhyve.machine.monitor.properties import Properties

_OEM_STRINGS = 11
_FIELDS = {
    0: ("vendor", "version", "date", "release", "uefi"),
    1: ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    2: ("manufacturer", "product", "version", "serial", "asset", "location"),
    3: ("manufacturer", "version", "serial", "asset", "sku"),
}
_RELEASE = re.compile(r"\d{1,3}\.\d{1,3}")
_MAX_BYTES = 1024


def parse_smbios(given: Properties) -> list[dict[str, Any]]:
    """Fields of structures, each with its `type`. Raises InputError."""
    kind = parse_number("-smbios: type", given.need("type"), int)
    if kind == _OEM_STRINGS:
        values = given.take_all("value")
        values += [_contents(path) for path in given.take_all("path")]
        given.finish()
        return [{"type": kind, "value": _checked("value", value)} for value in values]
    if kind not in _FIELDS:
        msg = f"-smbios type={kind}: not supported (use 0, 1, 2, 3 or 11)"
        raise InputError(msg)
    entry: dict[str, Any] = {"type": kind}
    for name in _FIELDS[kind]:
        if name == "uefi":
            if given.switch("uefi", default=False):
                entry["uefi"] = True
            continue
        text = given.take(name)
        if text is not None:
            entry[name] = _checked(name, text)
    given.finish()
    release = entry.get("release")
    if release is not None and (not _RELEASE.fullmatch(release) or any(int(n) > 0xFF for n in release.split("."))):
        msg = f"-smbios: release={release}: write two numbers, as in 1.0"
        raise InputError(msg)
    return [entry]


def _checked(name: str, text: str) -> str:
    if "\0" in text or len(text.encode(errors="replace")) > _MAX_BYTES:
        msg = f"-smbios: {name}: at most {_MAX_BYTES} bytes, none of them NUL"
        raise InputError(msg)
    return text


def _contents(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MAX_BYTES + 1).decode(errors="replace").rstrip("\n")
    except OSError as error:
        msg = f"-smbios: path={path}: {error.strerror}"
        raise InputError(msg) from error
