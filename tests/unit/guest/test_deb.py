from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.guest.deb import PackageError, archive_members, read_files


def ar(**members: bytes) -> bytes:
    """An ar archive, as dpkg-deb writes it; '__' stands for '-' and '_' for '.'."""
    parts = [b"!<arch>\n"]
    for key, data in members.items():
        name = key.replace("__", "-").replace("_", ".")
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) & 1))
    return b"".join(parts)


def tar(compression: str, files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(data), 0o755
            archive.addfile(info, io.BytesIO(data))
        for path, target in (links or {}).items():
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return stream.getvalue()


def package(compression: str = "xz", **kwargs: bytes) -> bytes:
    content = tar(compression, {"./boot/vmlinuz-6": b"kernel", "./usr/share/doc/x": b"text"}, {"./bin/sh": "busybox"})
    return ar(debian__binary=b"2.0\n", **{f"data_tar_{compression}": content}, **kwargs)


@pytest.mark.parametrize("compression", ["xz", "gz", "bz2"])
def test_read_files_gives_what_is_wanted(compression: str) -> None:
    files = read_files(package(compression), lambda path: not path.startswith("/usr"))
    assert {path: (file.data, file.target) for path, file in files.items()} == {
        "/boot/vmlinuz-6": (b"kernel", ""),
        "/bin/sh": (b"", "busybox"),
    }
    assert files["/boot/vmlinuz-6"].mode == 0o755


def test_archive_members_of_odd_length_are_padded() -> None:
    assert archive_members(ar(one=b"123", two=b"4567")) == {"one": b"123", "two": b"4567"}


def test_package_without_data_is_refused() -> None:
    with pytest.raises(PackageError, match="its members are debian-binary"):
        read_files(ar(debian__binary=b"2.0\n"), lambda _path: True)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"!<arch>"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(PackageError, match="not a Debian package"):
        read_files(data, lambda _path: True)


@given(cut=st.integers(min_value=8, max_value=10_000))
def test_truncated_package_is_refused(cut: int) -> None:
    whole = package()
    if cut >= len(whole) - 2:  # the padding, and what the decompressor does not need, may go
        return
    with pytest.raises(PackageError):
        read_files(whole[:cut], lambda _path: True)


@given(data=st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(PackageError):
        read_files(ar(debian__binary=b"2.0\n", data_tar_xz=data), lambda _path: True)
