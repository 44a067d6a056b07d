from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.guest.deb import PackageError, PackageFile
from pyhyve.guest.libraries import collect, dynamic_needs

BASE = 0x400000


def elf(*needed: str, interpreter: str = "") -> bytes:
    """A file with the headers that a loader reads: one segment that holds all of it, mapped at BASE."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in needed)
    interpreter_at = 64 + 3 * 56
    strings_at = interpreter_at + len(interpreter) + 1
    dynamic_at = strings_at + len(names)
    entries, offset = b"", 1
    for name in needed:
        entries += struct.pack("<qQ", 1, offset)
        offset += len(name) + 1
    entries += struct.pack("<qQ", 5, BASE + strings_at) + struct.pack("<qQ", 0, 0)
    total = dynamic_at + len(entries)

    def segment(kind: int, at: int, size: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 4, at, BASE + at, BASE + at, size, size, 1)

    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3 if interpreter else 2, 0, 0, 0)
    last = segment(3, interpreter_at, len(interpreter) + 1) if interpreter else bytes(56)
    programs = segment(1, 0, total) + segment(2, dynamic_at, len(entries)) + last
    return header + programs + interpreter.encode() + b"\0" + names + entries


def library(path: str, *needed: str) -> dict[str, PackageFile]:
    return {path: PackageFile(path, 0o644, elf(*needed))}


def test_needs_are_read_through_the_segment_that_holds_the_strings() -> None:
    needs = dynamic_needs(elf("libc.so.6", "libz.so.1", interpreter="/lib64/ld.so.2"))
    assert needs.interpreter == "/lib64/ld.so.2"
    assert needs.libraries == ("libc.so.6", "libz.so.1")


def test_collect_follows_libraries_of_libraries_and_links() -> None:
    files = library("/lib/x86_64-linux-gnu/libc.so.6", "ld.so.2") | library("/lib/x86_64-linux-gnu/ld.so.2")
    files |= library("/usr/lib/x86_64-linux-gnu/liba.so.1.2", "libb.so.3", "libc.so.6")
    files |= library("/usr/lib/x86_64-linux-gnu/libb.so.3", "liba.so.1")
    link = "/usr/lib/x86_64-linux-gnu/liba.so.1"
    files[link] = PackageFile(link, 0o777, b"", "liba.so.1.2")
    found = collect(elf("liba.so.1", "libc.so.6", interpreter="/lib64/ld.so.2"), files)
    base = "lib/x86_64-linux-gnu"
    assert set(found) == {"lib64/ld.so.2", *(f"{base}/{n}" for n in ("liba.so.1", "libb.so.3", "libc.so.6", "ld.so.2"))}
    assert found[f"{base}/liba.so.1"] == files["/usr/lib/x86_64-linux-gnu/liba.so.1.2"].data


def test_collect_names_the_library_that_no_package_has() -> None:
    with pytest.raises(PackageError, match=r"lack the shared library libx\.so\.1"):
        collect(elf("libx.so.1"), {})


def test_links_in_a_circle_are_a_missing_library() -> None:
    path = "/lib/liba.so.1"
    with pytest.raises(PackageError, match="lack the shared library"):
        collect(elf("liba.so.1"), {path: PackageFile(path, 0o777, b"", "liba.so.1")})


@given(st.binary(max_size=300), st.integers(0, 400))
def test_damaged_files_are_one_kind_of_error(junk: bytes, cut: int) -> None:
    whole = elf("libc.so.6", interpreter="/lib64/ld.so.2")
    for data in (junk, whole[:cut], whole[:cut] + junk, b"\x7fELF\x02\x01" + junk):
        try:
            dynamic_needs(data)
        except PackageError:
            continue
