"""Guests from an archive that the test serves itself."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from pyhyve.guest import repository
from pyhyve.guest.builder import INSTALLER_DIRECTORY, GuestSpec, build_guest, find_guest, list_guests
from pyhyve.guest.repository import FetchError
from pyhyve.support.errors import InputError, UserError

from .test_cpio import unpack
from .test_deb import ar, tar
from .test_modules import FILES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RELEASE = "6.1.0-9-cloud-amd64"
BUSYBOX = b"ELF\0[\0[[\0mount\0modprobe\0poweroff\0sh\0\0end"


def deb(files: dict[str, bytes]) -> bytes:
    return ar(debian__binary=b"2.0\n", data_tar_gz=tar("gz", files))


@dataclass
class Archive:
    """What the server answers; `requests` are the paths that were asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    stanzas: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, version: str, data: bytes, depends: str = "") -> None:
        path = f"pool/{name}_{version}.deb"
        self.files[f"/{path}"] = data
        digest = hashlib.sha256(data).hexdigest()
        self.stanzas[name] = (
            f"Package: {name}\nVersion: {version}\nDepends: {depends}\n"
            f"Filename: {path}\nSize: {len(data)}\nSHA256: {digest}\n"
        )
        self.publish()

    def publish(self) -> None:
        index = lzma.compress("\n".join(self.stanzas.values()).encode())
        digest = hashlib.sha256(index).hexdigest()
        self.files["/dists/bookworm/main/binary-amd64/Packages.xz"] = index
        release = f"Suite: bookworm\nSHA256:\n {digest} {len(index)} main/binary-amd64/Packages.xz\n"
        self.files["/dists/bookworm/InRelease"] = (
            f"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{release}-----BEGIN PGP SIGNATURE-----\n"
        ).encode()


@pytest.fixture
def archive(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    content = Archive()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content.requests.append(self.path)
            data = content.files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.end_headers()
            self.wfile.write(data or b"")

        def log_message(self, *arguments: object) -> None:
            pass

    modules = {f"./lib/modules/{RELEASE}/{path}": data for path, data in FILES.items()}
    kernel = {
        f"./boot/vmlinuz-{RELEASE}": b"the kernel",
        f"./lib/modules/{RELEASE}/modules.builtin": b"kernel/rng-core.ko\n",
    }
    content.add("linux-image-cloud-amd64", "6.1.9", deb({}), f"linux-image-{RELEASE} (= 6.1.9)")
    content.add(f"linux-image-{RELEASE}", "6.1.9", deb(kernel | modules), "kmod, linux-base")
    content.add("busybox-static", "1:1.35", deb({"./bin/busybox": BUSYBOX}))
    # The test's archive is not signed: what a host without gpgv does.
    monkeypatch.setattr(repository.shutil, "which", lambda _program: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        content.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield content
        server.shutdown()
        thread.join()


def build(archive: Archive, spec: GuestSpec | None = None, *, rebuild: bool = False) -> list[str]:
    """Builds; gives the warnings."""
    warnings: list[str] = []
    build_guest(spec or GuestSpec(), lambda *_: None, warnings.append, mirror=archive.url, rebuild=rebuild)
    return warnings


def test_build_follows_the_meta_package_and_makes_both_files(archive: Archive) -> None:
    build(archive)
    guest = find_guest("debian")
    assert guest.release == RELEASE
    assert guest.kernel.read_bytes() == b"the kernel"
    assert guest.packages == {f"linux-image-{RELEASE}": "6.1.9", "busybox-static": "1:1.35"}
    found = unpack(guest.initrd.read_bytes())
    assert found["bin/busybox"][1] == BUSYBOX
    assert found["bin/sh"][1] == b"busybox"
    assert found["init"][0] & 0o111
    assert f"lib/modules/{RELEASE}/kernel/drivers/virtio/virtio_pci.ko" in found
    assert found["etc/modules"][1] == b""


def test_build_warns_that_the_signature_was_not_checked(archive: Archive) -> None:
    assert any("signature not checked" in text for text in build(archive))


def test_build_again_asks_nobody(archive: Archive) -> None:
    build(archive)
    archive.requests.clear()
    build(archive)
    assert archive.requests == []


def test_rebuild_takes_the_newer_kernel_and_drops_the_old_guest(archive: Archive) -> None:
    build(archive)
    before = find_guest("debian").directory
    newer = "6.1.0-10-cloud-amd64"
    archive.add("linux-image-cloud-amd64", "6.1.10", deb({}), f"linux-image-{newer}")
    archive.add(f"linux-image-{newer}", "6.1.10", deb({f"./boot/vmlinuz-{newer}": b"newer"}))
    build(archive, rebuild=True)
    assert find_guest("debian").release == newer
    assert not before.exists()


def test_module_is_loaded_at_every_boot(archive: Archive) -> None:
    build(archive, GuestSpec(name="rng", modules=("virtio-rng",)))
    assert unpack(find_guest("rng").initrd.read_bytes())["etc/modules"][1] == b"virtio_rng\n"


def test_unknown_module_is_refused_and_leaves_nothing(archive: Archive, empty_cache: Path) -> None:
    with pytest.raises(InputError, match="module nonsense: this kernel has none"):
        build(archive, GuestSpec(modules=("nonsense",)))
    assert list((empty_cache / "guests").iterdir()) == []


def test_installer_is_taken_as_it_is(archive: Archive) -> None:
    content = {
        f".{INSTALLER_DIRECTORY}/linux": b"installer kernel",
        f".{INSTALLER_DIRECTORY}/initrd.gz": b"installer initrd",
    }
    archive.add("debian-installer-12-netboot-amd64", "20230607", deb(content))
    build(archive, GuestSpec(name="installer", installer=True))
    guest = find_guest("installer")
    assert (guest.kernel.read_bytes(), guest.initrd.read_bytes()) == (b"installer kernel", b"installer initrd")


def test_guests_are_listed_by_name(archive: Archive) -> None:
    build(archive, GuestSpec(name="b"))
    build(archive, GuestSpec(name="a"))
    assert [guest.name for guest in list_guests()] == ["a", "b"]


def test_what_killed_builds_left_goes_after_a_day(archive: Archive, empty_cache: Path) -> None:
    old, fresh = (empty_cache / "guests" / f".new-{name}" for name in ("old", "fresh"))
    for path in (old, fresh):
        (path / "part").mkdir(parents=True)
    os.utime(old, (0, 0))
    build(archive)
    assert (old.exists(), fresh.exists()) == (False, True)


def test_unknown_guest_says_how_to_build_it(empty_cache: Path) -> None:
    with pytest.raises(InputError, match="pyhyve guest build --name other"):
        find_guest("other")
    with pytest.raises(InputError, match="no guest named"):
        find_guest("../../etc")


@pytest.mark.parametrize("content", ["", "{", "[]", json.dumps({"release": "x"})])
def test_damaged_guest_is_built_anew(content: str, archive: Archive) -> None:
    build(archive)
    (find_guest("debian").directory / "guest.json").write_text(content)
    assert list_guests() == []
    build(archive)
    assert find_guest("debian").release == RELEASE


def test_wrong_checksum_is_refused(archive: Archive) -> None:
    archive.files["/pool/busybox-static_1:1.35.deb"] = deb({"./bin/busybox": BUSYBOX[::-1]})
    with pytest.raises(FetchError, match="wrong checksum"):
        build(archive)


def test_longer_than_announced_is_refused(archive: Archive) -> None:
    archive.files["/pool/busybox-static_1:1.35.deb"] += bytes(1 << 20)
    with pytest.raises(FetchError, match="larger than its index says"):
        build(archive)


def test_damaged_package_in_the_cache_is_fetched_again(archive: Archive, empty_cache: Path) -> None:
    build(archive)
    for path in (empty_cache / "packages").iterdir():
        path.write_bytes(b"damaged")
    build(archive, rebuild=True)
    assert find_guest("debian").kernel.read_bytes() == b"the kernel"


def test_missing_package_is_named(archive: Archive) -> None:
    with pytest.raises(FetchError, match="package linux-image-none: not found"):
        build(archive, GuestSpec(kernel_package="linux-image-none"))


def test_package_that_is_no_kernel_is_refused(archive: Archive) -> None:
    with pytest.raises(UserError, match="busybox-static: not a kernel package"):
        build(archive, GuestSpec(kernel_package="busybox-static"))


def test_archive_that_does_not_answer_is_named(empty_cache: Path) -> None:
    with pytest.raises(FetchError, match=r"cannot fetch http://127\.0\.0\.1:1/"):
        build_guest(GuestSpec(), lambda *_: None, print, mirror="http://127.0.0.1:1/")


@pytest.mark.parametrize(
    ("number", "way"),
    [
        (errno.ENOSPC, "No space left on device; make room there, or set XDG_CACHE_HOME"),
        (errno.EROFS, "Read-only file system; set XDG_CACHE_HOME to a writable place"),
    ],
)
def test_cache_without_room_is_named(
    number: int, way: str, archive: Archive, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_path: Path, _data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(repository, "write_atomically", write)
    with pytest.raises(UserError, match=re.escape(f"cannot write to the cache {empty_cache}: {way}")):
        build(archive)
    assert not list((empty_cache / "guests").iterdir())


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "x" * 65, "a b"])
def test_guest_name_must_be_a_plain_word(name: str) -> None:
    with pytest.raises(InputError, match="guest name"):
        GuestSpec(name=name)
