"""All commands on a machine, put together from one group for each area."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyhyve.machine.block.errors import ChangeError, ChangeKind
from pyhyve.machine.monitor.commands_block import BlockCommands
from pyhyve.machine.monitor.commands_chardev import ChardevCommands
from pyhyve.machine.monitor.commands_control import ControlCommands
from pyhyve.machine.monitor.commands_device import DeviceCommands
from pyhyve.machine.monitor.commands_job import JobCommands
from pyhyve.machine.monitor.commands_machine import MachineStateCommands
from pyhyve.machine.monitor.commands_migration import MigrationCommands
from pyhyve.machine.monitor.commands_qom import QomCommands
from pyhyve.machine.monitor.commands_ui import UiCommands
from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.schema import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.machine.block.services import BlockServices
    from pyhyve.machine.inventory import Inventory
    from pyhyve.machine.machine import Machine
    from pyhyve.machine.monitor.types import Schema

_CLASSES = {
    ChangeKind.GENERIC: ErrorClass.GENERIC,
    ChangeKind.NOT_FOUND: ErrorClass.DEVICE_NOT_FOUND,
    ChangeKind.NOT_ACTIVE: ErrorClass.DEVICE_NOT_ACTIVE,
}
_NEGOTIATE = "qmp_capabilities"


class MachineCommands:
    """Carries out the schema's commands on one machine. Not for its control thread: some wait for it."""

    schema: Schema = SCHEMA

    def __init__(self, machine: Machine) -> None:
        """The machine must have been built."""
        self._machine = machine
        self._block_services: BlockServices | None = None
        groups: list[Any] = [
            ControlCommands(self),
            MachineStateCommands(self),
            QomCommands(self),
            DeviceCommands(self),
            ChardevCommands(self),
            BlockCommands(self),
            JobCommands(self),
            MigrationCommands(self),
            UiCommands(self),
        ]
        self._handlers: dict[str, Callable[..., Any]] = {}
        for name in SCHEMA.commands:
            if name == _NEGOTIATE:
                continue
            method = name.replace("-", "_")
            owner = next(group for group in groups if hasattr(group, method))
            self._handlers[name] = getattr(owner, method)

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

    @property
    def block_services(self) -> BlockServices:
        """The machine's block jobs and what they work with; made when first needed."""
        if self._block_services is None:
            from pyhyve.machine.block.services import BlockServices  # noqa: PLC0415 - most machines never need it

            self._block_services = BlockServices(self.inventory.hardware)
        return self._block_services

    def execute(self, name: str, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Carry out a command of the schema whose arguments were checked. Raises QmpError."""
        command = self.schema.commands[name]
        handler = self._handlers[name]
        try:
            if command.boxed or command.is_open:
                return handler(arguments)
            return handler(**{key.replace("-", "_"): value for key, value in arguments.items()})
        except ChangeError as error:
            raise QmpError(str(error), _CLASSES[error.kind]) from error
