"""Fetching Debian packages, with apt where it works and straight from the archive where it does not. No root needed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pyhyve.guest import sources
from pyhyve.support.cache import new_directory
from pyhyve.support.errors import UserError
from pyhyve.support.files import write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.guest.sources import PackageRecord, Source

TIMEOUT_S = 60
CHUNK_BYTES = 1 << 18
MAX_INDEX_BYTES = 256 << 20
ARCHITECTURE = "amd64"
DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Report(Protocol):
    """Told how far a download is; `total_bytes` is 0 when that is not known."""

    def __call__(self, what: str, done_bytes: int, total_bytes: int) -> None:
        """`done_bytes` of `what` have arrived."""


class FetchError(UserError):
    """A package could not be had."""


class Repository(Protocol):
    """Somewhere packages come from."""

    def find(self, name: str) -> PackageRecord | None:
        """The newest version of package `name`, or None. Raises FetchError when the index cannot be read."""

    def fetch(self, record: PackageRecord, destination: Path, report: Report) -> None:
        """Write the package to `destination`, its checksum verified. Raises FetchError."""


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class AptRepository:
    """apt's own lists and downloader: signatures, proxies and credentials as the host has them."""

    @staticmethod
    def is_usable() -> bool:
        """Whether apt is here and has package lists."""
        lists = Path("/var/lib/apt/lists")
        has_lists = lists.is_dir() and any("_Packages" in path.name for path in lists.iterdir())
        return has_lists and all(shutil.which(tool) for tool in ("apt-get", "apt-cache"))

    def find(self, name: str) -> PackageRecord | None:
        """The version apt would install."""
        result = subprocess.run(
            ["apt-cache", "show", "--no-all-versions", f"{name}:{ARCHITECTURE}"],
            capture_output=True,
            text=True,
            check=False,
        )
        for fields in sources.stanzas(result.stdout):
            record = sources.parse_record(fields)
            if record is not None:
                return record
        return None

    def fetch(self, record: PackageRecord, destination: Path, report: Report) -> None:
        """Run `apt-get download` in a directory of its own."""
        report(record.name, 0, record.size_bytes)
        with new_directory(destination.parent) as directory:
            if os.geteuid() == 0:
                directory.chmod(0o755)
            result = subprocess.run(
                ["apt-get", "-q", "download", f"{record.name}:{ARCHITECTURE}={record.version}"],
                cwd=directory,
                capture_output=True,
                text=True,
                check=False,
            )
            found = list(directory.glob("*.deb"))
            if result.returncode or len(found) != 1:
                errors = [line for line in result.stderr.splitlines() if line.startswith("E:")]
                msg = f"apt-get download {record.name}: {errors[0].removeprefix('E: ') if errors else 'no package'}"
                raise FetchError(msg)
            if file_sha256(found[0]) != record.sha256:
                msg = f"{record.name}: the downloaded package has the wrong checksum"
                raise FetchError(msg)
            found[0].replace(destination)
        report(record.name, record.size_bytes, record.size_bytes)


def host_sources(etc: Path = Path("/etc/apt")) -> list[Source]:
    """The Debian suites that this host's apt is set up with; other vendors' archives are left out."""
    found: list[Source] = []
    lists = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]
    for path in lists:
        if path.is_file():
            found += sources.parse_one_line(path.read_text(errors="replace"))
    for path in sorted((etc / "sources.list.d").glob("*.sources")):
        found += sources.parse_deb822(path.read_text(errors="replace"))
    return [
        source
        for source in found
        if source.uri.startswith(("http://", "https://"))
        and "debian" in source.uri.lower()
        and sources.DEBIAN_SUITE.fullmatch(source.suite)
        and "main" in source.components
    ]


class ArchiveRepository:
    """A Debian archive over HTTP: its signed index is checked with gpgv, each file against the index's SHA-256."""

    def __init__(self, suites: list[Source], warn: Callable[[str], None]) -> None:
        self._sources = suites
        self._warn = warn
        self._indexes: dict[Source, str] = {}

    def find(self, name: str) -> PackageRecord | None:
        """The newest version in all suites; the indexes (some megabytes each) are fetched once."""
        best: PackageRecord | None = None
        for source in self._sources:
            for fields in sources.find_stanza(self._index(source), name):
                record = sources.parse_record(fields, source.uri)
                if record is not None and (
                    best is None or sources.version_key(record.version) > sources.version_key(best.version)
                ):
                    best = record
        return best

    def fetch(self, record: PackageRecord, destination: Path, report: Report) -> None:
        """Download, check, then rename into place."""
        url = f"{record.uri}/{record.filename}"
        data = download(url, record.size_bytes, lambda done: report(record.name, done, record.size_bytes))
        if len(data) != record.size_bytes or hashlib.sha256(data).hexdigest() != record.sha256:
            msg = f"{url}: the downloaded package has the wrong checksum"
            raise FetchError(msg)
        write_atomically(destination, data)

    def _index(self, source: Source) -> str:
        if source not in self._indexes:
            self._indexes[source] = self._fetch_index(source)
        return self._indexes[source]

    def _fetch_index(self, source: Source) -> str:
        base = f"{source.uri}/dists/{source.suite}"
        release = self._verified(source, download(f"{base}/InRelease", MAX_INDEX_BYTES))
        checksums = next(sources.stanzas(release), {}).get("sha256", "")
        listed = {
            path: (digest, int(size)) for digest, size, path in re.findall(r"(\w{64})\s+(\d+)\s+(\S+)", checksums)
        }
        unpackers: dict[str, Callable[[bytes], bytes]] = {
            ".xz": lzma.decompress,
            ".gz": gzip.decompress,
            ".bz2": bz2.decompress,
            "": bytes,
        }
        for suffix, unpack in unpackers.items():
            path = f"main/binary-{ARCHITECTURE}/Packages{suffix}"
            if path not in listed:
                continue
            digest, size = listed[path]
            data = download(f"{base}/{path}", size)
            if hashlib.sha256(data).hexdigest() != digest:
                msg = f"{base}/{path}: wrong checksum (the archive is being updated? try again)"
                raise FetchError(msg)
            return unpack(data).decode("utf-8", "replace")
        msg = f"{base}: no package index for {ARCHITECTURE}"
        raise FetchError(msg)

    def _verified(self, source: Source, signed: bytes) -> str:
        """The text of an InRelease file, its signature checked where that is possible."""
        keyring = source.signed_by or DEFAULT_KEYRING
        if shutil.which("gpgv") and Path(keyring).is_file():
            result = subprocess.run(
                ["gpgv", "-q", "--keyring", keyring, "--output", "-"], input=signed, capture_output=True, check=False
            )
            if result.returncode:
                msg = f"{source.uri} {source.suite}: the signature of the package index is not valid"
                raise FetchError(msg)
            return result.stdout.decode("utf-8", "replace")
        self._warn(f"{source.uri}: signature not checked (gpgv or {keyring} is missing)")
        text = signed.decode("utf-8", "replace")
        return text.partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE-----")[0]


def download(url: str, limit_bytes: int, progress: Callable[[int], None] = lambda _done: None) -> bytes:
    """The body at `url`. Raises FetchError when it cannot be had or is larger than `limit_bytes`."""
    try:
        # Only the http(s) addresses of `host_sources` or the user's --mirror come here.
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310
            body = bytearray()
            while chunk := response.read(CHUNK_BYTES):
                body += chunk
                if len(body) > limit_bytes:
                    msg = f"{url}: larger than its index says"
                    raise FetchError(msg)
                progress(len(body))
            return bytes(body)
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        msg = f"cannot fetch {url}: {reason}"
        raise FetchError(msg) from error
