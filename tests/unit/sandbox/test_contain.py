"""A process inside the sandbox: each test runs one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from pyhyve.sandbox import landlock
from pyhyve.sandbox.contain import find_identity
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the sandbox knows x86-64 hosts")


def contained(tmp_path: Path, body: str) -> str:
    """Run `body` in a sandbox that may write to tmp_path/in; what it prints."""
    inside = tmp_path / "in"
    inside.mkdir(exist_ok=True)
    program = f"""
import errno, os, socket, subprocess, sys, tempfile, threading
from pathlib import Path
tempfile.tempdir = {str(inside)!r}
from pyhyve.sandbox.contain import enter
def refused(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
before = threading.Event()
answers = []
def early():
    before.wait()
    answers.append(refused(os.fork))
thread = threading.Thread(target=early)
thread.start()
INSIDE, OUTSIDE = Path({str(inside)!r}), Path({str(tmp_path)!r})
enter(writable=[INSIDE])
{textwrap.dedent(body)}
before.set()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_processes_and_identities_are_refused(tmp_path: Path) -> None:
    output = contained(
        tmp_path,
        """
        print(refused(os.fork), refused(lambda: subprocess.run(["true"])))
        print(refused(lambda: os.execv("/bin/true", ["true"])))
        print(refused(lambda: os.setuid(65534)), refused(lambda: os.kill(os.getppid(), 0)))
        print(refused(lambda: socket.socket(socket.AF_NETLINK)), refused(lambda: os.chroot("/")))
        """,
    )
    assert output == "EPERM EPERM\nEPERM\nEPERM EPERM\nEPERM EPERM\n"


def test_threads_started_before_and_after_are_contained(tmp_path: Path) -> None:
    output = contained(
        tmp_path,
        """
        late = threading.Thread(target=lambda: answers.append(refused(os.fork)))
        late.start()
        late.join()
        before.set()
        thread.join()
        print(answers, Path("/proc/self/status").read_text().count("NoNewPrivs:\\t1"))
        """,
    )
    assert output == "['EPERM', 'EPERM'] 1\n"


def test_what_a_machine_needs_still_works(tmp_path: Path) -> None:
    output = contained(
        tmp_path,
        """
        import ctypes, mmap
        code = mmap.mmap(-1, 4096, prot=7)
        code[:6] = b"\\xb8\\x2a\\x00\\x00\\x00\\xc3"
        print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))())
        left, right = socket.socketpair()
        left.send(b"x")
        print(right.recv(1), sum(1 for _ in os.scandir("/proc/self/fd")) > 3)
        (INSIDE / "file").write_text("x")
        (INSIDE / "file").rename(INSIDE / "other")
        (INSIDE / "other").unlink()
        import xml.dom.minidom, asyncio
        print("done")
        """,
    )
    assert output == "42\nb'x' True\ndone\n"


@pytest.mark.skipif(not landlock.abi_version(), reason="this kernel has no Landlock")
def test_files_outside_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("as it was")
    output = contained(
        tmp_path,
        """
        print(refused(lambda: (OUTSIDE / "new").write_text("x")))
        print(refused(lambda: (OUTSIDE / "precious").open("r+")), refused((OUTSIDE / "precious").unlink))
        print(refused(lambda: (INSIDE / ".." / "new").write_text("x")))
        print(refused(lambda: os.open(OUTSIDE / "precious", os.O_RDONLY)), refused(lambda: os.open("/etc/passwd", 0)))
        """,
    )
    assert output == "EACCES\nEACCES EACCES\nEACCES\nEACCES done\n"
    assert (tmp_path / "precious").read_text() == "as it was"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_become_for_good(tmp_path: Path) -> None:
    program = """
import os, threading
from pathlib import Path
from pyhyve.sandbox.contain import become, find_identity
stop = threading.Event()
thread = threading.Thread(target=stop.wait)
thread.start()
become(find_identity("nobody"))
statuses = [Path(f"/proc/self/task/{task}/status").read_text() for task in os.listdir("/proc/self/task")]
print(len(statuses), {status.split("Uid:")[1].split("\\n")[0] for status in statuses})
try:
    os.setuid(0)
except PermissionError:
    print("no way back")
stop.set()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "2 {'\\t65534\\t65534\\t65534\\t65534'}\nno way back\n"


def test_user_is_found_by_name_or_by_numbers() -> None:
    assert find_identity("root").uid == 0
    assert (find_identity("12:34").uid, find_identity("12:34").gid) == (12, 34)
    with pytest.raises(InputError, match="-runas nobody-of-that-name: no such user"):
        find_identity("nobody-of-that-name")
