"""Building guests into the cache, and finding them there.

Layout under the cache directory: `guests/NAME` is a symbolic link to `guests/.NAME-FINGERPRINT`, which holds `kernel`,
`initrd` and `guest.json`; the link is replaced in one step. `packages/` holds downloaded packages.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import shutil
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pyhyve.guest import cpio, deb, initramfs, libraries, modules
from pyhyve.guest.repository import (
    AptRepository,
    ArchiveRepository,
    FetchError,
    Report,
    Repository,
    file_sha256,
    host_sources,
)
from pyhyve.guest.sources import Source
from pyhyve.guest.ssh import SshKeys, ensure_keys
from pyhyve.support.cache import cache_directory, cache_root, new_directory
from pyhyve.support.errors import InputError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyhyve.guest.sources import PackageRecord

DEFAULT_NAME = "debian"
DEFAULT_KERNEL_PACKAGE = "linux-image-cloud-amd64"
BUSYBOX_PACKAGE = "busybox-static"
DROPBEAR_PACKAGE = "dropbear-bin"
DROPBEAR_LIBRARIES = ("libc6", "libcrypt1", "libgmp10", "libtomcrypt1", "libtommath1", "zlib1g")
INSTALLER_NAME = "installer"
INSTALLER_PACKAGE = "debian-installer-12-netboot-amd64"
INSTALLER_DIRECTORY = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64"
FORMAT_VERSION = 1
MAX_PACKAGE_DEPTH = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_ABANDONED_S = 86_400
_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """What to build. `modules` are loaded at every boot, besides those that devices ask for."""

    name: str = DEFAULT_NAME
    kernel_package: str = DEFAULT_KERNEL_PACKAGE
    modules: tuple[str, ...] = ()
    installer: bool = False

    def __post_init__(self) -> None:
        """Raise InputError on names that no guest or package can have."""
        if not _NAME.fullmatch(self.name):
            msg = f"guest name {self.name!r}: use letters, digits and . _ + - (at most 64)"
            raise InputError(msg)
        if not _PACKAGE.fullmatch(self.kernel_package):
            msg = f"{self.kernel_package!r} is not a package name"
            raise InputError(msg)

    def fingerprint(self, keys: SshKeys | None = None) -> str:
        """Changes whenever the same packages would give another guest."""
        parts: list[object] = [FORMAT_VERSION, sorted(asdict(self).items()), initramfs.DEVICE_MODULES]
        if keys is not None:
            parts += [keys.authorized, keys.host_public, DROPBEAR_PACKAGE, DROPBEAR_LIBRARIES]
        digest = hashlib.sha256(repr(parts).encode())
        scripts = (initramfs.script(name) for name in initramfs.SCRIPTS)
        for data in (*scripts, initramfs.PROFILE, initramfs.BENCHMARK_INIT):
            digest.update(data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest in the cache. `packages` maps package names to versions."""

    name: str
    directory: Path
    release: str
    packages: dict[str, str]
    fingerprint: str

    @property
    def kernel(self) -> Path:
        """The kernel image, as the package has it."""
        return self.directory / "kernel"

    @property
    def initrd(self) -> Path:
        """The initial RAM file system."""
        return self.directory / "initrd"


def _guests_root() -> Path:
    return cache_root() / "guests"


def _load(link: Path) -> Guest | None:
    try:
        directory = link.resolve(strict=True)
        fields = json.loads((directory / "guest.json").read_text())
        guest = Guest(link.name, directory, fields["release"], dict(fields["packages"]), fields["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return guest if guest.kernel.is_file() and guest.initrd.is_file() else None


def find_guest(name: str) -> Guest:
    """The built guest `name`. Raises InputError when there is none, or it is damaged."""
    guest = _load(_guests_root() / name) if _NAME.fullmatch(name) else None
    if guest is None:
        option = "" if name == DEFAULT_NAME else " --installer" if name == INSTALLER_NAME else f" --name {name}"
        msg = f"no guest named {name!r}: build it with 'pyhyve guest build{option}'"
        raise InputError(msg)
    return guest


def list_guests() -> list[Guest]:
    """All guests in the cache, by name."""
    root = _guests_root()
    if not root.is_dir():
        return []
    loaded = (_load(path) for path in sorted(root.iterdir()) if not path.name.startswith("."))
    return [guest for guest in loaded if guest is not None]


def repositories(mirror: str | None, warn: Callable[[str], None]) -> list[Repository]:
    """Where to look for packages, best first. Raises UserError when there is nowhere."""
    if mirror is not None:
        if not mirror.startswith(("http://", "https://")):
            msg = f"--mirror {mirror}: not an http or https address"
            raise InputError(msg)
        return [ArchiveRepository([Source(mirror.rstrip("/"), "bookworm", ("main",))], warn)]
    found: list[Repository] = []
    if AptRepository.is_usable():
        found.append(AptRepository())
    suites = host_sources()
    if suites:
        found.append(ArchiveRepository(suites, warn))
    if not found:
        msg = "this host has no Debian package sources: name an archive with --mirror URL"
        raise UserError(msg)
    return found


def build_guest(
    spec: GuestSpec,
    report: Report,
    warn: Callable[[str], None],
    *,
    mirror: str | None = None,
    rebuild: bool = False,
) -> Guest:
    """Build guest `spec` unless it is already there, and return it.

    `report` hears of downloads, `warn` of what the user should know. `rebuild` looks for newer packages too.
    Raises UserError when a package cannot be had or does not hold what it should, or the cache cannot be written.
    """
    root = cache_directory("guests")
    keys = None if spec.installer else ensure_keys()
    fingerprint = spec.fingerprint(keys)
    present = _load(root / spec.name)
    if present is not None and present.fingerprint == fingerprint and not rebuild:
        return present
    if keys is None and not spec.installer:
        warn("no ssh in this guest: ssh-keygen is missing (apt-get install openssh-client, then build again)")
    store = _PackageStore(repositories(mirror, warn), report, warn)
    _drop_abandoned(root)
    with written_to_cache():
        _make(spec, store, root, keys, fingerprint)
    return find_guest(spec.name)


def _drop_abandoned(root: Path) -> None:
    """Remove what builds that were killed have left, once nobody can still be at it."""
    for path in root.glob(".new-*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def written_to_cache() -> Iterator[None]:
    """Say where it was when there is no room, or no permission."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        way = "make room there, or set XDG_CACHE_HOME to a place that has it"
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            way = "set XDG_CACHE_HOME to a writable place"
        msg = f"cannot write to the cache {cache_root()}: {error.strerror}; {way}"
        raise UserError(msg) from error


def _make(spec: GuestSpec, store: _PackageStore, root: Path, keys: SshKeys | None, fingerprint: str) -> None:
    """Build into a fresh directory, and let the guest's name lead to it."""
    with new_directory(root) as directory:
        release = _build_installer(store, directory) if spec.installer else _build_cloud(spec, store, directory, keys)
        fields = {"release": release, "packages": store.versions, "fingerprint": fingerprint}
        (directory / "guest.json").write_text(json.dumps(fields, indent=2) + "\n")
        content = hashlib.sha256("".join(file_sha256(path) for path in sorted(directory.iterdir())).encode())
        final = root / f".{spec.name}-{content.hexdigest()[:16]}"
        if _load(final) is None:
            shutil.rmtree(final, ignore_errors=True)
            directory.chmod(0o755)
            directory.rename(final)
    _point(root / spec.name, final)


def _point(link: Path, target: Path) -> None:
    """Make `link` lead to `target` in one step, and drop what it led to before."""
    before = link.resolve() if link.is_symlink() else None
    with new_directory(link.parent) as directory:
        fresh = directory / "link"
        fresh.symlink_to(target.name)
        # Resolved from its final place, beside the target.
        fresh.replace(link)
    if before is not None and before != target.resolve():
        shutil.rmtree(before, ignore_errors=True)


class _PackageStore:
    """Packages by name, downloaded once and kept."""

    def __init__(self, places: list[Repository], report: Report, warn: Callable[[str], None]) -> None:
        self._places = places
        self._report = report
        self._warn = warn
        self._directory = cache_directory("packages")
        self.versions: dict[str, str] = {}

    def read(self, name: str, *, follow: str | None = None) -> bytes:
        """Content of package `name`, or of the one it leads to when it is a meta-package.

        A meta-package is one that depends on a package whose name begins with `follow`.
        """
        failures: list[str] = []
        for place in self._places:
            try:
                record = self._resolve(place, name, follow)
                if record is None:
                    failures.append(f"package {name}: not found")
                    continue
                path = self._obtain(place, record)
            except FetchError as error:
                failures.append(str(error))
                continue
            self.versions[record.name] = record.version
            return path.read_bytes()
        raise FetchError("; ".join(dict.fromkeys(failures)) or f"package {name}: nowhere to look for it")

    @staticmethod
    def _resolve(place: Repository, name: str, follow: str | None) -> PackageRecord | None:
        for _ in range(MAX_PACKAGE_DEPTH):
            record = place.find(name)
            if record is None or follow is None:
                return record
            leads_to = [other for other in record.depends if other.startswith(follow)]
            if not leads_to:
                return record
            name = leads_to[0]
        msg = f"package {name}: too many packages that only lead to another"
        raise FetchError(msg)

    def _obtain(self, place: Repository, record: PackageRecord) -> Path:
        path = self._directory / f"{record.name}_{record.version.replace(':', '%3a')}.deb"
        if not (path.is_file() and file_sha256(path) == record.sha256):
            place.fetch(record, path, self._report)
        return path


def _build_installer(store: _PackageStore, directory: Path) -> str:
    """Take kernel and initrd of the Debian installer (text variant) as they are."""
    names = {"linux": "kernel", "initrd.gz": "initrd"}
    files = deb.read_files(store.read(INSTALLER_PACKAGE), lambda path: path.startswith(INSTALLER_DIRECTORY + "/"))
    for source, destination in names.items():
        file = files.get(f"{INSTALLER_DIRECTORY}/{source}")
        if file is None or file.target:
            msg = f"{INSTALLER_PACKAGE}: no file {INSTALLER_DIRECTORY}/{source}"
            raise UserError(msg)
        (directory / destination).write_bytes(file.data)
    return "Debian installer " + store.versions[INSTALLER_PACKAGE]


def _ssh_server(store: _PackageStore, keys: SshKeys) -> list[cpio.Entry]:
    """The ssh server dropbear with the libraries it needs."""
    files = deb.read_files(store.read(DROPBEAR_PACKAGE), lambda path: path.endswith("/sbin/dropbear"))
    program = next((file.data for file in files.values() if not file.target), None)
    if program is None:
        msg = f"{DROPBEAR_PACKAGE}: no program dropbear in the package"
        raise UserError(msg)
    shared: dict[str, deb.PackageFile] = {}
    for package in DROPBEAR_LIBRARIES:
        shared |= deb.read_files(store.read(package), lambda path: ".so" in path.rpartition("/")[2])
    return initramfs.ssh_entries(program, libraries.collect(program, shared), keys)


def _build_cloud(spec: GuestSpec, store: _PackageStore, directory: Path, keys: SshKeys | None) -> str:
    kernel_package = store.read(spec.kernel_package, follow="linux-image-")
    busybox_package = store.read(BUSYBOX_PACKAGE)
    files = deb.read_files(
        kernel_package, lambda path: path.startswith(("/boot/vmlinuz-", "/lib/", "/usr/lib/modules/"))
    )
    kernels = [file for path, file in files.items() if path.startswith("/boot/vmlinuz-")]
    if len(kernels) != 1:
        msg = f"{spec.kernel_package}: not a kernel package (no /boot/vmlinuz-…)"
        raise UserError(msg)
    release = kernels[0].path.removeprefix("/boot/vmlinuz-")
    prefixes = (f"/lib/modules/{release}/", f"/usr/lib/modules/{release}/")
    under = {
        path.removeprefix(prefix): file.data
        for path, file in files.items()
        for prefix in prefixes
        if path.startswith(prefix)
    }
    tree = modules.ModuleTree(
        {path: data for path, data in under.items() if ".ko" in path.rpartition("/")[2]},
        under.get("modules.builtin", b"").decode("utf-8", "replace").split(),
    )
    wanted = tree.closure(initramfs.DEVICE_MODULES, required=False)
    known = {module.name for module in wanted}
    wanted += [module for module in tree.closure(spec.modules, required=True) if module.name not in known]
    always = [modules.module_name(name) for name in spec.modules if not tree.is_builtin(name)]
    busybox = next(
        (
            f
            for p, f in deb.read_files(busybox_package, lambda path: path.endswith("/bin/busybox")).items()
            if not f.target
        ),
        None,
    )
    if busybox is None:
        msg = f"{BUSYBOX_PACKAGE}: no program busybox in the package"
        raise UserError(msg)
    extra = _ssh_server(store, keys) if keys is not None else []
    (directory / "kernel").write_bytes(kernels[0].data)
    (directory / "initrd").write_bytes(initramfs.build(busybox.data, release, wanted, always, extra))
    return release
