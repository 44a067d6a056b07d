"""The commands on a machine: state, identity, processors, memory."""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any

from pyhyve.machine.config import MAX_CPUS
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.monitor import queries_block, queries_pci
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.introspection import describe
from pyhyve.machine.monitor.schema import SCHEMA
from pyhyve.machine.notices import ShutdownCause

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pyhyve.machine.inventory import Inventory
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.types import Schema

COMPATIBLE_VERSION = {"major": 7, "minor": 2, "micro": 0}
"""The version of QEMU whose schema ours is a part of."""
MACHINE_TYPE = "pc-i440fx-7.2"
MACHINE_ALIAS = "pc"
_SETTLE_TIMEOUT_S = 10.0


def version_info() -> dict[str, Any]:
    """What `query-version` and the greeting tell."""
    try:
        ours = metadata.version("pyhyve")
    except metadata.PackageNotFoundError:
        ours = "(not installed)"
    return {"qemu": COMPATIBLE_VERSION, "package": f"pyhyve {ours}"}


def run_state(machine: Machine) -> str:
    """The machine's `RunState`."""
    if machine.powered_off:
        return "shutdown"
    if machine.state in {MachineState.RUNNING, MachineState.RESETTING}:
        return "running"
    if machine.state is MachineState.SHUTDOWN:
        return "shutdown"
    if machine.condition:
        return machine.condition
    return "prelaunch" if machine.prelaunch else "paused"


class MachineCommands:
    """Carries out the schema's commands on one machine. Not for its control thread: some wait for it."""

    schema: Schema = SCHEMA

    def __init__(self, machine: Machine, chardevs: Callable[[], list[dict[str, Any]]]) -> None:
        """`chardevs` tells the monitor's own entries of `query-chardev`."""
        self._machine = machine
        self._chardevs = chardevs
        self._handlers: dict[str, Callable[..., Any]] = {
            name: getattr(self, f"_{name.replace('-', '_')}") for name in SCHEMA.commands if name != "qmp_capabilities"
        }

    @property
    def machine(self) -> Machine:
        """The machine."""
        return self._machine

    @property
    def inventory(self) -> Inventory:
        """What it consists of."""
        inventory = self._machine.parts.inventory
        if inventory is None:
            msg = "the machine has no inventory"
            raise QmpError(msg)
        return inventory

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Carry out a command of the schema whose arguments were checked. Raises QmpError."""
        return self._handlers[name](**{key.replace("-", "_"): value for key, value in arguments.items()})

    def _settle(self, done: threading.Event, what: str) -> None:
        if not done.wait(_SETTLE_TIMEOUT_S):
            msg = f"the machine does not {what}"
            raise QmpError(msg)

    # -- control ------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._settle(self._machine.pause(), "stop")

    def _cont(self) -> None:
        if self._machine.powered_off:
            msg = "Resetting the Virtual Machine is required"
            raise QmpError(msg)
        self._settle(self._machine.resume(), "go on")

    def _system_reset(self) -> None:
        self._settle(self._machine.reset(), "reset")

    def _system_powerdown(self) -> None:
        self._machine.power_button()

    def _quit(self) -> None:
        self._machine.request_stop(ShutdownCause.HOST_QMP_QUIT)

    def _inject_nmi(self) -> None:
        for runner in self._machine.parts.runners:
            runner.raise_nmi()

    def _set_action(self, reboot: str | None = None, shutdown: str | None = None) -> None:
        actions = self._machine.actions
        if reboot is not None:
            actions.no_reboot = reboot == "shutdown"
        if shutdown is not None:
            actions.no_shutdown = shutdown == "pause"

    def _human_monitor_command(self, command_line: str, cpu_index: int | None = None) -> str:
        from pyhyve.machine.monitor.human import HumanMonitor  # noqa: PLC0415 - few sessions use it

        human = HumanMonitor(self)
        if cpu_index is not None:
            human.select_cpu(cpu_index)
        return human.execute(command_line)

    # -- the monitor itself -------------------------------------------------------------------------------------------

    def _query_version(self) -> dict[str, Any]:
        return version_info()

    def _query_commands(self) -> list[dict[str, Any]]:
        return [{"name": name} for name in self.schema.commands]

    def _query_qmp_schema(self) -> list[dict[str, Any]]:
        return describe(self.schema)

    # -- the machine --------------------------------------------------------------------------------------------------

    def _query_status(self) -> dict[str, Any]:
        status = run_state(self._machine)
        return {"status": status, "singlestep": False, "running": status == "running"}

    def _query_name(self) -> dict[str, Any]:
        return {"name": self._machine.name} if self._machine.name else {}

    def _query_uuid(self) -> dict[str, Any]:
        return {"UUID": str(self.inventory.uuid)}

    def _query_kvm(self) -> dict[str, Any]:
        return {
            "enabled": self._machine.parts.vm.has_kernel_irqchip,
            "present": os.access("/dev/kvm", os.R_OK | os.W_OK),
        }

    def _query_target(self) -> dict[str, Any]:
        return {"arch": "x86_64"}

    def _query_current_machine(self) -> dict[str, Any]:
        return {"wakeup-suspend-support": False}

    def _query_machines(self) -> list[dict[str, Any]]:
        return [
            {
                "name": MACHINE_TYPE,
                "alias": MACHINE_ALIAS,
                "is-default": True,
                "cpu-max": MAX_CPUS,
                "hotpluggable-cpus": False,
                "numa-mem-supported": False,
                "deprecated": False,
                "default-ram-id": "pc.ram",
            }
        ]

    def _query_cpus_fast(self) -> list[dict[str, Any]]:
        return [
            {
                "cpu-index": index,
                "qom-path": f"/machine/unattached/device[{index}]",
                "thread-id": runner.thread_id,
                "props": {"socket-id": index, "core-id": 0, "thread-id": 0},
                "target": "x86_64",
            }
            for index, runner in enumerate(self._machine.parts.runners)
        ]

    def _query_memory_size_summary(self) -> dict[str, Any]:
        return {"base-memory": self.inventory.config.memory_bytes, "plugged-memory": 0}

    def _query_iothreads(self) -> list[dict[str, Any]]:
        return []

    def _query_chardev(self) -> list[dict[str, Any]]:
        console = self.inventory.config.console
        filename = {"none": "null", "file": "file", "unix": f"unix:{console.path},server=on"}.get(
            console.kind, str(console.kind)
        )
        return [*self._chardevs(), {"label": "serial0", "filename": filename, "frontend-open": True}]

    # -- devices ------------------------------------------------------------------------------------------------------

    def _query_pci(self) -> list[dict[str, Any]]:
        with self._machine.parts.lock:
            return queries_pci.describe_bus(self.inventory)

    def _query_block(self) -> list[dict[str, Any]]:
        return queries_block.describe_drives(self.inventory)

    def _query_named_block_nodes(self, *, flat: bool = False) -> list[dict[str, Any]]:
        return queries_block.describe_nodes(self.inventory, flat=flat)
