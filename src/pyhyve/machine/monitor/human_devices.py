"""Devices, objects, networks and characters in the monitor for people."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pyhyve.image.opening import CACHE_MODES
from pyhyve.machine.monitor.chardev_options import parse_chardev, parse_chardev_backend
from pyhyve.machine.monitor.errors import QmpError
from pyhyve.machine.monitor.human_commands import HumanCommands
from pyhyve.machine.monitor.human_syntax import LineError, Verb
from pyhyve.machine.monitor.keyval import parse_keyval, parse_struct
from pyhyve.machine.monitor.properties import parse_properties
from pyhyve.machine.monitor.validation import check_command
from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyhyve.machine.monitor.commands import MachineCommands


_MAX_DIGITS = 19


def plain_error(error: InputError, option: str) -> QmpError:
    """An error of an option's value, without the option in front."""
    return QmpError(str(error).removeprefix(f"{option}: "))


class HumanDevices(HumanCommands):
    """What comes and goes while the machine is there."""

    def __init__(self, commands: MachineCommands) -> None:
        super().__init__(commands)
        run = self._run
        self.verbs = [
            Verb("device_add", "", "device:S?", "driver[,prop=value][,...]", "add a device", self._device_add),
            Verb("device_del", "", "id:s", "device", "remove a device", run("device_del", id="id")),
            Verb("object_add", "", "object:S", "[qom-type=]type,id=str[,prop=value][,...]", "make an object",
                 lambda given: self._add("object-add", "ObjectOptions", given["object"], "qom-type")),
            Verb("object_del", "", "id:s", "id", "remove an object", run("object-del", id="id")),
            Verb("netdev_add", "", "netdev:S", "[user|tap|bridge|...],id=str[,prop=value][,...]", "add a network",
                 lambda given: self._add("netdev_add", "Netdev", given["netdev"], "type")),
            Verb("netdev_del", "", "id:s", "id", "remove a network", run("netdev_del", id="id")),
            Verb("set_link", "", "name:s,up:b", "name on|off", "plug in a card's cable, or pull it",
                 run("set_link", name="name", up="up")),
            Verb("chardev-add", "", "args:S", "args", "add a character device", self._chardev_add),
            Verb("chardev-change", "", "id:s,args:S", "id args", "put another behind a name", self._chardev_change),
            Verb("chardev-remove", "", "id:s", "id", "remove a character device", run("chardev-remove", id="id")),
            Verb("chardev-send-break", "", "id:s", "id", "send a break", run("chardev-send-break", id="id")),
            Verb("ringbuf_read", "", "device:s,size:i", "device size", "take what is in a ring", self._ring_read),
            Verb("ringbuf_write", "", "device:s,data:s", "device data", "put something into a ring",
                 run("ringbuf-write", device="device", data="data")),
            Verb("closefd", "", "fdname:s", "name", "close a passed descriptor",
                 run("closefd", fdname="fdname")),
            Verb("drive_add", "", "flag:-n,place:s,options:S", "[-n] [[<domain>:]<bus>:]<slot> file=file,if=none,id=id",
                 "add a drive for a device", self._drive_add),
            Verb("drive_del", "", "id:B", "device", "remove a drive that no device uses", self._drive_del),
            Verb("qom-list", "", "path:s?", "path", "list the properties of an object", self._qom_list),
            Verb("qom-get", "", "path:s,property:s", "path property", "show a property", self._qom_get),
            Verb("qom-set", "", "json:-j,path:s,property:s,value:S", "[-j] path property value",
                 "set a property (-j: the value is JSON)", self._qom_set),
        ]  # fmt: skip

    def _run(self, name: str, /, **members: str) -> Any:  # noqa: ANN401 - a function of a Verb
        def carry_out(given: Mapping[str, Any]) -> str:
            return self._do(name, **{member: given[key] for member, key in members.items()})

        return carry_out

    def _device_add(self, given: Mapping[str, Any]) -> str:
        try:
            arguments = parse_keyval("device_add", given.get("device", ""), "driver") if given else {}
        except InputError as error:
            raise plain_error(error, "device_add") from error
        check_command(self._commands.schema, self._commands.schema.commands["device_add"], arguments)
        self._commands.execute("device_add", arguments)
        return ""

    def _add(self, command: str, struct: str, text: str, implied: str) -> str:
        try:
            arguments = parse_struct(command, text, struct, implied)
        except InputError as error:
            raise plain_error(error, command) from error
        self._commands.execute(command, arguments)
        return ""

    # -- characters ---------------------------------------------------------------------------------------------------

    def _chardev_add(self, given: Mapping[str, Any]) -> str:
        try:
            name, backend = parse_chardev(given["args"])
        except InputError as error:
            raise plain_error(error, "-chardev") from error
        return self._shown_pty(name, self._commands.execute("chardev-add", {"id": name, "backend": backend}))

    def _chardev_change(self, given: Mapping[str, Any]) -> str:
        try:
            backend = parse_chardev_backend(given["args"])
        except InputError as error:
            raise plain_error(error, "-chardev") from error
        name = given["id"]
        return self._shown_pty(name, self._commands.execute("chardev-change", {"id": name, "backend": backend}))

    @staticmethod
    def _shown_pty(name: str, answer: Mapping[str, str]) -> str:
        return f"char device redirected to {answer['pty']} (label {name})\n" if "pty" in answer else ""

    def _ring_read(self, given: Mapping[str, Any]) -> str:
        text = str(self._commands.execute("ringbuf-read", {"device": given["device"], "size": given["size"]}))
        return "".join(map(_shown_letter, text)) + "\n"

    # -- drives -------------------------------------------------------------------------------------------------------

    def _drive_add(self, given: Mapping[str, Any]) -> str:
        hardware = self._commands.inventory.hardware
        try:
            options = parse_properties("drive_add", given["options"])
            if options.take("if") != "none":
                msg = "drive_add: only if=none is supported"
                raise LineError(msg)
            name, path, format_name = options.need("id"), options.need("file"), options.take("format")
            readonly = options.switch("readonly", default=False) or options.switch("read-only", default=False)
            cache = options.take("cache") or "writeback"
            if cache not in CACHE_MODES:
                msg = "drive_add: invalid cache option"
                raise LineError(msg)
            options.only("media", "disk")
            options.finish()
        except InputError as error:
            raise LineError(str(error)) from error
        hardware.add_drive_file(name, path, format_name, readonly=readonly, cache=cache)
        return "OK\n"

    def _drive_del(self, given: Mapping[str, Any]) -> str:
        self._commands.inventory.hardware.remove_drive(given["id"])
        return ""

    # -- objects' properties ------------------------------------------------------------------------------------------

    def _qom_list(self, given: Mapping[str, Any]) -> str:
        if "path" not in given:
            return "/\n"
        found = self._commands.execute("qom-list", {"path": given["path"]})
        return "".join(f"{item['name']} ({item['type']})\n" for item in found)

    def _qom_get(self, given: Mapping[str, Any]) -> str:
        value = self._commands.execute("qom-get", {"path": given["path"], "property": given["property"]})
        return json.dumps(value, indent=4) + "\n"

    def _qom_set(self, given: Mapping[str, Any]) -> str:
        value: Any = given["value"]
        if given["json"]:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                msg = f"JSON parse error, {str(error)[:100]}"
                raise QmpError(msg) from error
        elif value in {"on", "off"}:
            value = value == "on"
        elif value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS:
            value = int(value)
        self._commands.execute("qom-set", {"path": given["path"], "property": given["property"], "value": value})
        return ""


def _shown_letter(letter: str) -> str:
    """As QEMU shows what is in a ring."""
    if letter == "\\":
        return "\\\\"
    is_control = (letter < " " and letter not in "\n\t") or letter == "\x7f"
    return f"\\x{ord(letter):02X}" if is_control else letter
