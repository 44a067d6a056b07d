"""What the driver's emulators can run, and what a domain on one of them may have.

Source: libvirt's documentation, "Driver capabilities XML format" and "Domain capabilities XML format".
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.guest import GuestCpu
from pyhyve.daemon.cpu.host import host_cpu, kvm_features
from pyhyve.daemon.cpu.model import ARCHITECTURES, OTHER_ARCHITECTURES, from_emulator
from pyhyve.daemon.cpu.model import models as models_by_name
from pyhyve.daemon.domains.definition.parse import DOMAIN_TYPES
from pyhyve.daemon.domains.emulators import HOST_ARCHITECTURE, Emulator
from pyhyve.daemon.domains.faults import invalid_argument
from pyhyve.daemon.drivers.qemu.firmware import suitable
from pyhyve.daemon.errors import LibvirtError
from pyhyve.daemon.host.describe import host_node
from pyhyve.rpc.errors import ErrorDomain
from pyhyve.xml.document import Node, format_node

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyhyve.daemon.drivers.qemu.emulator import EmulatorCatalog
    from pyhyve.daemon.host.linux import LinuxHost

__all__ = ["capabilities", "domain_capabilities", "guest_nodes"]

_WORD_SIZES: Final = {"i386": 32, "i686": 32, "x86_64": 64, "riscv64": 64, "aarch64": 64, "arm": 32, "riscv32": 32}
_DISK_BUSES: Final = (
    ("ide", "ide-hd"),
    ("fdc", "floppy"),
    ("scsi", "scsi-hd"),
    ("virtio", "virtio-blk-pci"),
    ("usb", "usb-storage"),
    ("sata", "ide-hd"),
)
_VIDEO: Final = (
    ("vga", "VGA"),
    ("cirrus", "cirrus-vga"),
    ("vmvga", "vmware-svga"),
    ("qxl", "qxl"),
    ("virtio", "virtio-gpu-pci"),
    ("bochs", "bochs-display"),
    ("ramfb", "ramfb"),
)


def _text(name: str, value: str, *attributes: tuple[str, str]) -> Node:
    return Node(name, attributes, value)


def guest_nodes(catalog: EmulatorCatalog) -> Iterable[Node]:
    """Yield a ``<guest>`` for each architecture that some emulator runs. Blocks. Skips emulators that do not answer."""
    seen = set()
    for path in catalog.found():
        try:
            emulator = catalog.probed(path)
        except LibvirtError:
            continue
        if emulator.architecture in seen:
            continue
        seen.add(emulator.architecture)
        yield _guest(emulator)


def _guest(emulator: Emulator) -> Node:
    name = "i686" if emulator.architecture == "i386" else emulator.architecture
    machines = []
    # The default comes first: virt-install takes that.
    for machine in sorted(emulator.machines.values(), key=lambda item: item.canonical != emulator.default_machine):
        attributes = [("maxCpus", str(machine.vcpus_max))]
        if machine.canonical != machine.name:
            attributes.insert(0, ("canonical", machine.canonical))
        if machine.deprecated:
            attributes.append(("deprecated", "yes"))
        machines.append(_text("machine", machine.name, *attributes))
    domains = [Node("domain", (("type", "qemu"),))]
    if emulator.kvm and emulator.architecture in {"x86_64", "i386"}:
        domains.append(Node("domain", (("type", "kvm"),)))
    architecture = Node(
        "arch",
        (("name", name),),
        children=(
            _text("wordsize", str(_WORD_SIZES.get(name, 64))),
            _text("emulator", emulator.path),
            *machines,
            *domains,
        ),
    )
    features = Node(
        "features",
        children=(
            *((Node("pae"), Node("nonpae")) if name == "i686" else ()),
            Node("acpi", (("default", "on"), ("toggle", "yes"))),
            Node("apic", (("default", "on"), ("toggle", "no"))),
            Node("cpuselection"),
            Node("deviceboot"),
            Node("disksnapshot", (("default", "on"), ("toggle", "no"))),
        ),
    )
    return Node("guest", children=(_text("os_type", "hvm"), architecture, features))


def _enum(name: str, values: Iterable[str]) -> Node:
    return Node("enum", (("name", name),), children=tuple(_text("value", value) for value in values))


def _supported(name: str, *children: Node, supported: bool = True) -> Node:
    return Node(name, (("supported", "yes" if supported else "no"),), children=children)


_TYPES: Final = DOMAIN_TYPES - {"hvf"} | {"none"}
"""Kinds of domains that may be asked for."""


def chosen_emulator(
    catalog: EmulatorCatalog, path: str | None, architecture: str | None, virt_type: str | None
) -> tuple[Emulator, str]:
    """Return the emulator for a kind of domain, and the kind ("kvm" or "qemu"). Blocks. Raises LibvirtError."""
    wanted = architecture or HOST_ARCHITECTURE
    if wanted not in OTHER_ARCHITECTURES | ARCHITECTURES:
        raise invalid_argument(f"unknown architecture: {wanted}")
    if virt_type is not None and virt_type not in _TYPES:
        raise invalid_argument(f"unknown virttype: {virt_type}")
    path = path or catalog.default_path(wanted, virt_type or "qemu")
    if path is None:
        raise invalid_argument(f"unable to find any emulator to serve '{wanted}' architecture")
    emulator = catalog.probed(path)
    if architecture is not None and emulator.architecture != architecture:
        detail = (
            f"architecture from emulator '{emulator.architecture}' doesn't match given architecture '{architecture}'"
        )
        raise invalid_argument(detail)
    if virt_type not in {None, "qemu", "kvm"}:
        raise invalid_argument(f"Emulator '{path}' does not support virt type '{virt_type}'")
    kind = virt_type or ("kvm" if emulator.kvm else "qemu")
    if kind == "kvm" and not emulator.kvm:
        raise invalid_argument(f"the accel '{kind}' is not supported by '{path}' on this host")
    return emulator, kind


def domain_capabilities(
    catalog: EmulatorCatalog,
    path: str | None,
    architecture: str | None,
    machine_name: str | None,
    virt_type: str | None,
) -> str:
    """Return what a domain may have. Blocks. Raises LibvirtError where nothing runs such a domain."""
    emulator, kind = chosen_emulator(catalog, path, architecture, virt_type)
    path = emulator.path
    machine = emulator.machine(machine_name)
    if machine is None:
        raise invalid_argument(f"the machine '{machine_name}' is not supported by emulator '{path}'")
    ours = emulator.is_ours
    children = (
        _text("path", path),
        _text("domain", kind),
        _text("machine", machine.canonical),
        _text("arch", emulator.architecture),
        Node("vcpu", (("max", str(machine.vcpus_max)),)),
        _supported("iothreads", supported="iothread" in emulator.objects),
        _os(emulator, machine.canonical, ours=ours),
        _cpu(emulator, kind),
        Node("memoryBacking", (("supported", "no" if ours else "yes"),), children=_memory_backing(ours=ours)),
        _devices(emulator, ours=ours),
        Node("features", children=_features(ours=ours)),
    )
    return format_node(Node("domainCapabilities", children=children))


def _os(emulator: Emulator, machine: str, *, ours: bool) -> Node:
    found = [] if ours else [item for item in suitable(emulator.architecture, machine) if Path(item.path).exists()]
    secure = any("requires-smm" in item.features for item in found)
    loader = (
        *(_text("value", item.path) for item in found),
        _enum("type", ("rom", *(("pflash",) if not ours else ()))),
        _enum("readonly", ("yes", "no")),
        _enum("secure", (*(("yes",) if secure else ()), "no")),
    )
    return _supported("os", _enum("firmware", ("efi",) if found else ()), _supported("loader", *loader))


def _memory_backing(*, ours: bool) -> tuple[Node, ...]:
    return () if ours else (_enum("sourceType", ("file", "anonymous", "memfd")),)


def _cpu(emulator: Emulator, kind: str) -> Node:
    names = sorted((name for name in emulator.cpu_models if name not in {"host", "max", "base"}), reverse=True)
    ours = emulator.is_ours
    models = [name for name in names if name in models_by_name or (ours and "-v" not in name)]
    migratable = _enum("hostPassthroughMigratable", ("on", "off"))
    passes_through = ours or kind == "kvm"
    return Node(
        "cpu",
        children=(
            Node(
                "mode",
                (("name", "host-passthrough"), ("supported", "yes" if passes_through else "no")),
                children=(migratable,) if passes_through else (),
            ),
            Node(
                "mode",
                (("name", "maximum"), ("supported", "yes")),
                children=(_enum("maximumMigratable", ("on", "off")),),
            ),
            Node("mode", (("name", "host-model"), ("supported", "no"))),
            Node(
                "mode",
                (("name", "custom"), ("supported", "yes" if models else "no")),
                children=tuple(
                    _text(
                        "model",
                        name,
                        ("usable", "unknown" if kind != "qemu" else "no" if name in emulator.unusable_cpus else "yes"),
                        ("vendor", (models_by_name[name].vendor if name in models_by_name else None) or "unknown"),
                    )
                    for name in models
                ),
            ),
        ),
    )


def _devices(emulator: Emulator, *, ours: bool) -> Node:
    buses = [bus for bus, device in _DISK_BUSES if emulator.has(device)]
    kinds = ["disk", "cdrom", *([] if ours else ["floppy", "lun"])]
    models = ["virtio"] if ours else ["virtio", "virtio-transitional", "virtio-non-transitional"]
    video = [name for name, device in _VIDEO if emulator.has(device)]
    displays = [] if ours else ["vnc", *(["spice"] if "spice" in emulator.options else []), "egl-headless"]
    has_rng = emulator.has("virtio-rng-pci")
    backends = [] if not has_rng else ["random", *([] if ours else ["egd", "builtin"])]
    return Node(
        "devices",
        children=(
            _supported("disk", _enum("diskDevice", kinds), _enum("bus", buses), _enum("model", models)),
            _supported("graphics", _enum("type", displays), supported=bool(displays)),
            _supported("video", _enum("modelType", [*video, "none"])),
            _supported(
                "hostdev",
                _enum("mode", ("subsystem",)),
                _enum("startupPolicy", ("default", "mandatory", "requisite", "optional")),
                _enum("subsysType", ("usb", "pci")),
                _enum("capsType", ()),
                _enum("pciBackend", ("vfio",)),
                supported=not ours,
            ),
            _supported("rng", _enum("model", models), _enum("backendModel", backends), supported=has_rng),
            _supported("filesystem", _enum("driverType", ("path",)), supported=emulator.has("virtio-9p-pci")),
            _supported("tpm", supported=False),
            *([] if ours else _channels(emulator)),
        ),
    )


def _channels(emulator: Emulator) -> list[Node]:
    types = ["pty", "unix", *(["spicevmc"] if "spice" in emulator.options else [])]
    redirected = ["usb"] if emulator.has("usb-redir") else []
    return [
        _supported("redirdev", _enum("bus", redirected), supported=bool(redirected)),
        _supported("channel", _enum("type", types)),
    ]


def _features(*, ours: bool) -> tuple[Node, ...]:
    return (
        _supported("gic", supported=False),
        _supported("vmcoreinfo", supported=not ours),
        _supported("genid", supported=not ours),
        _supported("backingStoreInput"),
        _supported("backup", supported=not ours),
        _supported("sev", supported=False),
        _supported("sgx", supported=False),
    )


def capabilities(catalog: EmulatorCatalog, host: LinuxHost) -> str:
    """Return the ``<capabilities>`` document. Blocks."""
    return format_node(Node("capabilities", children=(host_node(host), *guest_nodes(catalog))))


class EmulatedCpus:
    """What CPUs the driver's machines can have: KVM's, or what an emulator says of its own."""

    def __init__(self, catalog: EmulatorCatalog) -> None:
        self._catalog = catalog

    def guest_cpu(self, emulator: str | None, arch: str | None, machine: str | None, virt_type: str | None) -> GuestCpu:
        """Return the CPU of machines of a kind. Blocks. Raises LibvirtError."""
        found, kind = chosen_emulator(self._catalog, emulator, arch, virt_type)
        if found.machine(machine) is None:
            raise invalid_argument(f"the machine '{machine}' is not supported by emulator '{found.path}'")
        features = kvm_features() if kind == "kvm" else from_emulator(found.cpu_features)
        if not features:
            function = "virConnectCompareHypervisorCPU"
            raise LibvirtError.no_support(function, ErrorDomain.DOMAIN)
        return GuestCpu(host_cpu().vendor if kind == "kvm" else None, features, found.cpu_models)
