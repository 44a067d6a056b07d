"""`info` in the monitor for people: what the queries tell, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_pci import describe_functions
from pyhyve.machine.monitor.human_syntax import Verb
from pyhyve.machine.monitor.registers import describe_registers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.monitor.commands import MachineCommands

_INSPECT_TIMEOUT_S = 10.0
_STATISTICS = (
    "rd_bytes", "wr_bytes", "rd_operations", "wr_operations", "flush_operations", "wr_total_time_ns",
    "rd_total_time_ns", "flush_total_time_ns", "rd_merged", "wr_merged",
)  # fmt: skip


class HumanInfo:
    """Each topic gives lines without their ends. `chosen_cpu` tells which processor is meant."""

    def __init__(self, commands: MachineCommands, chosen_cpu: Callable[[], int]) -> None:
        self._commands = commands
        self._chosen_cpu = chosen_cpu
        plain: dict[str, tuple[str, Callable[[], str]]] = {
            "balloon": ("how much memory the guest makes do with", self._balloon),
            "block-jobs": ("the block jobs", self._jobs),
            "blockstats": ("what disks read and wrote", self._statistics),
            "chardev": ("the character devices", self._chardev),
            "cpus": ("the processors", self._cpus),
            "dirty_rate": ("how fast the guest writes to its memory", self._dirty_rate),
            "dump": ("how a dump stands", lambda: f"Status: {self._query('query-dump')['status']}"),
            "hotpluggable-cpus": ("the processors' places", self._places),
            "iothreads": ("the I/O threads", self._iothreads),
            "kvm": ("whether KVM runs the guest", self._kvm),
            "memdev": ("the memory backends", self._memdev),
            "memory-devices": ("the memory devices", lambda: ""),
            "memory_size_summary": ("the memory's size", self._memory_size),
            "migrate_capabilities": ("what a migration may do", self._capabilities),
            "migrate_parameters": ("how a migration goes", self._parameters),
            "mtree": ("what is at which address", self._mtree),
            "name": ("the machine's name", lambda: str(self._query("query-name").get("name", ""))),
            "network": ("the network cards", self._network),
            "pci": ("the PCI functions", self._pci),
            "qtree": ("the devices", self._qtree),
            "registers": ("the chosen processor's registers", self._registers),
            "status": ("whether the machine runs", self._status),
            "uuid": ("the machine's UUID", lambda: str(self._query("query-uuid")["UUID"])),
            "version": ("the version", self._version),
            "vm-generation-id": ("the generation ID", lambda: self._query("query-vm-generation-id")["guid"]),
        }
        self.topics = [
            Verb("block", "", "nodes:-n,verbose:-v,device:B?", "[-n] [-v] [device]", "show the disks", self._block),
            *(Verb(name, "", "", "", f"show {what}", _ignoring(run)) for name, (what, run) in plain.items()),
        ]

    def _query(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        return self._commands.execute(name, {})

    # -- the machine --------------------------------------------------------------------------------------------------

    def _status(self) -> str:
        status = self._query("query-status")["status"]
        if status == "running":
            return "VM status: running"
        return "VM status: paused" + (f" ({status})" if status != "paused" else "")

    def _version(self) -> str:
        version = self._query("query-version")
        numbers = version["qemu"]
        return f"{numbers['major']}.{numbers['minor']}.{numbers['micro']} ({version['package']})"

    def _kvm(self) -> str:
        return f"kvm support: {'enabled' if self._query('query-kvm')['enabled'] else 'disabled'}"

    def _cpus(self) -> str:
        return "\n".join(
            f"{'*' if cpu['cpu-index'] == self._chosen_cpu() else ' '} CPU #{cpu['cpu-index']}: "
            f"thread_id={cpu['thread-id']}"
            for cpu in self._query("query-cpus-fast")
        )

    def _registers(self) -> str:
        machine, index = self._commands.machine, self._chosen_cpu()
        runner = machine.parts.runners[index]
        found: list[dict[str, int]] = []
        done = machine.inspect(lambda: found.append(dict(runner.vcpu.read_registers())))
        if not done.wait(_INSPECT_TIMEOUT_S) or not found:
            msg = "the registers cannot be read"
            raise QmpError(msg)
        return f"\nCPU#{index}\n{describe_registers(found[0])}"

    def _places(self) -> str:
        lines = ["Hotpluggable CPUs:"]
        for place in self._query("query-hotpluggable-cpus"):
            lines += [f'  type: "{place["type"]}"', f'  vcpus_count: "{place["vcpus-count"]}"']
            lines += [f'  qom_path: "{place["qom-path"]}"'] if "qom-path" in place else []
            lines += ["  CPUInstance Properties:"]
            lines += [f'    {key}: "{value}"' for key, value in sorted(place["props"].items(), key=_by_size)]
        return "\n".join(lines)

    def _iothreads(self) -> str:
        lines = []
        for thread in self._query("query-iothreads"):
            lines += [f"{thread['id']}:", f"  thread_id={thread['thread-id']}"]
            lines += [f"  {key}={thread[key]}" for key in thread if key.startswith(("poll-", "aio-"))]
        return "\n".join(lines)

    # -- memory -------------------------------------------------------------------------------------------------------

    def _memory_size(self) -> str:
        size = self._query("query-memory-size-summary")
        return f"base memory: {size['base-memory']}\nplugged memory: {size.get('plugged-memory', 0)}"

    def _balloon(self) -> str:
        return f"balloon: actual={self._query('query-balloon')['actual'] >> 20}"

    def _memdev(self) -> str:
        lines = []
        for made in self._commands.inventory.hardware.objects:
            if made.kind.startswith("memory-backend-"):
                lines += [f"memory backend: {made.name}", f"  size:  {made.options['size']}"]
                for key, default in (("merge", True), ("dump", True), ("prealloc", False), ("share", False)):
                    lines.append(f"  {key}: {str(made.options.get(key, default)).lower()}")
                lines += [f"  policy: {made.options.get('policy', 'default')}", ""]
        return "\n".join(lines)

    def _mtree(self) -> str:
        lines = ["memory"]
        for region in self._commands.machine.parts.vm.memory.regions:
            kind = "rom" if region.readonly else "ram"
            last = region.gpa + region.size_bytes - 1
            lines.append(f"  {region.gpa:016x}-{last:016x} ({kind}): {region.name}")
        return "\n".join(lines)

    def _dirty_rate(self) -> str:
        rate = self._query("query-dirty-rate")
        lines = [f"Status: {rate['status']}", f"Start Time: {rate['start-time']} (ms)"]
        lines += [f"Sample Pages: {rate['sample-pages']} (per GB)", f"Period: {rate['calc-time']} (sec)"]
        shown = f"{rate['dirty-rate']} (MB/s)" if "dirty-rate" in rate else "(not ready)"
        return "\n".join([*lines, f"Mode: {rate['mode']}", f"Dirty rate: {shown}"])

    # -- migration ----------------------------------------------------------------------------------------------------

    def _capabilities(self) -> str:
        found = self._query("query-migrate-capabilities")
        return "\n".join(f"{item['capability']}: {'on' if item['state'] else 'off'}" for item in found)

    def _parameters(self) -> str:
        units = {"max-bandwidth": " bytes/second", "downtime-limit": " ms"}
        found = self._query("query-migrate-parameters")
        return "\n".join(f"{name}: {value}{units.get(name, '')}" for name, value in found.items())

    # -- devices ------------------------------------------------------------------------------------------------------

    def _chardev(self) -> str:
        return "\n".join(f"{entry['label']}: filename={entry['filename']}" for entry in self._query("query-chardev"))

    def _pci(self) -> str:
        return "\n".join(describe_functions(self._query("query-pci")[0]["devices"]))

    def _network(self) -> str:
        hardware = self._commands.inventory.hardware
        lines, shown = [], set()
        for plugged in hardware.devices:
            if plugged.model.name not in {"virtio-net-pci", "virtio-net-device"}:
                continue
            mac = plugged.device.config.mac if hasattr(plugged.device, "config") else plugged.values.get("mac", "")
            name = plugged.name or f"{plugged.model.name}.0"
            lines.append(f"{name}: index=0,type=nic,model={plugged.model.name},macaddr={_shown_mac(mac)}")
            peer = str(plugged.values.get("netdev") or "")
            if peer:
                shown.add(peer)
                lines.append(f" \\ {peer}: index=0,{_network_words(hardware.netdevs.find(peer))}")
        lines += [
            f"{netdev.name}: index=0,{_network_words(netdev)}"
            for netdev in hardware.netdevs
            if netdev.name not in shown
        ]
        return "\n".join(lines)

    def _qtree(self) -> str:
        by_bus: dict[str, list[PluggedDevice]] = {}
        for plugged in self._commands.inventory.hardware.devices:
            by_bus.setdefault(plugged.bus or "main-system-bus", []).append(plugged)
        lines = []
        for bus, members in sorted(by_bus.items()):
            lines.append(f"bus: {bus}")
            for plugged in members:
                lines.append(f'  dev: {plugged.model.name}, id "{plugged.name}"')
                for key, value in sorted(plugged.values.items()):
                    lines.append(f"    {key} = {_shown_value(value)}")
                if plugged.function is not None:
                    lines.append(f"    addr = {plugged.function.slot:02x}.{plugged.function.function:x}")
        return "\n".join(lines)

    # -- disks --------------------------------------------------------------------------------------------------------

    def _block(self, given: Mapping[str, Any]) -> str:
        wanted = given.get("device")
        lines: list[str] = []
        if given["nodes"]:
            for node in self._query("query-named-block-nodes"):
                if wanted in {None, node["node-name"]}:
                    lines += [*_describe_inserted(f"{node['node-name']}", node, given["verbose"]), ""]
            return "\n".join(lines[:-1])
        for drive in self._query("query-block"):
            if wanted not in {None, drive["device"], drive.get("inserted", {}).get("node-name")}:
                continue
            inserted = drive.get("inserted")
            if inserted is None:
                lines += [f"{drive['device'] or drive['qdev']}: [not inserted]"]
                lines += [f"    Attached to:      {drive['qdev']}"]
            else:
                name = f"{drive['device']} ({inserted['node-name']})" if drive["device"] else inserted["node-name"]
                lines += _describe_inserted(name, inserted, given["verbose"], attached=drive["qdev"])
            if drive["removable"]:
                locked = "locked" if drive["locked"] else "not locked"
                tray = "open" if drive.get("tray_open") else "closed"
                lines.append(f"    Removable device: {locked}, tray {tray}")
            lines.append("")
        return "\n".join(lines[:-1])

    def _statistics(self) -> str:
        lines = []
        for entry in self._query("query-blockstats"):
            name = entry.get("device") or entry.get("node-name", "")
            words = [f"{key}={entry['stats'].get(key, 0)}" for key in _STATISTICS]
            words += [f"idle_time_ns={entry['stats']['idle_time_ns']}"] if "idle_time_ns" in entry["stats"] else []
            lines.append(f"{name}: {' '.join(words)}")
        return "\n".join(lines)

    def _jobs(self) -> str:
        lines = []
        for job in self._query("query-block-jobs"):
            what = "Streaming device" if job["type"] == "stream" else f"Type {job['type']}, device"
            lines.append(
                f"{what} {job['device']}: Completed {job['offset']} of {job['len']} bytes, "
                f"speed limit {job['speed']} bytes/s"
            )
        return "\n".join(lines) or "No active jobs"


def _ignoring(run: Callable[[], str]) -> Callable[[Mapping[str, Any]], str]:
    return lambda _given: run()


def _by_size(item: tuple[str, Any]) -> int:
    """Sockets before dies, cores and threads."""
    order = ("node-id", "socket-id", "die-id", "core-id", "thread-id")
    return order.index(item[0]) if item[0] in order else len(order)


def _shown_mac(mac: Any) -> str:  # noqa: ANN401 - bytes, or text as it was given
    return mac.hex(":") if isinstance(mac, bytes) else str(mac)


def _shown_value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value} ({value:#x})" if isinstance(value, int) else f'"{value}"'


def _network_words(netdev: Any) -> str:  # noqa: ANN401 - its module is loaded only with a network
    if netdev is None:
        return "type=none"
    words = [f"type={netdev.options.get('type', 'tap')}"]
    words += [f"{key}={netdev.options[key]}" for key in ("ifname", "br", "listen", "connect") if key in netdev.options]
    return ",".join(words)


def _describe_inserted(name: str, node: dict[str, Any], verbose: bool, attached: str = "") -> Iterator[str]:  # noqa: FBT001 - a flag of the line
    mode = "read-only, " if node["ro"] else ""
    yield f"{name}: {node['file']} ({mode}{node['drv']})" if name else f"{node['file']} ({mode}{node['drv']})"
    if attached:
        yield f"    Attached to:      {attached}"
    cache = node.get("cache", {})
    words = ["writeback" if cache.get("writeback", True) else "writethrough"]
    words += ["direct"] if cache.get("direct") else []
    words += ["ignore flushes"] if cache.get("no-flush") else []
    yield f"    Cache mode:       {', '.join(words)}"
    if "backing_file" in node:
        yield f"    Backing file:     {node['backing_file']} (chain depth: {node['backing_file_depth']})"
    if verbose and "image" in node:
        image = node["image"]
        yield from ("", "Images:", f"image: {image['filename']}", f"file format: {image['format']}")
        yield f"virtual size: {image['virtual-size']} bytes"
        if "actual-size" in image:
            yield f"disk size: {image['actual-size']} bytes"
