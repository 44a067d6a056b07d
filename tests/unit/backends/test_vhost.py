"""The kernel's vhost-net: the requests, in their order, and their numbers against the system's headers."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyhyve.backends import vhost
from pyhyve.backends.net import NetError
from pyhyve.backends.vhost import Ioctl, KernelVhostNet, Vring
from pyhyve.memory.guest import GuestMemory

if TYPE_CHECKING:
    from collections.abc import Iterator

FEATURES = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32
HEADER = Path("/usr/include/linux/vhost.h")
RING = Vring(256, 0x7F0000001000, 0x7F0000002000, 0x7F0000003000, 17, 41, 42)


class FakeKernel:
    """Answers as vhost-net does, and remembers the requests."""

    def __init__(self, refuse: Ioctl | None = None) -> None:
        self.requests: list[tuple[str, object]] = []
        self._refuse = refuse

    def __call__(self, fd: int, request: int, argument: bytes | bytearray = b"", mutate: bool = False) -> int:
        kind = Ioctl(request)
        if kind is self._refuse:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if kind is Ioctl.GET_FEATURES:
            argument[:] = struct.pack("<Q", FEATURES)
        elif kind is Ioctl.GET_VRING_BASE:
            argument[4:] = struct.pack("<I", 99)
        self.requests.append((kind.name, bytes(argument)))
        return 0


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    memory = GuestMemory()
    memory.add(0, 1 << 20)
    memory.add(1 << 32, 2 << 20)
    yield memory
    memory.close()


def test_queue_is_set_up_in_order_and_taken_back(memory: GuestMemory) -> None:
    kernel = FakeKernel()
    backend = KernelVhostNet([77], device="/dev/null", ioctl=kernel)
    assert backend.features == FEATURES
    backend.prepare(FEATURES | 1 << 34 | 1 << 26, memory.regions)
    backend.start(1, RING)
    assert backend.stop(1) == 99
    low, high = memory.regions
    table = struct.pack("<II", 2, 0) + b"".join(
        struct.pack("<QQQQ", region.gpa, region.size_bytes, region.hva, 0) for region in (low, high)
    )
    assert kernel.requests == [
        ("SET_OWNER", b""),
        ("GET_FEATURES", struct.pack("<Q", FEATURES)),
        ("SET_FEATURES", struct.pack("<Q", FEATURES)),
        ("SET_MEM_TABLE", table),
        ("SET_VRING_NUM", struct.pack("<II", 1, 256)),
        ("SET_VRING_BASE", struct.pack("<II", 1, 17)),
        (
            "SET_VRING_ADDR",
            struct.pack("<IIQQQQ", 1, 0, RING.descriptors_hva, RING.used_hva, RING.available_hva, 0),
        ),
        ("SET_VRING_KICK", struct.pack("<Ii", 1, 41)),
        ("SET_VRING_CALL", struct.pack("<Ii", 1, 42)),
        ("NET_SET_BACKEND", struct.pack("<Ii", 1, 77)),
        ("NET_SET_BACKEND", struct.pack("<Ii", 1, -1)),
        ("GET_VRING_BASE", struct.pack("<II", 1, 99)),
    ]
    backend.close()
    backend.close()


def test_each_pair_has_a_descriptor_of_its_own() -> None:
    kernel = FakeKernel()
    backend = KernelVhostNet([70, 71], device="/dev/null", ioctl=kernel)
    backend.start(2, RING)
    assert kernel.requests[-1] == ("NET_SET_BACKEND", struct.pack("<Ii", 0, 71))
    backend.close()


def test_host_without_vhost_net_says_what_to_load(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="load the kernel module vhost_net"):
        KernelVhostNet([1], device=str(tmp_path / "vhost-net"))


def set_up(kernel: FakeKernel, memory: GuestMemory) -> None:
    backend = KernelVhostNet([1], device="/dev/null", ioctl=kernel)
    try:
        backend.prepare(0, memory.regions)
        backend.start(0, RING)
    finally:
        backend.close()


@pytest.mark.parametrize("request_", [Ioctl.SET_OWNER, Ioctl.SET_MEM_TABLE, Ioctl.SET_VRING_ADDR])
def test_refusal_names_the_request(request_: Ioctl, memory: GuestMemory) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(NetError, match=f"VHOST_{request_.name}: Device or resource busy"):
        set_up(FakeKernel(request_), memory)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_numbers_match_the_kernel_headers(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not HEADER.exists():
        pytest.skip("needs a C compiler and linux-libc-dev")
    wanted = {f"VHOST_{member.name}": int(member) for member in Ioctl} | {
        "sizeof(struct vhost_vring_state)": vhost.VRING_STATE.size,
        "sizeof(struct vhost_vring_file)": vhost.VRING_FILE.size,
        "sizeof(struct vhost_vring_addr)": vhost.VRING_ADDR.size,
        "sizeof(struct vhost_memory)": vhost.MEMORY_HEAD.size,
        "sizeof(struct vhost_memory_region)": vhost.MEMORY_REGION.size,
        "offsetof(struct vhost_vring_addr, used_user_addr)": 16,
        "offsetof(struct vhost_vring_addr, avail_user_addr)": 24,
    }
    lines = "\n".join(f'  printf("%llu\\n", (unsigned long long)({expression}));' for expression in wanted)
    source = tmp_path / "abi.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/vhost.h>\n"
        f"int main(void) {{\n{lines}\n  return 0;\n}}\n"
    )
    subprocess.run([compiler, "-o", tmp_path / "abi", source], check=True, timeout=60)
    output = subprocess.run([tmp_path / "abi"], check=True, capture_output=True, text=True, timeout=60).stdout
    assert dict(zip(wanted, map(int, output.split()), strict=True)) == wanted
