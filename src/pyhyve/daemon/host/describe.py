"""The ``<host>`` of ``<capabilities>``.

Source: libvirt's documentation, "Driver capabilities XML format"; the kernel's Documentation/ABI/testing/
sysfs-devices-system-cpu (caches and topology).
"""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.decode import decode
from pyhyve.daemon.cpu.host import host_cpu
from pyhyve.daemon.cpu.kvm import tsc_frequency
from pyhyve.xml.document import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pyhyve.daemon.host.linux import LinuxHost

__all__ = ["host_node", "host_uuid"]

_SYSTEM_PAGE_KIB: Final = os.sysconf("SC_PAGE_SIZE") >> 10
_CACHE_LEVEL: Final = 3
"""Caches of this level are shared, and listed."""


def host_uuid() -> str:
    """Return the host's identity: that of its firmware, else one made from the installation's."""
    for path in ("/sys/class/dmi/id/product_uuid", "/etc/machine-id"):
        with contextlib.suppress(OSError, ValueError):
            return str(uuid.UUID(Path(path).read_text(encoding="ascii").strip()))
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, os.uname().nodename))


def host_node(host: LinuxHost) -> Node:
    """Return the element. Blocks."""
    return Node(
        "host",
        children=(
            _text("uuid", host_uuid()),
            _cpu(host),
            Node("power_management"),
            Node("iommu", (("support", "yes" if _has_iommu() else "no"),)),
            Node("migration_features", children=(Node("live"), _transports())),
            _topology(host),
            *_caches(host),
            Node("secmodel", children=(_text("model", "none"), _text("doi", "0"))),
        ),
    )


def _transports() -> Node:
    return Node("uri_transports", children=(_text("uri_transport", "tcp"),))


def _text(name: str, text: object, *attributes: tuple[str, str]) -> Node:
    return Node(name, attributes, str(text))


def _empty(element: str, /, **attributes: object) -> Node:
    return Node(element, tuple((key, str(value)) for key, value in attributes.items()))


def _pages_kib(host: LinuxHost) -> list[int]:
    return [_SYSTEM_PAGE_KIB, *(size for size in host.huge_page_sizes() if size != _SYSTEM_PAGE_KIB)]


def _cpu(host: LinuxHost) -> Node:
    cpu, info = host_cpu(), host.info()
    children = [_text("arch", info.model)]
    found = decode(cpu.features, vendor=cpu.vendor, signature=(cpu.family, cpu.model), host=True)
    if found is not None:
        children.append(_text("model", found.model.name))
    if cpu.vendor is not None:
        children.append(_text("vendor", cpu.vendor))
    if cpu.microcode is not None:
        children.append(_empty("microcode", version=cpu.microcode))
    children.append(_empty("signature", family=cpu.family, model=cpu.model, stepping=cpu.stepping))
    if (tsc := tsc_frequency()) is not None:
        children.append(_empty("counter", name="tsc", frequency=tsc[0], scaling="yes" if tsc[1] else "no"))
    children.append(_empty("topology", sockets=info.sockets, dies=1, cores=info.cores, threads=info.threads))
    if cpu.physical_address_bits is not None:
        children.append(_empty("maxphysaddr", mode="emulate", bits=cpu.physical_address_bits))
    if found is not None:
        children.extend(_empty("feature", name=name) for name in found.more)
    children.extend(_empty("pages", unit="KiB", size=size) for size in _pages_kib(host))
    return Node("cpu", children=tuple(children))


def _has_iommu() -> bool:
    try:
        return any(Path("/sys/kernel/iommu_groups").iterdir())
    except OSError:
        return False


def _number(path: Path, otherwise: int = 0) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return otherwise


def _list_text(path: Path, otherwise: str) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return otherwise


def _topology(host: LinuxHost) -> Node:
    cells = []
    every = host.cells()
    for cell, cpus in every.items():
        children = [_text("memory", host.memory(cell)["total"], ("unit", "KiB"))]
        children.extend(
            _text("pages", host.pages(cell, size), ("unit", "KiB"), ("size", str(size))) for size in _pages_kib(host)
        )
        distances = host.cell_distances(cell)
        if distances:
            siblings = [
                _empty("sibling", id=other, value=value) for other, value in zip(every, distances, strict=False)
            ]
            children.append(Node("distances", children=tuple(siblings)))
        listed = tuple(_logical_cpu(host, cpu) for cpu in cpus)
        children.append(Node("cpus", (("num", str(len(cpus))),), children=listed))
        cells.append(Node("cell", (("id", str(cell)),), children=tuple(children)))
    return Node("topology", children=(Node("cells", (("num", str(len(cells))),), children=tuple(cells)),))


def _logical_cpu(host: LinuxHost, cpu: int) -> Node:
    topology = host.cpu_directory / f"cpu{cpu}" / "topology"
    return _empty(
        "cpu",
        id=cpu,
        socket_id=_number(topology / "physical_package_id"),
        die_id=max(_number(topology / "die_id"), 0),
        core_id=_number(topology / "core_id", cpu),
        siblings=_list_text(topology / "thread_siblings_list", str(cpu)),
    )


def _caches(host: LinuxHost) -> Iterable[Node]:
    banks: dict[tuple[int, str], Node] = {}
    for index in sorted(host.cpu_directory.glob("cpu[0-9]*/cache/index[0-9]*")):
        if _number(index / "level") != _CACHE_LEVEL:
            continue
        kind = {"Unified": "both", "Data": "data", "Instruction": "code"}.get(_list_text(index / "type", ""), "both")
        size_kib = int(_list_text(index / "size", "0K").rstrip("K") or 0)
        size, unit = (size_kib >> 10, "MiB") if size_kib and not size_kib % 1024 else (size_kib, "KiB")
        cpus = _list_text(index / "shared_cpu_list", "")
        number = _number(index / "id")
        banks[number, kind] = _empty("bank", id=number, level=_CACHE_LEVEL, type=kind, size=size, unit=unit, cpus=cpus)
    ordered: Sequence[Node] = [banks[key] for key in sorted(banks)]
    return (Node("cache", children=tuple(ordered)),) if ordered else ()
