"""The formats by name. Modules are imported only when a signature or a name asks for them: start-up stays short."""

from __future__ import annotations

from pyhyve.image.contract import ImageFormat, ImageUnsupportedError
from pyhyve.support.loading import load_module
from pyhyve.support.records import dataclass

PROBE_SIZE_BYTES = 2048


@dataclass(frozen=True, slots=True)
class FormatEntry:
    """Where a format lives and the signatures (offset, bytes) that make asking its `probe` worthwhile."""

    name: str
    module: str
    signatures: tuple[tuple[int, bytes], ...] = ()
    suffixes: tuple[str, ...] = ()


ENTRIES: tuple[FormatEntry, ...] = (
    FormatEntry("raw", "pyhyve.image.raw"),
    FormatEntry("qcow2", "pyhyve.image.qcow2", ((0, b"QFI\xfb"),)),
    FormatEntry("qcow", "pyhyve.image.qcow", ((0, b"QFI\xfb\0\0\0\1"),)),
    FormatEntry(
        "vmdk",
        "pyhyve.image.vmdk",
        ((0, b"KDMV"), (0, b"COWD"), (0, b"#"), (0, b"\n"), (0, b" "), (0, b"\r"), (0, b"version=")),
    ),
    FormatEntry("vdi", "pyhyve.image.vdi", ((64, b"\x7f\x10\xda\xbe"),)),
    FormatEntry("vpc", "pyhyve.image.vpc", ((0, b"conectix"),)),
    FormatEntry("vhdx", "pyhyve.image.vhdx", ((0, b"vhdxfile"),)),
    FormatEntry("parallels", "pyhyve.image.parallels", ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt"))),
    FormatEntry("cloop", "pyhyve.image.cloop", ((0, b"#!/bin/sh\n#V2.0 Format\n"),)),
    FormatEntry("dmg", "pyhyve.image.dmg", (), (".dmg",)),
    FormatEntry("ova", "pyhyve.image.ova", ((257, b"ustar"),), (".ova",)),
    FormatEntry("luks", "pyhyve.image.luks", ((0, b"LUKS\xba\xbe"),)),
)
_BY_NAME = {entry.name: entry for entry in ENTRIES}
FORMAT_NAMES = tuple(entry.name for entry in ENTRIES)


def find_format(name: str) -> ImageFormat:
    """The format called `name`; ImageUnsupportedError when there is none."""
    entry = _BY_NAME.get(name)
    if entry is None:
        msg = f"Unknown driver '{name}'"
        raise ImageUnsupportedError(msg)
    try:
        module = load_module(entry.module)
    except ModuleNotFoundError as error:
        if error.name != entry.module:
            raise
        msg = f"Format '{name}' is not part of this installation"
        raise ImageUnsupportedError(msg) from error
    if not isinstance(getattr(module, "FORMAT", None), ImageFormat):
        msg = f"Format '{name}' is not part of this installation"
        raise ImageUnsupportedError(msg)
    found: ImageFormat = module.FORMAT
    return found


def probe_format(head: bytes, filename: str) -> str:
    """Name of the format the first bytes look like; `raw` when nothing claims them."""
    best_name, best_score = "raw", 1
    lowered = filename.lower()
    for entry in ENTRIES:
        if not any(head.startswith(magic, at) for at, magic in entry.signatures) and not (
            entry.suffixes and lowered.endswith(entry.suffixes)
        ):
            continue
        try:
            score = find_format(entry.name).probe(head, filename)
        except ImageUnsupportedError:
            continue  # a format this installation lacks claims nothing
        if score > best_score:
            best_name, best_score = entry.name, score
    return best_name
