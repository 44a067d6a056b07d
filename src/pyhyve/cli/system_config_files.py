"""`-readconfig` and `-set`: options that come from a file, and changes to options that came before."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.support.errors import InputError
from pyhyve.support.option_lists import split_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    Found = tuple[str, str]

_OPTIONS = {
    "boot-opts": "boot", "chardev": "chardev", "device": "device", "drive": "drive", "global": "global",
    "machine": "machine", "memory": "m", "mon": "mon", "msg": "msg", "name": "name", "netdev": "netdev",
    "object": "object", "rtc": "rtc", "sandbox": "sandbox", "smbios": "smbios", "smp-opts": "smp",
}  # fmt: skip
"""Groups of a file, and the options that their members belong to."""
_HEADING = re.compile(r'\[\s*([\w-]+)\s*(?:"([^"]*)")?\s*\]')
_MEMBER = re.compile(r'([\w.-]+)\s*=\s*"([^"]*)"')
_MAX_BYTES = 1 << 20


def read_config(path: str) -> list[Found]:
    """The options that a file of QEMU's configuration format holds. Raises InputError."""
    try:
        with Path(path).open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        msg = f"-readconfig {path}: Could not open '{path}': {error.strerror}"
        raise InputError(msg) from error
    if len(text) > _MAX_BYTES:
        msg = f"-readconfig {path}: more than {_MAX_BYTES} bytes"
        raise InputError(msg)
    groups: list[tuple[str, list[str]]] = []
    for number, raw in enumerate(text.decode(errors="surrogateescape").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        heading = _HEADING.fullmatch(line)
        member = _MEMBER.fullmatch(line)
        if heading is not None:
            option = _OPTIONS.get(heading[1])
            if option is None:
                msg = f"{path}:{number}: there is no option group '{heading[1]}', or it is not supported"
                raise InputError(msg)
            groups.append((option, [f"id={_escaped(heading[2])}"] if heading[2] else []))
        elif member is None:
            msg = f"{path}:{number}: parse error"
            raise InputError(msg)
        elif not groups:
            msg = f"{path}:{number}: no group defined"
            raise InputError(msg)
        else:
            groups[-1][1].append(f"{member[1]}={_escaped(member[2])}")
    return [(option, ",".join(members)) for option, members in groups]


def change_option(found: Sequence[Found], text: str) -> list[Found]:
    """`found` with `GROUP.ID.MEMBER=VALUE` carried out. Raises InputError."""
    where, equals, value = text.partition("=")
    group, _, rest = where.partition(".")
    name, _, member = rest.partition(".")
    if not (equals and group and name and member):
        msg = f"-set {text}: write GROUP.ID.MEMBER=VALUE"
        raise InputError(msg)
    option = _OPTIONS.get(group)
    changed = list(found)
    for index, (candidate, words) in enumerate(found):
        if candidate == option and not words.startswith("{") and f"id={name}" in split_list(words):
            changed[index] = (candidate, f"{words},{member}={_escaped(value)}")
            return changed
    msg = f'-set {text}: there is no {group} "{name}" defined'
    raise InputError(msg)


def _escaped(text: str) -> str:
    return text.replace(",", ",,")
