"""Where replies may differ from QEMU's, and why."""

from __future__ import annotations

from tests.conformance.qmp.comparing import Allowed

_FEWER = "pyhyve has fewer of these; docs/qemu-interface.md lists them"
_OPTIONAL = "an optional member about something that pyhyve does not have"
_HOST = "of this process, this moment or this build"
_PLACES = "QEMU counts the interrupt controller among its devices without a name"
_PCI_IDS = "virtio devices are modern ones only (1.x without the legacy interface), as with disable-legacy=on"
_PCI_UNSET = "resources are assigned before the guest starts, when no firmware runs"
_MEDIUM = "pyhyve finds a disk by its PCI device's id too, and says what is wrong with it"
_IMAGE_SIZE = "pyhyve lays its images out otherwise, and the file system counts the blocks"
_WHOLE = "pyhyve counts the whole disk, QEMU what it copies"
_NODE_RANGE = "QEMU shows the length of a file in whole sectors"

DIFFERENCES = [
    Allowed("query-version", ".package", "value", _HOST),
    Allowed("query-version", ".qemu.micro", "value", _HOST),
    Allowed("query-commands", r"\[\]", "more", _FEWER),
    Allowed("query-command-line-options", r"\[\]", "more", _FEWER),
    Allowed("query-command-line-options", r"\[\].parameters\[\]", "more", _FEWER),
    Allowed("query-command-line-options", r"\[\].parameters\[\].help", "more", "an optional text"),
    Allowed("query-machines", r"\[\]", "more", _FEWER),
    Allowed("query-machines", r"\[\].cpu-max", "value", "the emulator runs 64 vCPUs at most"),
    Allowed("query-machines", r"\[\].hotpluggable-cpus", "value", "processors cannot be added to a machine that runs"),
    Allowed("query-current-machine", ".wakeup-suspend-support", "value", "machines cannot be suspended"),
    Allowed("query-cpus-fast", r"\[\].thread-id", "value", _HOST),
    Allowed("query-cpus-fast", r"\[\].qom-path", "value", _PLACES),
    Allowed("query-hotpluggable-cpus", r"\[\].qom-path", "value", _PLACES),
    Allowed("query-hotpluggable-cpus", r"\[\].type", "value", "the default processor is all that the engine can do"),
    Allowed("query-iothreads", r"\[\].thread-id", "value", _HOST),
    Allowed("query-cpu-definitions", r"\[\]", "less", "levels of the psABI are models of pyhyve's own"),
    Allowed("query-cpu-definitions", r"\[\]", "more", _FEWER),
    Allowed("query-cpu-definitions", r"\[\].alias-of", "more", "pyhyve has one version of each model"),
    Allowed("query-tpm-models", r"\[\]", "more", "there is no TPM"),
    Allowed("query-tpm-types", r"\[\]", "more", "there is no TPM"),
    Allowed("query-dump-guest-memory-capability", r".formats\[\]", "more", "dumps are ELF files"),
    Allowed("dump-guest-memory", ".desc", "value", "dumps are ELF files: other formats are unknown values",
            {"paging": True, "protocol": "file:dump", "format": "kdump-zlib"}),
    Allowed("query-dump", ".(completed|total)", "value", "QEMU dumps the areas of its firmware and option ROMs too"),
    Allowed("qom-list-types", r"\[\]", "more", _FEWER),
    Allowed("qom-list-properties", r"\[\]", "more", "`opened` of rng backends is of no use, and deprecated"),
    Allowed("qom-list", r"\[\]", "more", "the machine's own memory is not an object"),
    Allowed("device-list-properties", r"\[\]", "more", _FEWER),
    Allowed("device-list-properties", r"\[\].default-value", "more", "no limit is set; the engine chooses `packed`"),
    Allowed("query-pci", r"\[\].devices\[\]", "more", "no IDE controller; power management is no function"),
    Allowed("query-pci", r"\[\].devices\[\].id.device", "value", _PCI_IDS),
    Allowed("query-pci", r"\[\].devices\[\].id.subsystem(-vendor)?", "value", "a name of QEMU's makers"),
    Allowed("query-pci", r"\[\].devices\[\].irq", "value", _PCI_UNSET),
    Allowed("query-pci", r"\[\].devices\[\].regions\[\].address", "value", _PCI_UNSET),
    Allowed("query-pci", r"\[\].devices\[\].regions\[\].*", "value", _PCI_IDS),
    Allowed("query-pci", r"\[\].devices\[\].regions\[\].*", "less", _PCI_IDS),
    Allowed("query-pci", r"\[\].devices\[\].regions\[\]", "more", _PCI_IDS),
    Allowed("query-rx-filter", r"\[\].broadcast-allowed", "value", "QEMU 7.2 tells the opposite"),
    Allowed("query-rx-filter", r"\[\].main-mac", "value", "pyhyve draws addresses: machines have different ones"),
    Allowed("query-rx-filter", r"\[\].vlan(-table)?", "more", "cards do not filter by VLAN"),
    Allowed("query-chardev-backends", r"\[\]", "more", _FEWER),
    Allowed("query-blockstats", r"\[\](.parent)?.driver-specific", "more", _OPTIONAL),
    Allowed("query-named-block-nodes", r"\[\].ro", "value", "an image below an overlay stays open as it was"),
    Allowed("query-block-jobs", r"\[\].(busy|offset)", "value", "how far a job has come", by_chance=True),
    Allowed("query-named-block-nodes", r"\[\].image.virtual-size", "value", _NODE_RANGE),
    Allowed("query-named-block-nodes", r"\[\].image.actual-size", "value", _IMAGE_SIZE, by_chance=True),
    Allowed("blockdev-change-medium", ".desc", "value", _MEDIUM, {"id": "vd0", "filename": "disc.raw"}),
    Allowed("eject", ".desc", "value", _MEDIUM, {"id": "vd0"}),
    Allowed("blockdev-snapshot-delete-internal-sync", ".(date|vm-clock)-n?sec", "value", _HOST),
    Allowed("human-monitor-command", "", "value", "size, date and clock", {"command-line": "info snapshots"}),
    Allowed("query-jobs", r"\[\].(current|total)-progress", "value", _WHOLE),
    Allowed("query-block", r"\[\].inserted.image(.backing-image)?.actual-size", "value", _IMAGE_SIZE, by_chance=True),
    Allowed("query-migrate", ".(status|ram|downtime|setup-time|total-time)", "more", "a snapshot is no migration"),
    Allowed("query-migrate-capabilities", r"\[\]", "more", _FEWER),
    Allowed("query-migrate-parameters", ".*", "more", _OPTIONAL),
    Allowed("migrate", ".(class|desc)", "less", "a stream that cannot be opened is refused at once",
            {"uri": "unix:missing/socket"}),
    Allowed("object-del", ".(class|desc)", "less", "what a device uses stays", {"id": "rng0"}),
]  # fmt: skip
EVENT_DIFFERENCES = {
    "NIC_RX_FILTER_CHANGED": "an event that pyhyve does not have",
    "RTC_CHANGE": "QEMU tells of the clock's first setting",
    "VSERPORT_CHANGE": "QEMU tells that ports are closed when the guest starts",
    "MIGRATION": "a stream that cannot be opened is refused at once, so there are fewer states",
}
