"""Disk images: the verbs people wait for, against qemu-img, on a realistic image (programs, text, noise, holes)."""

from __future__ import annotations

import atexit
import compileall
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyhyve
from benchmarks.harness import Case, Plan, Sample, require_program
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

SUMMARY = "disk images against qemu-img"
SIZE_BYTES = 2 << 30
CHAIN_LINKS = 100
HOLE_SHARE, NOISE_SHARE = 0.25, 0.07
ALIGNMENT = 65536
SOURCES = ("/usr/lib", "/usr/share", "/usr/bin")
MAX_FILES = 20_000
TIMEOUT_S = 900
PACKAGE = Path(pyhyve.__file__).parent
NOTHING = (sys.executable, "-c", "pass")
OURS = (sys.executable, "-c", "from pyhyve.cli.main import command; command()", "img")


def collect_files() -> list[Path]:
    """Regular files of this host between 1 KB and 4 MB: programs and text as guests have them."""
    found: list[Path] = []
    for top in SOURCES:
        for directory, _, names in os.walk(top):
            for name in sorted(names):
                path = Path(directory, name)
                if not path.is_symlink() and path.is_file() and 1000 < path.stat().st_size < 4 << 20:
                    found.append(path)
            if len(found) > MAX_FILES:
                break
    return found


def write_source(path: Path, size_bytes: int) -> None:
    """A raw disk: stretches of files, some noise, holes between."""
    chance = random.Random(7)
    files = collect_files()
    chance.shuffle(files)
    number, at = 0, 0
    with path.open("wb") as output:
        while at < size_bytes:
            kind = chance.random()
            if kind < HOLE_SHARE:
                at = min(size_bytes, at + (chance.randrange(1, 24) << 20))
                continue
            data = bytearray(chance.randbytes(chance.randrange(1, 4) << 20) if kind < HOLE_SHARE + NOISE_SHARE else b"")
            while len(data) < 4 << 20 and kind >= HOLE_SHARE + NOISE_SHARE:
                data += files[number % len(files)].read_bytes()
                data += bytes(-len(data) % 4096)
                number += 1
            del data[size_bytes - at :]
            output.seek(at)
            output.write(data)
            at = -(-(at + len(data)) // ALIGNMENT) * ALIGNMENT
        output.truncate(size_bytes)


def timed(command: list[str], directory: Path) -> tuple[float, str]:
    """Seconds and output of a command. Raises UserError when it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        msg = f"{' '.join(command)}: exit status {done.returncode}: {done.stderr[-200:]!r}"
        raise UserError(msg)
    return seconds, done.stdout


class Work:
    """A directory with the source image, its forms, and a long chain."""

    def __init__(self, qemu_img: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="pyhyve-bench-img-"))
        atexit.register(shutil.rmtree, self.directory, ignore_errors=True)
        self.qemu_img = qemu_img
        compileall.compile_dir(PACKAGE, quiet=1)  # as an installation does
        write_source(self.directory / "source.raw", SIZE_BYTES)
        self.peer("convert", "-O", "qcow2", "source.raw", "source.qcow2")
        self.peer("create", "-f", "qcow2", "link0.qcow2", "1G")
        for number in range(1, CHAIN_LINKS):
            below = f"link{number - 1}.qcow2"
            self.peer("create", "-f", "qcow2", "-F", "qcow2", "-b", below, f"link{number}.qcow2")

    def peer(self, *words: str) -> tuple[float, str]:
        """qemu-img."""
        return timed([self.qemu_img, *words], self.directory)

    def ours(self, *words: str) -> tuple[float, str]:
        """Our command."""
        return timed([*OURS, *words], self.directory)

    def conversion(self, *words: str, source: str, format_name: str) -> Case:
        """Both sides convert; the result must hold the same bytes as the source."""

        def side(run: Callable[..., tuple[float, str]], target: str) -> Sample:
            (self.directory / target).unlink(missing_ok=True)
            seconds, _ = run("convert", *words, "-O", format_name, source, target)
            _, verdict = self.peer("compare", "-f", format_name, "-F", "raw", target, "source.raw")
            return Sample(seconds, verdict.strip())

        name = f"{source.rpartition('.')[2]} to {format_name} {' '.join(words)}".strip()
        return Case(name, lambda: side(self.ours, "ours.img"), lambda: side(self.peer, "peer.img"))

    def start(self, name: str, *words: str) -> Case:
        """A short command, of which Python's own start, measured beside it, is taken away on our side."""

        def ours() -> Sample:
            seconds, output = self.ours(*words)
            own, _ = timed(list(NOTHING), self.directory)
            return Sample(max(seconds - own, 1e-4), output.splitlines()[0])

        def peer() -> Sample:
            seconds, output = self.peer(*words)
            return Sample(seconds, output.splitlines()[0])

        return Case(name, ours, peer)

    def question(self, name: str, *words: str, parse: Callable[[str], object] = str.strip) -> Case:
        """Both sides answer; the answers must be equal."""

        def side(run: Callable[..., tuple[float, str]]) -> Sample:
            seconds, output = run(*words)
            return Sample(seconds, str(parse(output)))

        return Case(name, lambda: side(self.ours), lambda: side(self.peer))


def chain_summary(text: str) -> list[tuple[str, int]]:
    """File names and sizes of a chain."""
    return [(link["filename"], link["virtual-size"]) for link in json.loads(text)]


def check_summary(text: str) -> tuple[int, int]:
    """Clusters allocated and in all."""
    found = json.loads(text)
    return found["allocated-clusters"], found["total-clusters"]


def plan() -> Plan:
    """Compressing conversion first: that is where people wait."""
    qemu_img = require_program("qemu-img", "qemu-utils")
    work = Work(qemu_img)
    version = subprocess.run([qemu_img, "--version"], capture_output=True, text=True, check=True).stdout
    last = f"link{CHAIN_LINKS - 1}.qcow2"
    return Plan(
        work=f"{SIZE_BYTES >> 30} GiB disk of programs, text, noise and holes, whole commands",
        unit="s",
        peer_name="qemu-img",
        cases=[
            work.conversion("-c", source="source.qcow2", format_name="qcow2"),
            work.conversion("-c", "-o", "compression_type=zstd", source="source.qcow2", format_name="qcow2"),
            work.conversion(source="source.raw", format_name="qcow2"),
            work.conversion(source="source.qcow2", format_name="raw"),
            work.question("compare", "compare", "source.raw", "source.qcow2"),
            work.question("check", "check", "--output", "json", "source.qcow2", parse=check_summary),
            work.question("create", "create", "-f", "qcow2", "new.qcow2", "2G"),
            work.question(
                f"info of a chain of {CHAIN_LINKS}", "info", "--backing-chain", "--output", "json", last,
                parse=chain_summary,
            ),
            work.start("info, without Python's start", "info", "source.qcow2"),
            work.start("check, without Python's start", "check", "source.qcow2"),
            work.start("create, without Python's start", "create", "-f", "qcow2", "new.qcow2", "2G"),
        ],
        versions={"qemu-img": version.split(" ")[2]},
    )  # fmt: skip
