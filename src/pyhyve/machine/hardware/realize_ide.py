"""How IDE drives are made and connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.devices.ide.cdrom import AtapiCdrom
from pyhyve.devices.ide.disk import AtaDisk, DiskOptions
from pyhyve.devices.ide.work import DriveWork
from pyhyve.machine.block.attach import Attachment, backend_on
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.hardware.realize import attach_disc_drive, claim_node, error_policy

if TYPE_CHECKING:
    from pyhyve.devices.error_policy import Failure
    from pyhyve.devices.ide.drive import Drive
    from pyhyve.machine.hardware.devices import PluggedDevice
    from pyhyve.machine.hardware.hardware import Hardware

_UNITS = 2
_DEFAULT_MODEL = "PYHYVE HARDDISK"


def add_drive(hardware: Hardware, plugged: PluggedDevice) -> None:
    """`ide-hd` and `ide-cd`. Raises ChangeError."""
    channel = hardware.need_ide().channels[plugged.bus == "ide.1"]
    unit = plugged.values.get("unit")
    if unit is None:
        unit = next((number for number in range(_UNITS) if channel.drives[number] is None), _UNITS)
    if not 0 <= unit < _UNITS:
        msg = f"Can't create IDE unit {unit}, bus supports only {_UNITS} units"
        raise ChangeError(msg)
    if channel.drives[unit] is not None:
        msg = f"IDE unit {unit} is in use"
        raise ChangeError(msg)
    make = _disk if plugged.model.name == "ide-hd" else _cdrom
    drive = make(hardware, plugged)
    plugged.undo.append(drive.close)
    with hardware.lock:
        channel.add(unit, drive)
    plugged.values["unit"] = unit


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
