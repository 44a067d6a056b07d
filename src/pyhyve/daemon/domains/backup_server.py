"""The server of a backup that clients pull: the machine's own, of disks as they were when the backup began.

A guest's writes go on into its images; what they would replace is copied into a scratch image first, which is what is
exported ("image fleecing"). Source: libvirt's documentation, "Backup XML format"; QEMU's, "NBD server".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyhyve.daemon.domains.faults import not_supported, unsupported
from pyhyve.xml.document import Node

if TYPE_CHECKING:
    from pyhyve.daemon.domains.domain import ManagedDomain

__all__ = ["BackupServer", "export", "parse_server", "start", "stop"]


@dataclass(frozen=True, slots=True)
class BackupServer:
    """Where clients find it: a socket's path, or a host and port."""

    path: str | None = None
    host: str = ""
    port: str = ""

    def node(self) -> Node:
        """Return the element."""
        if self.path is not None:
            return Node("server", (("transport", "unix"), ("socket", self.path)))
        return Node("server", (("transport", "tcp"), ("name", self.host), ("port", self.port)))

    def address(self) -> dict[str, Any]:
        """Return it as the monitor has it."""
        if self.path is not None:
            return {"type": "unix", "data": {"path": self.path}}
        return {"type": "inet", "data": {"host": self.host, "port": self.port}}


def parse_server(node: Node | None) -> BackupServer:
    """Read the element. Raises LibvirtError."""
    held = dict(node.attributes) if node is not None else {}
    if held.get("tls") == "yes":
        raise not_supported("TLS of a backup's server is not supported")
    transport = held.get("transport", "tcp")
    if transport == "unix":
        if not held.get("socket", "").startswith("/"):
            raise unsupported(f"backup socket path '{held.get('socket', '')}' must be absolute")
        return BackupServer(path=held["socket"])
    if transport != "tcp":
        raise unsupported(f"unknown transport '{transport}' of a backup's server")
    if not held.get("port", "").isdecimal() or not 0 < int(held["port"]) < 1 << 16:
        raise not_supported("<domainbackup> must specify TCP port for now")
    return BackupServer(host=held.get("name") or "localhost", port=held["port"])


async def start(domain: ManagedDomain, server: BackupServer) -> None:
    """Have the machine listen. Raises LibvirtError."""
    if not (domain.has_command("nbd-server-start") and domain.has_command("block-export-add")):
        raise not_supported("QEMU binary lacks pull-mode backup support")
    await domain.monitor("nbd-server-start", {"addr": server.address()})


async def export(domain: ManagedDomain, node: str, name: str, bitmap: str | None) -> None:
    """Have it offer a node, and (where one is given) which of its blocks a bitmap has. Raises LibvirtError."""
    arguments: dict[str, Any] = {"type": "nbd", "id": f"export-{node}", "node-name": node, "name": name}
    if bitmap is not None:
        arguments["bitmaps"] = [bitmap]
    await domain.monitor("block-export-add", {**arguments, "writable": False})


async def stop(domain: ManagedDomain) -> None:
    """Hang up on its clients, and offer nothing any more. Raises LibvirtError."""
    await domain.monitor("nbd-server-stop")
