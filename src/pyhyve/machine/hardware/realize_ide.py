"""How IDE drives are made and connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.ide.cdrom import AtapiCdrom
from pyhyve.devices.ide.disk import AtaDisk, DiskOptions
from pyhyve.devices.ide.work import DriveWork
from pyhyve.machine.block.attach import Attachment, backend_on
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.hardware.realize import attach_disc_drive, attach_function, claim_node, error_policy

if TYPE_CHECKING:
    from pyhyve.devices.error_policy import Failure
    from pyhyve.devices.ide.drive import Drive
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware

_DEFAULT_MODEL = "PYHYVE HARDDISK"


def add_drive(hardware: Hardware, plugged: PluggedDevice) -> None:
    """`ide-hd` and `ide-cd`. Raises ChangeError."""
    controller, bus = hardware.ide_bus(plugged.bus)
    units = controller.units(bus)
    unit = plugged.values.get("unit")
    if unit is None:
        unit = units.index(None) if None in units else len(units)
    if not 0 <= unit < len(units):
        msg = f"Can't create IDE unit {unit}, bus supports only {len(units)} units"
        raise ChangeError(msg)
    if units[unit] is not None:
        msg = f"IDE unit {unit} is in use"
        raise ChangeError(msg)
    make = _disk if plugged.model.name == "ide-hd" else _cdrom
    drive = make(hardware, plugged)
    plugged.undo.append(drive.close)
    with hardware.lock:
        controller.connect(bus, unit, drive)
    plugged.values["unit"] = unit


def add_ahci(hardware: Hardware, plugged: PluggedDevice) -> None:
    """`ich9-ahci`: one more SATA controller. Raises ChangeError."""
    from pyhyve.devices.ahci.controller import Ich9Ahci  # noqa: PLC0415 - few machines have a second one

    plugged.device = Ich9Ahci(hardware.memory, hardware.lock, name=plugged.name or "SATA")
    attach_function(hardware, plugged, plugged.device)


def _work(hardware: Hardware, plugged: PluggedDevice) -> DriveWork:
    return DriveWork(hardware.lock, plugged.name or "ide")


def _disk(hardware: Hardware, plugged: PluggedDevice) -> Drive:
    values = plugged.values
    node, drive_name = claim_node(hardware, plugged)
    options = DiskOptions(
        serial=str(values.get("serial", hardware.drive_serial(drive_name))),
        model=str(values.get("model", _DEFAULT_MODEL)),
        read_errors=error_policy(plugged, "rerror"),
        write_errors=error_policy(plugged, "werror"),
    )

    def failed(failure: Failure) -> None:
        hardware.io.call_soon(lambda: hardware.io_error(plugged, failure))

    disk = AtaDisk(_work(hardware, plugged), backend_on(node), options, on_failure=failed)
    attachment = Attachment(hardware.blocks, disk, node, name=drive_name, device_id=plugged.name, path=plugged.path)
    plugged.undo.append(attachment.detach)
    plugged.attachment, plugged.device = attachment, disk
    return disk


def _cdrom(hardware: Hardware, plugged: PluggedDevice) -> Drive:
    return AtapiCdrom(_work(hardware, plugged), attach_disc_drive(hardware, plugged))
