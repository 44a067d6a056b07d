"""Record what virsh and libvirtd say to each other, as fixtures for tests/unit/rpc.

Run as root with Debian's libvirt-daemon-system and libvirt-clients installed:
``python tests/conformance/rpc/capture.py tests/unit/rpc/captured``. One file a conversation, one frame a line: who sent
it ("c" client, "d" daemon) and its bytes in hexadecimal.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from libvirtd_process import running_libvirtd

COMMANDS = {
    "domains": "list --all; domstate test; dominfo test; dumpxml test; domstats; vcpuinfo test; domiflist test",
    "lifecycle": "suspend test; resume test; shutdown test; start test; reboot test; destroy test; start test; "
    "desc test; schedinfo test; vcpucount test; autostart test; event test lifecycle --timeout 1",
    "networks": "net-list --all; net-info default; net-dumpxml default; iface-list --all; net-dhcp-leases default",
    "storage": "pool-list --all --details; pool-info default-pool; vol-create-as default-pool v1 1G; "
    "vol-list default-pool --details; vol-dumpxml v1 --pool default-pool; vol-delete v1 --pool default-pool",
    "snapshots": "snapshot-create-as test s1; snapshot-list test --tree; snapshot-info test s1; "
    "snapshot-dumpxml test s1; snapshot-revert test s1; snapshot-delete test s1",
    "host": "version; nodeinfo; nodecpustats; capabilities; hostname; uri; freecell; nodememstats",
    "no-domain": "domstate nothere",
    "no-network": "net-info nothere",
    "no-pool": "pool-info nothere",
    "not-paused": "suspend test; suspend test; resume test; resume test",
}


def pump(source: socket.socket, sink: socket.socket, who: str, lines: list[str], lock: threading.Lock) -> None:
    """Pass bytes on; write down each whole frame."""
    held = b""
    while data := source.recv(65536):
        held += data
        while len(held) >= 4 and len(held) >= (length := int.from_bytes(held[:4], "big")):
            with lock:
                lines.append(f"{who} {held[:length].hex()}")
            held = held[length:]
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)


def record(daemon_socket: Path, commands: str, uri: str) -> list[str]:
    """Run one virsh through a recording proxy; return the lines."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory, "s")
        listener.bind(str(path))
        listener.listen(1)
        virsh = subprocess.Popen(
            [shutil.which("virsh") or "virsh", "-c", uri.format(path), commands], stdout=subprocess.DEVNULL
        )
        near, _ = listener.accept()
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(daemon_socket))
            lock = threading.Lock()
            threads = [
                threading.Thread(target=pump, args=(near, far, "c", lines, lock)),
                threading.Thread(target=pump, args=(far, near, "d", lines, lock)),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        virsh.wait()
    return lines


def main() -> None:
    """Record every conversation."""
    target = Path(sys.argv[1])
    with running_libvirtd() as daemon:
        for name, commands in COMMANDS.items():
            lines = record(daemon, commands, "test+unix:///default?socket={}")
            Path(target, f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
