"""Programs of the host for a guest: a raw disk that holds them with their libraries, as a tar archive."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pyhyve.guest.console import GuestConsole

SECTOR_BYTES = 512
WRAPPER = '#!/bin/sh\nexec /opt/lib/{loader} --library-path /opt/lib /opt/lib/{name} "$@"\n'


def find_program(name: str, package: str) -> Path:
    """The host's program `name`; skips the test when it is missing."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return Path(found).resolve()


def compiled(directory: Path, source: Path) -> Path:
    """`source` compiled for a guest, without libraries."""
    program = directory / source.stem
    compiler = find_program("gcc", "gcc libc6-dev")
    subprocess.run([compiler, "-O2", "-static", "-o", str(program), str(source)], check=True)
    return program


def program_disk(path: Path, *programs: Path) -> Path:
    """Write the disk; `install_programs` unpacks it in the guest."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for program in programs:
            listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
            libraries = [Path(found) for found in re.findall(r"(/\S+) \(0x", listed.stdout)]
            loader = next((library.name for library in libraries if library.name.startswith("ld-")), "")
            for file in (program, *libraries):
                archive.add(file.resolve(), f"opt/lib/{file.name}")
            wrapper = (WRAPPER if loader else '#!/bin/sh\nexec /opt/lib/{name} "$@"\n').format(
                loader=loader, name=program.name
            )
            entry = tarfile.TarInfo(f"opt/bin/{program.name}")
            entry.size, entry.mode = len(wrapper), 0o755
            archive.addfile(entry, io.BytesIO(wrapper.encode()))
    data = buffer.getvalue()
    path.write_bytes(data.ljust(-(-len(data) // SECTOR_BYTES) * SECTOR_BYTES, b"\0"))
    return path


def install_programs(console: GuestConsole, device: str) -> None:
    """Unpack a program disk: its programs are in /opt/bin, and found by name unless the shell has one of that name."""
    console.run(f"tar xf {device} -C / && export PATH=$PATH:/opt/bin", 120)
