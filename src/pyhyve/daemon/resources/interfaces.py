"""Network interfaces of the host, for looking at. Everything here blocks; the daemon calls it on threads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HostInterface", "find_interfaces", "interface_document"]

_CLASS: Final = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class HostInterface:
    """One interface."""

    name: str
    mac: str
    kind: str
    mtu: str
    state: str
    speed: str | None
    ports: tuple[str, ...] = ()

    @property
    def active(self) -> bool:
        """Whether it is up."""
        return self.state == "up"


def _read(path: Path, default: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return default


def find_interfaces(directory: Path = _CLASS) -> Iterator[HostInterface]:
    """Return every interface, by name."""
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if not (path / "address").exists() or (path / "brport").exists():
            continue  # ports are shown within their bridge
        kind = "ethernet"
        ports: tuple[str, ...] = ()
        if (path / "bridge").is_dir():
            kind = "bridge"
            ports = tuple(sorted(port.name for port in (path / "brif").iterdir()))
        elif (path / "bonding").is_dir():
            kind = "bond"
            ports = tuple(_read(path / "bonding/slaves").split())
        state = _read(path / "operstate", "unknown")
        speed = _read(path / "speed") if state == "up" else ""
        yield HostInterface(
            path.name,
            _read(path / "address"),
            kind,
            _read(path / "mtu"),
            state,
            str(int(speed) & 0xFFFFFFFF) if speed.lstrip("-").isdigit() else None,
            ports,
        )


def interface_document(interface: HostInterface) -> str:
    """Return the ``<interface>`` document."""
    link = [("state", interface.state)]
    if interface.speed is not None:
        link.insert(0, ("speed", interface.speed))
    children = [Node("mtu", (("size", interface.mtu),))]
    if interface.kind in {"bridge", "bond"}:
        inner = tuple(Node("interface", (("type", "ethernet"), ("name", port))) for port in interface.ports)
        children.append(Node(interface.kind, children=inner))
    else:
        children += [Node("link", tuple(link)), Node("mac", (("address", interface.mac),))]
    return format_node(
        Node("interface", (("type", interface.kind), ("name", interface.name)), children=tuple(children))
    )
