"""The formats by name. Modules are imported only when a signature or a name asks for them: start-up stays short."""

from __future__ import annotations

from pyhyve.image.contract import ImageFormat, ImageUnsupportedError
from pyhyve.support.loading import load_module

PROBE_SIZE_BYTES = 2048
_PACKAGE = __package__
_SIGNATURES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "raw": (),
    "qcow2": ((0, b"QFI\xfb"),),
    "qcow": ((0, b"QFI\xfb\0\0\0\1"),),
    "vmdk": ((0, b"KDMV"), (0, b"COWD"), (0, b"#"), (0, b"\n"), (0, b" "), (0, b"\r"), (0, b"version=")),
    "vdi": ((64, b"\x7f\x10\xda\xbe"),),
    "vpc": ((0, b"conectix"),),
    "vhdx": ((0, b"vhdxfile"),),
    "parallels": ((0, b"WithoutFreeSpace"), (0, b"WithouFreSpacExt")),
    "cloop": ((0, b"#!/bin/sh\n#V2.0 Format\n"),),
    "dmg": (),
    "ova": ((257, b"ustar"),),
    "luks": ((0, b"LUKS\xba\xbe"),),
}
"""The formats, each in `pyhyve.image.NAME`, with the bytes (and where) that make asking its `probe` worthwhile."""
_SUFFIXES = {"dmg": ".dmg", "ova": ".ova"}
FORMAT_NAMES = tuple(_SIGNATURES)


def find_format(name: str) -> ImageFormat:
    """The format called `name`; ImageUnsupportedError when there is none."""
    if name not in _SIGNATURES:
        msg = f"Unknown driver '{name}'"
        raise ImageUnsupportedError(msg)
    try:
        module = load_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{_PACKAGE}.{name}":
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
    for name, signatures in _SIGNATURES.items():
        if not any(head.startswith(magic, at) for at, magic in signatures) and not (
            name in _SUFFIXES and lowered.endswith(_SUFFIXES[name])
        ):
            continue
        try:
            score = find_format(name).probe(head, filename)
        except ImageUnsupportedError:
            continue  # a format this installation lacks claims nothing
        if score > best_score:
            best_name, best_score = name, score
    return best_name
