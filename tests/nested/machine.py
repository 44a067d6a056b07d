"""The nested machine: boot it once, take a snapshot, and resume that for every run."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import selectors
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.nested.image import cached_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

REPOSITORY = Path(__file__).parents[2]
MEMORY_MIB = 1536
PAYLOAD_SIZE_BYTES = 512 << 20
"""Fixed, because the snapshot knows the size of the disk."""
CPU_MODEL = "EPYC,+svm,+npt"
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet mitigations=off tsc=reliable panic=-1 loglevel=3"
    # QEMU's emulated SVM loses a timer interrupt now and then. A one-shot timer that is never set again stops the whole
    # machine; a periodic one goes on.
    " nohz=off highres=off"
)
BOOT_TIMEOUT_S = 600
STALL_CPU_S = 120
"""Without a heartbeat for this much of the emulator's CPU time, the machine hangs: it is resumed anew."""
STALL_S = 900
"""Ditto for time on the clock, when the emulator does nothing at all."""
ATTEMPTS = 3
SNAPSHOT = "ready"
_MARK = "@@nested:"


DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""However the tests end, the emulator goes with them (util-linux, setpriv(1))."""


class NestedError(Exception):
    """The nested machine did not do what it should; the message holds the end of its console."""


class NestedStalledError(NestedError):
    """The machine stopped running."""


def missing() -> str | None:
    """Why the nested machine cannot run here, or None."""
    for program in ("qemu-system-x86_64", "qemu-img"):
        if shutil.which(program) is None:
            return f"no {program} on this host (Debian packages qemu-system-x86 and qemu-utils)"
    return None


def _command(image: Path, snapshot: Path, payload: Path, monitor: Path, *, icount: bool) -> list[str]:
    # With -icount, time in the machine is the number of its instructions, 2 ns each: a busy host changes no figure.
    counting = ["-accel", "tcg,tb-size=512", "-icount", "shift=1,sleep=off"]
    accelerator = counting if icount else ["-accel", "tcg,thread=single,tb-size=512"]
    return [
        *DIES_WITH_US, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        *accelerator, "-cpu", CPU_MODEL, "-m", str(MEMORY_MIB), "-smp", "1",
        "-kernel", str(image / "kernel"), "-initrd", str(image / "initrd"),
        "-append", KERNEL_ARGUMENTS,
        "-serial", "stdio", "-qmp", f"unix:{monitor},server=on,wait=off",
        "-drive", f"if=none,id=snapshots,format=qcow2,file={snapshot}",
        "-drive", f"if=virtio,format=raw,readonly=on,file={payload}",
    ]  # fmt: skip


class _Console:
    """The serial port: lines in, one line out."""

    def __init__(self, process: subprocess.Popen[bytes], echo: Callable[[str], None]) -> None:
        self._process = process
        self._echo = echo
        self._rest = b""
        self._started = ""
        self.tail: list[str] = []
        if process.stdout is None:
            raise ValueError
        self._output: IO[bytes] = process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def _cpu_s(self) -> float:
        """CPU time that the emulator has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for_mark(self, deadline: float) -> str:
        """The text after the next mark; other lines are echoed. Raises NestedError at the deadline or the end."""
        heard, heard_cpu = time.monotonic(), self._cpu_s()
        while True:
            while b"\n" in self._rest:
                raw, self._rest = self._rest.split(b"\n", 1)
                line = raw.decode("utf-8", "replace").rstrip("\r")
                # A mark may come in the middle of a line that the guest has not finished.
                before, found, mark = line.partition(_MARK)
                if found and mark == "beat":
                    heard, heard_cpu = time.monotonic(), self._cpu_s()
                    self._started += before
                    continue
                line, self._started = self._started + before, ""
                if found:
                    if line:
                        self._echo(line)
                    return mark
                self.tail = [*self.tail[-30:], line]
                self._echo(line)
            now = time.monotonic()
            if now >= deadline:
                raise NestedError(self._story("the nested machine took too long"))
            if now >= heard + STALL_S or self._cpu_s() >= heard_cpu + STALL_CPU_S:
                raise NestedStalledError(self._story("the nested machine has stalled"))
            if not self._selector.select(min(deadline - now, 5.0)):
                continue
            chunk = os.read(self._output.fileno(), 65536)
            if not chunk:
                raise NestedError(self._story("the nested machine ended early"))
            self._rest += chunk

    def write(self, line: str) -> None:
        if self._process.stdin is None:
            raise ValueError
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _story(self, what: str) -> str:
        return "\n".join([what, *self.tail, self._rest.decode("utf-8", "replace")])


@contextmanager
def _running(command: list[str], echo: Callable[[str], None]) -> Iterator[_Console]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        try:
            yield _Console(process, echo)
        except NestedError as error:
            errors.seek(0)
            text = errors.read().decode("utf-8", "replace")
            said = "\n".join(line for line in text.splitlines() if "TCG doesn't support" not in line)
            msg = f"{error}\n{said}".rstrip()
            raise type(error)(msg) from error
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


def _savevm(monitor: Path) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(BOOT_TIMEOUT_S)
        connection.connect(str(monitor))
        stream = connection.makefile("rwb")
        stream.readline()
        savevm = {"command-line": f"savevm {SNAPSHOT}"}
        for request in ({"execute": "qmp_capabilities"}, {"execute": "human-monitor-command", "arguments": savevm}):
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline())
            while "event" in answer:
                answer = json.loads(stream.readline())
            if answer.get("return"):
                msg = f"savevm: {answer['return']}"
                raise NestedError(msg)
            if "error" in answer:
                msg = f"savevm: {answer['error']}"
                raise NestedError(msg)


def cached_snapshot(echo: Callable[[str], None] = lambda _line: None, *, icount: bool = False) -> tuple[Path, Path]:
    """The image directory and a qcow2 file with the snapshot in it, made when missing."""
    image = cached_image()
    nowhere = Path("/")
    recipe = repr((_command(nowhere, nowhere, nowhere, nowhere, icount=icount), PAYLOAD_SIZE_BYTES, _qemu_version()))
    final = image / f"snapshot-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.qcow2"
    with (image / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if final.is_file():
            return image, final
        with tempfile.TemporaryDirectory(dir=image) as directory:
            disk, payload, monitor = (Path(directory, name) for name in ("disk", "payload", "monitor"))
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "64M"], check=True)
            _allocate(payload)
            with _running(_command(image, disk, payload, monitor, icount=icount), echo) as console:
                mark = console.wait_for_mark(time.monotonic() + BOOT_TIMEOUT_S)
                if mark != "ready":
                    raise NestedError(mark)
                time.sleep(1)  # let `read` reach the port
                _savevm(monitor)
            disk.rename(final)
    return image, final


def _qemu_version() -> str:
    """A snapshot belongs to the emulator that took it."""
    return subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout


def _allocate(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(PAYLOAD_SIZE_BYTES)


def _write_payload(path: Path, script: str, extra: Mapping[str, Path]) -> None:
    """A tar of the project, `extra` files by their name inside, and the script."""

    def is_wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        name = member.name.rpartition("/")[2]
        return None if name in {"__pycache__", ".git"} or name.endswith(".pyc") else member

    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("src", "tests", "benchmarks", "scripts", "pyproject.toml"):
            if (REPOSITORY / name).exists():
                archive.add(REPOSITORY / name, name, filter=is_wanted)
        for name, source in extra.items():
            archive.add(source.resolve(), name)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(script)
            file.flush()
            archive.add(file.name, "run.sh")
    if path.stat().st_size > PAYLOAD_SIZE_BYTES:
        msg = f"the payload is larger than {PAYLOAD_SIZE_BYTES >> 20} MiB"
        raise NestedError(msg)
    os.truncate(path, PAYLOAD_SIZE_BYTES)


def run(
    script: str,
    *,
    extra: Mapping[str, Path] | None = None,
    timeout_s: float = 600,
    echo: Callable[[str], None] = print,
    niceness: int = 0,
    icount: bool = False,
) -> int:
    """Run a shell script in the nested machine, in a directory with the project; returns its exit status.

    `extra` maps names in that directory to host files. Each line of output goes to `echo`. Raises NestedError.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _run_once(script, extra or {}, timeout_s, echo, niceness, icount=icount)
        except NestedStalledError as error:
            echo(f"{error}\nnested machine: it has stalled; starting again")
    return _run_once(script, extra or {}, timeout_s, echo, niceness, icount=icount)


def _run_once(
    script: str,
    extra: Mapping[str, Path],
    timeout_s: float,
    echo: Callable[[str], None],
    niceness: int,
    *,
    icount: bool,
) -> int:
    image, snapshot = cached_snapshot(echo, icount=icount)
    with tempfile.TemporaryDirectory(prefix="pyhyve-nested-") as directory:
        disk, payload, monitor = (Path(directory, name) for name in ("disk", "payload", "monitor"))
        shutil.copyfile(snapshot, disk)
        _write_payload(payload, script, extra)
        priority = ["nice", "-n", str(niceness)] if niceness else []
        command = [*priority, *_command(image, disk, payload, monitor, icount=icount), "-loadvm", SNAPSHOT]
        with _running(command, echo) as console:
            console.write(str(int(time.time()) + 1))
            mark = console.wait_for_mark(time.monotonic() + timeout_s)
    word, _, rest = mark.partition(" ")
    if word != "exit":
        raise NestedError(mark)
    return int(rest)
