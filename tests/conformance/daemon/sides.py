"""A virsh and a daemon, of ours or of libvirt's, and what they say to sessions."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from libvirtd_process import running_libvirtd, why_not

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Volatile = tuple[tuple[re.Pattern[str], str], ...]
Reply = tuple[int, str, str]
"""Exit status, standard output and standard error."""

VIRSH = ("virsh",)
OUR_VIRSH = (sys.executable, "-m", "pyhyve", "virsh")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def skip_reason() -> str | None:
    if reason := why_not():
        return reason
    absent = [name for name in ("dnsmasq", "nft") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"not installed: {', '.join(absent)}" if absent else None


class Side:
    """A client and a daemon, with a directory of their own; what they say to each list of sessions."""

    def __init__(
        self, client: tuple[str, ...], uri: str, directory: Path, files: Mapping[str, str], volatile: Volatile
    ) -> None:
        self.client = client
        self.uri = uri
        self.directory = directory
        self.volatile = volatile
        self.replies: dict[str, list[Reply]] = {}
        (directory / "pools").mkdir()
        for name, text in files.items():
            (directory / name).write_text(text.replace("@DIR@", str(directory)) + "\n")

    def run_all(self, sessions: str) -> list[Reply]:
        if sessions not in self.replies:
            self.replies[sessions] = [self.run(line) for line in sessions.strip().split("\n")]
        return self.replies[sessions]

    def run(self, line: str) -> Reply:
        done = subprocess.run(
            [*self.client, "-c", self.uri, line.replace("@DIR@", str(self.directory))],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=ENVIRONMENT,
        )
        return done.returncode, self.plain(done.stdout), self.plain(done.stderr)

    def plain(self, text: str) -> str:
        text = text.replace(str(self.directory), "DIR")
        for pattern, word in self.volatile:
            text = pattern.sub(word, text)
        return re.sub(r" +", " ", text)


@contextlib.contextmanager
def our_daemon(root: Path) -> Iterator[str]:
    """Run our daemon in namespaces of its own; give its URI."""
    log, socket = root.parent / "log", root / "run/virtpyhyved-sock"
    script = (
        "ip link set lo up; mount -t sysfs sysfs /sys;"
        " mkdir -p /run/pyhyve; mount -t tmpfs -o mode=755 tmpfs /run/pyhyve;"
        f' exec "$0" -m pyhyve daemon --system --root {root}'
    )
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["unshare", "-m", "-n", "--propagation", "private", "bash", "-c", script, sys.executable],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
    try:
        deadline = time.monotonic() + 60
        while b"ready, listening" not in log.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text(errors="replace"))
            time.sleep(0.05)
        yield f"qemu:///system?socket={socket}"
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def side_of(name: str, directory: Path, files: Mapping[str, str], volatile: Volatile) -> Iterator[Side]:
    """One side: ``virsh-libvirtd``, the reference, ``virsh-ours`` or ``ours-libvirtd``."""
    if name == "virsh-ours":
        with our_daemon(directory / "root") as uri:
            yield Side(VIRSH, uri, directory, files, volatile)
    else:
        with running_libvirtd() as socket:
            client = OUR_VIRSH if name == "ours-libvirtd" else VIRSH
            yield Side(client, f"qemu:///system?socket={socket}", directory, files, volatile)


def assert_equal_replies(replies: Iterable[tuple[str, object, object]]) -> None:
    """Of each line of a session, our reply is libvirt's; says of which it is not."""
    differing = [f"{line}\n  ours:   {mine}\n  theirs: {real}" for line, mine, real in replies if mine != real]
    assert not differing, "\n".join(differing)


def assert_same(reference: Side, ours: Side, sessions: str, justified: Mapping[str, str]) -> None:
    """Both say the same to each session; of ``justified`` ones, our daemon does not."""
    lines = sessions.strip().split("\n")
    replies = list(zip(lines, ours.run_all(sessions), reference.run_all(sessions), strict=True))
    excused = justified if ours.client == VIRSH else {}
    for line, mine, real in replies:
        if line in excused:
            assert mine != real, f"no difference any more: {line}"
    assert_equal_replies(reply for reply in replies if reply[0] not in excused)
