"""The nested machine's kernel and RAM file system, made of Debian packages without root."""

from __future__ import annotations

import hashlib
import importlib.metadata
import stat
import sys
from pathlib import Path

from pyhyve.guest import builder, cpio, deb, initramfs, modules
from pyhyve.guest.repository import file_sha256
from pyhyve.support.cache import cache_directory, new_directory

KERNEL_PACKAGE = "linux-image-cloud-amd64"
PYTHON_PACKAGES = (
    "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libssl3", "zlib1g", "libexpat1",
    "libffi8", "liblzma5", "libbz2-1.0", "libgcc-s1", "libuuid1", "python3-lz4", "liblz4-1", "python3-zstandard",
    "libzstd1",
)  # fmt: skip
MODULES = ("kvm_amd", "virtio_pci", "virtio_blk", "virtio_net", "tun", "vhost_net", "af_packet")
SITE_PACKAGES = (
    "pytest", "pluggy", "iniconfig", "packaging", "pygments", "pytest-timeout",
)  # fmt: skip
"""Pure Python, taken from the environment that runs this; their own dependencies are in the list."""
_LIBRARIES = ("/lib/x86_64-linux-gnu/", "/usr/lib/x86_64-linux-gnu/", "/lib64/")
_LEFT_OUT = ("/usr/share/", "/usr/lib/x86_64-linux-gnu/gconv/", "/test/", "/idlelib/", "/lib2to3/", "/ensurepip/")


def fetch(name: str, *, follow: str | None = None) -> bytes:
    """The newest Debian package `name`, or the one that a meta-package leads to. Raises UserError."""
    places = builder.repositories(None, lambda _text: None)
    failure: Exception | None = None
    for place in places:
        try:
            record = place.find(name)
            while record is not None and follow is not None:
                leads_to = [other for other in record.depends if other.startswith(follow)]
                if not leads_to:
                    break
                record = place.find(leads_to[0])
            if record is None:
                continue
            path = cache_directory("packages") / f"{record.name}_{record.version.replace(':', '%3a')}.deb"
            if not (path.is_file() and file_sha256(path) == record.sha256):
                place.fetch(record, path, lambda *_: None)
            return path.read_bytes()
        except builder.FetchError as error:
            failure = error
    raise failure or builder.UserError(f"package {name}: not found")


def fingerprint() -> str:
    """Changes when the image has to be built again."""
    recipe = "".join(path.read_text() for path in (Path(__file__), Path(__file__).with_name("init.sh")))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in SITE_PACKAGES]
    return hashlib.sha256(repr((recipe, versions, sys.version_info[:2])).encode()).hexdigest()[:16]


def build_image(directory: Path) -> None:
    """Write `kernel` and `initrd` into `directory`. Raises UserError when a package cannot be had."""
    kernel_files = deb.read_files(
        fetch(KERNEL_PACKAGE, follow="linux-image-"),
        lambda path: path.startswith(("/boot/", "/lib/", "/usr/lib/modules/")),
    )
    kernel = next(file for path, file in kernel_files.items() if path.startswith("/boot/vmlinuz-"))
    release = kernel.path.removeprefix("/boot/vmlinuz-")
    (directory / "kernel").write_bytes(kernel.data)
    entries = [*_skeleton(), *_modules(kernel_files, release), *_python(), *_site_packages()]
    (directory / "initrd").write_bytes(cpio.pack(entries))


def _skeleton() -> list[cpio.Entry]:
    busybox = deb.read_files(fetch("busybox-static"), lambda path: path.endswith("/bin/busybox"))
    program = next(file.data for file in busybox.values() if not file.target)
    return [
        *(cpio.directory(path) for path in ("dev", "proc", "sys", "run", "tmp", "root", "work", "etc")),
        cpio.character_device("dev/console", 5, 1),
        cpio.file("init", Path(__file__).with_name("init.sh").read_bytes(), 0o755),
        cpio.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        cpio.file("etc/group", b"root:x:0:\nkvm:x:109:\n"),
        cpio.file("etc/hosts", b"127.0.0.1 localhost\n"),
        cpio.symlink("lib", "usr/lib"),
        cpio.symlink("lib64", "usr/lib64"),
        cpio.symlink("bin", "usr/bin"),
        cpio.symlink("sbin", "usr/bin"),
        cpio.symlink("usr/sbin", "bin"),
        cpio.file("usr/bin/busybox", program, 0o755),
        *(cpio.symlink(f"usr/bin/{name}", "busybox") for name in initramfs.applets(program) if name != "busybox"),
    ]


def _modules(files: dict[str, deb.PackageFile], release: str) -> list[cpio.Entry]:
    prefix = next(
        path
        for path in (f"/lib/modules/{release}/", f"/usr/lib/modules/{release}/")
        if any(p.startswith(path) for p in files)
    )
    under = {path.removeprefix(prefix): file.data for path, file in files.items() if path.startswith(prefix)}
    tree = modules.ModuleTree(
        {path: data for path, data in under.items() if ".ko" in path.rpartition("/")[2]},
        under["modules.builtin"].decode().split(),
    )
    wanted = tree.closure(MODULES, required=True)
    base = f"usr/lib/modules/{release}"
    return [
        cpio.file(f"{base}/modules.dep", modules.dependency_index(wanted).encode()),
        cpio.file(f"{base}/modules.alias", modules.alias_index(wanted).encode()),
        *(cpio.file(f"{base}/{module.path}", module.data) for module in wanted),
    ]


def _python() -> list[cpio.Entry]:
    entries: dict[str, cpio.Entry] = {}
    for name in PYTHON_PACKAGES:
        for path, file in deb.read_files(fetch(name), lambda _path: True).items():
            if stat.S_ISDIR(file.mode) or any(part in path for part in _LEFT_OUT):
                continue
            if not path.startswith(("/usr/bin/", "/usr/lib/python3", *_LIBRARIES, "/usr/lib/")):
                continue
            place = path.removeprefix("/")
            if not place.startswith("usr/"):
                place = f"usr/{place}"
            entries[place] = (
                cpio.symlink(place, file.target) if file.target else cpio.file(place, file.data, file.mode & 0o777)
            )
    entries["usr/bin/python3"] = cpio.symlink("usr/bin/python3", "python3.11")
    return list(entries.values())


def _site_packages() -> list[cpio.Entry]:
    entries = []
    for name in SITE_PACKAGES:
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            if file.parts[0] == ".." or path.suffix in {".pyc", ".so"} or not path.is_file():
                continue
            entries.append(cpio.file(f"opt/site/{file}", path.read_bytes()))
    return entries


def cached_image() -> Path:
    """The directory with `kernel` and `initrd`, built when missing."""
    root = cache_directory("nested")
    final = root / fingerprint()
    if not (final / "initrd").is_file():
        with new_directory(root) as directory:
            build_image(directory)
            directory.rename(final)
    return final
