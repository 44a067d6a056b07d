"""Commands on the machine as a whole: its state, identity, processors and memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pyhyve.machine.config import MAX_CPUS, CpuTopology
from pyhyve.machine.lifecycle import MachineState
from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.group import CommandGroup
from pyhyve.machine.monitor.versions import (
    MACHINE_ALIAS,
    MACHINE_TYPE,
    MICROVM_MACHINE,
    NONE_MACHINE,
    Q35_ALIAS,
    Q35_MACHINE,
)

if TYPE_CHECKING:
    import threading

    from pyhyve.machine.machine import Machine

_SETTLE_TIMEOUT_S = 10.0


def run_state(machine: Machine) -> str:
    """The machine's `RunState`."""
    if machine.powered_off:
        return "shutdown"
    if machine.awaits_state:
        return "inmigrate"
    if machine.state in {MachineState.RUNNING, MachineState.RESETTING}:
        return "running"
    if machine.state is MachineState.SHUTDOWN:
        return "shutdown"
    if machine.condition:
        return machine.condition
    return "prelaunch" if machine.prelaunch else "paused"


class MachineStateCommands(CommandGroup):
    """State, identity, processors, memory."""

    def _settle(self, done: threading.Event, what: str) -> None:
        if not done.wait(_SETTLE_TIMEOUT_S):
            msg = f"the machine does not {what}"
            raise QmpError(msg)

    # -- control ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop the processors."""
        self._settle(self.machine.pause(), "stop")

    def cont(self) -> None:
        """Let them go on."""
        if self.machine.powered_off:
            msg = "Resetting the Virtual Machine is required"
            raise QmpError(msg)
        if not self.machine.awaits_state and self.hardware.has_blocks and self.hardware.blocks.inactive:
            from pyhyve.machine.block.handover import take_disks  # noqa: PLC0415 - few machines are sent and come back

            take_disks(self.machine)
        self._settle(self.machine.resume(), "go on")

    def system_reset(self) -> None:
        """Press the reset button."""
        self._settle(self.machine.reset(), "reset")

    def system_powerdown(self) -> None:
        """Press the power button."""
        self.machine.power_button()

    def inject_nmi(self) -> None:
        """Interrupt every processor."""
        for runner in self.machine.parts.runners:
            runner.raise_nmi()

    def set_action(self, reboot: str | None = None, shutdown: str | None = None) -> None:
        """Say what a reset or a power-off of the guest does."""
        actions = self.machine.actions
        if reboot is not None:
            actions.no_reboot = reboot == "shutdown"
        if shutdown is not None:
            actions.no_shutdown = shutdown == "pause"

    def rtc_reset_reinjection(self) -> None:
        """Forget periodic interrupts that the guest missed: none are kept."""

    # -- identity -----------------------------------------------------------------------------------------------------

    def query_status(self) -> dict[str, Any]:
        """Whether it runs."""
        status = run_state(self.machine)
        return {"status": status, "singlestep": False, "running": status == "running"}

    def query_name(self) -> dict[str, Any]:
        """Its name."""
        return {"name": self.machine.name} if self.machine.name else {}

    def query_uuid(self) -> dict[str, Any]:
        """Its UUID."""
        return {"UUID": str(self.inventory.uuid)}

    def query_vm_generation_id(self) -> dict[str, Any]:
        """What its VM generation ID device shows."""
        device = self.hardware.generation_id
        if device is None:
            msg = "VM Generation ID device not found"
            raise QmpError(msg)
        from uuid import UUID  # noqa: PLC0415 - few clients ask

        return {"guid": str(UUID(bytes=device.identifier))}

    def query_kvm(self) -> dict[str, Any]:
        """Whether KVM runs the guest."""
        return {
            "enabled": self.machine.parts.vm.has_kernel_irqchip,
            "present": os.access("/dev/kvm", os.R_OK | os.W_OK),
        }

    def query_target(self) -> dict[str, Any]:
        """The guest's architecture."""
        return {"arch": "x86_64"}

    def query_current_machine(self) -> dict[str, Any]:
        """What this machine can do: it never sleeps."""
        return {"wakeup-suspend-support": False}

    def query_machines(self) -> list[dict[str, Any]]:
        """Machine types."""
        common = {"hotpluggable-cpus": False, "numa-mem-supported": False, "deprecated": False}
        pc = {"cpu-max": MAX_CPUS, "default-cpu-type": "qemu64-x86_64-cpu", "default-ram-id": "pc.ram", **common}
        return [
            {"name": NONE_MACHINE, "cpu-max": 1, "default-ram-id": "ram", **common},
            {"name": MACHINE_TYPE, "alias": MACHINE_ALIAS, "is-default": True, **pc},
            {"name": Q35_MACHINE, "alias": Q35_ALIAS, **pc},
            {
                "name": MICROVM_MACHINE,
                "cpu-max": MAX_CPUS,
                "default-cpu-type": "qemu64-x86_64-cpu",
                "default-ram-id": "microvm.ram",
                **common,
            },
        ]

    # -- processors ---------------------------------------------------------------------------------------------------

    def _places(self) -> list[dict[str, Any]]:
        config = self.inventory.config
        topology = config.topology or CpuTopology(cores=config.cpus)
        places = []
        for index in range(config.cpus):
            socket, die, core, thread = topology.place(index)
            place = {"socket-id": socket, "core-id": core, "thread-id": thread}
            if topology.dies > 1:
                place["die-id"] = die
            places.append(place)
        return places

    def query_cpus_fast(self) -> list[dict[str, Any]]:
        """The processors and their threads."""
        self.machine.started.wait(_SETTLE_TIMEOUT_S)
        places = self._places()
        return [
            {
                "cpu-index": index,
                "qom-path": f"/machine/unattached/device[{index}]",
                "thread-id": runner.thread_id,
                "props": places[index],
                "target": "x86_64",
            }
            for index, runner in enumerate(self.machine.parts.runners)
        ]

    def query_hotpluggable_cpus(self) -> list[dict[str, Any]]:
        """Places of processors; all are taken."""
        kind = f"{self.inventory.config.cpu.name}-x86_64-cpu"
        places = self._places()
        return [
            {
                "props": places[index],
                "vcpus-count": 1,
                "qom-path": f"/machine/unattached/device[{index}]",
                "type": kind,
            }
            for index in reversed(range(len(places)))
        ]

    def query_cpu_definitions(self) -> list[dict[str, Any]]:
        """Processor models."""
        from pyhyve.machine.monitor import cpu_models  # noqa: PLC0415 - few clients ask

        return cpu_models.describe(has_kvm=self.machine.parts.vm.has_kernel_irqchip)

    def query_cpu_model_expansion(self, type: str, model: dict[str, Any]) -> dict[str, Any]:  # noqa: A002 - QEMU's name
        """The features of a processor model."""
        from pyhyve.machine.monitor import cpu_models  # noqa: PLC0415 - few clients ask

        vm = self.machine.parts.vm
        return {"model": cpu_models.expand(model, full=type == "full", has_kvm=vm.has_kernel_irqchip)}

    def query_stats_schemas(self, provider: str | None = None) -> list[dict[str, Any]]:
        """What KVM counts."""
        from pyhyve.machine.monitor import queries_stats  # noqa: PLC0415 - few clients ask

        return queries_stats.describe_schemas(self.machine, provider)

    def query_stats(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        """What it has counted."""
        from pyhyve.machine.monitor import queries_stats  # noqa: PLC0415 - few clients ask

        return queries_stats.describe_values(self.machine, arguments)

    # -- memory -------------------------------------------------------------------------------------------------------

    def query_memory_size_summary(self) -> dict[str, Any]:
        """How much there is."""
        return {"base-memory": self.inventory.config.memory_bytes, "plugged-memory": 0}

    def query_memory_devices(self) -> list[dict[str, Any]]:
        """Memory that can be unplugged: none."""
        return []

    def query_iothreads(self) -> list[dict[str, Any]]:
        """I/O threads by name; polling is not done."""
        return [
            {
                "id": made.name,
                "thread-id": made.value.thread_id,
                "poll-max-ns": made.options.get("poll-max-ns", 32768),
                "poll-grow": made.options.get("poll-grow", 0),
                "poll-shrink": made.options.get("poll-shrink", 0),
                "aio-max-batch": 0,
            }
            for made in self.hardware.objects
            if made.kind == "iothread"
        ]

    def balloon(self, value: int) -> None:
        """Have the guest use `value` bytes."""
        if value <= 0:
            msg = "Parameter 'target' expects a size"
            raise QmpError(msg)
        device = self._balloon()
        device.set_target(max(0, self.inventory.config.memory_bytes - value))

    def query_balloon(self) -> dict[str, Any]:
        """How much the guest uses."""
        return {"actual": self.inventory.config.memory_bytes - self._balloon().actual_bytes}

    def _balloon(self) -> Any:  # noqa: ANN401 - loaded only with a balloon
        plugged = self.hardware.balloon
        if plugged is None:
            msg = "No balloon device has been activated"
            raise QmpError(msg, ErrorClass.DEVICE_NOT_ACTIVE)
        return plugged.device

    # -- dumps --------------------------------------------------------------------------------------------------------

    def dump_guest_memory(self, **arguments: Any) -> None:  # noqa: ANN401 - checked arguments
        """Write the guest's memory into a file."""
        from pyhyve.machine.monitor import dump  # noqa: PLC0415 - rarely done

        dump.start(self.machine, self.hardware, **arguments)

    def query_dump(self) -> dict[str, Any]:
        """How far a dump got."""
        from pyhyve.machine.monitor import dump  # noqa: PLC0415 - rarely done

        return dump.describe(self.machine)

    def query_dump_guest_memory_capability(self) -> dict[str, Any]:
        """Formats of dumps."""
        return {"formats": ["elf"]}

    def pmemsave(self, val: int, size: int, filename: str) -> None:
        """Write a range of guest physical memory into a file."""
        from pyhyve.machine.monitor import dump  # noqa: PLC0415 - rarely done

        dump.save_physical(self.machine, val, size, filename)

    def memsave(self, val: int, size: int, filename: str, cpu_index: int = 0) -> None:
        """Write a range of memory into a file, as a processor sees it."""
        from pyhyve.machine.monitor import dump  # noqa: PLC0415 - rarely done

        dump.save_virtual(self.machine, val, size, filename, cpu_index)

    def query_tpm_models(self) -> list[str]:
        """There is no TPM."""
        return []

    def query_tpm_types(self) -> list[str]:
        """There is no TPM."""
        return []
