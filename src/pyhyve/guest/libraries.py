"""Which shared libraries an ELF-64 program needs, and collecting them from packages.

Source: System V Application Binary Interface (gABI), chapters 4 and 5: program header, dynamic section.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyhyve.guest.deb import PackageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pyhyve.guest.deb import PackageFile

ELF_MAGIC = b"\x7fELF\x02\x01"
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
DYNAMIC_ENTRY = struct.Struct("<qQ")
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5
LIBRARY_DIRECTORY = "lib/x86_64-linux-gnu"
"""Where Debian's dynamic loader looks first (without a leading slash)."""
MAX_LINKS = 8


@dataclass(frozen=True, slots=True)
class DynamicNeeds:
    """`interpreter` is the path of the dynamic loader, or empty; `libraries` are sonames."""

    interpreter: str
    libraries: tuple[str, ...]


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode("utf-8", "replace")


def dynamic_needs(data: bytes) -> DynamicNeeds:
    """What the program or library `data` asks the dynamic loader for.

    Raises PackageError when it is not an ELF-64 file, or damaged.
    """
    try:
        if not data.startswith(ELF_MAGIC):
            raise ValueError
        (table,) = struct.unpack_from("<Q", data, 32)
        entry_bytes, count = struct.unpack_from("<HH", data, 54)
        headers = [PROGRAM_HEADER.unpack_from(data, table + index * entry_bytes) for index in range(count)]
        loads = [(virtual, offset, size) for kind, _, offset, virtual, _, size, *_ in headers if kind == PT_LOAD]
        interpreter = ""
        entries: list[tuple[int, int]] = []
        for kind, _, offset, _, _, size, *_ in headers:
            if kind == PT_INTERP:
                interpreter = _text(data, offset)
            elif kind == PT_DYNAMIC:
                section = data[offset : offset + size - size % DYNAMIC_ENTRY.size]
                entries = list(DYNAMIC_ENTRY.iter_unpack(section))
        strings = next((value for tag, value in entries if tag == DT_STRTAB), 0)
        base = next((offset + strings - first for first, offset, size in loads if first <= strings < first + size), 0)
        libraries = tuple(_text(data, base + value) for tag, value in entries if tag == DT_NEEDED)
    except (ValueError, struct.error) as error:
        msg = "damaged package: a program or library is not an ELF-64 file"
        raise PackageError(msg) from error
    return DynamicNeeds(interpreter, libraries)


def _resolve(path: str, files: Mapping[str, PackageFile]) -> PackageFile | None:
    """The file at `path` after symbolic links within `files`."""
    for _ in range(MAX_LINKS):
        file = files.get(path)
        if file is None or not file.target:
            return file
        path = file.target if file.target.startswith("/") else f"{path.rpartition('/')[0]}/{file.target}"
    return None


def collect(program: bytes, files: Mapping[str, PackageFile]) -> dict[str, bytes]:
    """The loader and all libraries that `program` needs, by their paths in a guest (without a leading slash).

    `files` are the files of the packages it depends on, by absolute path. Raises PackageError for one that is missing.
    """
    by_name = {path.rpartition("/")[2]: path for path in sorted(files) if ".so" in path}
    found: dict[str, bytes] = {}

    def take(path: str, names: Iterable[str]) -> None:
        for name in names:
            destination = path or f"{LIBRARY_DIRECTORY}/{name}"
            if destination in found:
                continue
            file = _resolve(by_name.get(name, ""), files)
            if file is None:
                msg = f"packages lack the shared library {name}"
                raise PackageError(msg)
            found[destination] = file.data
            take("", dynamic_needs(file.data).libraries)

    needs = dynamic_needs(program)
    if needs.interpreter:
        take(needs.interpreter.lstrip("/"), [needs.interpreter.rpartition("/")[2]])
    loader = needs.interpreter.rpartition("/")[2]
    take("", [name for name in needs.libraries if name != loader])
    return found
