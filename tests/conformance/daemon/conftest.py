from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "rpc"))

from daemon_process import DaemonProcess, running_daemon
from libvirtd_process import running_libvirtd, why_not

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """Our daemon, for tests that only look."""
    if shutil.which("virsh") is None:
        pytest.skip("no virsh (Debian package libvirt-clients)")
    with running_daemon(tmp_path_factory.mktemp("daemon") / "root") as daemon:
        yield daemon


@pytest.fixture(scope="session")
def theirs() -> Iterator[Path]:
    """Socket of a real libvirtd."""
    if reason := why_not():
        pytest.skip(reason)
    with running_libvirtd() as path:
        yield path
