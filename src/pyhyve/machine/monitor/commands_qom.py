"""Commands on QEMU's object model: the types there are, and the tree of what this machine is made of."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pyhyve.machine.hardware.models import MODELS, MODERN_NAMES, convert, describe_properties, find_model
from pyhyve.machine.monitor import qom_types
from pyhyve.machine.monitor.errors import ErrorClass, QmpError
from pyhyve.machine.monitor.group import CommandGroup
from pyhyve.machine.monitor.versions import machine_type

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pyhyve.machine.hardware.devices import PluggedDevice

_CONTAINER = "container"
_POLLING = "guest-stats-polling-interval"


class QomCommands(CommandGroup):
    """Types and the tree. Paths are absolute."""

    # -- types --------------------------------------------------------------------------------------------------------

    def qom_list_types(self, implements: str | None = None, abstract: bool = False) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002 - QEMU's names
        """The types, or those that are a kind of `implements`."""
        return [
            {"name": entry.name, "parent": entry.parent, **({"abstract": True} if entry.is_abstract else {})}
            for entry in qom_types.TYPES.values()
            if (abstract or not entry.is_abstract) and (implements is None or qom_types.is_a(entry.name, implements))
        ]

    def device_list_properties(self, typename: str) -> list[dict[str, Any]]:
        """Properties of a device."""
        typename = MODERN_NAMES.get(typename, typename)
        if typename in qom_types.BOARD_DEVICES:
            return [{"name": name, "type": kind} for name, kind in qom_types.TYPES[typename].properties.items()]
        if typename not in MODELS:
            known = typename in qom_types.TYPES
            msg = (
                "Parameter 'typename' expects a non-abstract device type" if known else f"Device '{typename}' not found"
            )
            raise QmpError(msg, ErrorClass.GENERIC if known else ErrorClass.DEVICE_NOT_FOUND)
        return describe_properties(MODELS[typename])

    def qom_list_properties(self, typename: str) -> list[dict[str, Any]]:
        """Properties of any type."""
        entry = qom_types.TYPES.get(typename)
        if entry is None:
            msg = f"Class '{typename}' not found"
            raise QmpError(msg, ErrorClass.DEVICE_NOT_FOUND)
        typename = MODERN_NAMES.get(typename, typename)
        if typename in MODELS:
            return [{"name": "type", "type": "string"}, *describe_properties(MODELS[typename])]
        found = [{"name": "type", "type": "string"}]
        if typename.endswith("-x86_64-cpu"):
            from pyhyve.machine.monitor import cpu_models  # noqa: PLC0415 - few clients ask

            found += [{"name": name, "type": "bool"} for name in cpu_models.FEATURE_NAMES]
        found += [{"name": name, "type": kind} for name, kind in entry.properties.items()]
        return found

    # -- the tree -----------------------------------------------------------------------------------------------------

    def _children(self, path: str) -> dict[str, str] | None:
        """Names and types of what is below a container; None when `path` is none."""
        devices = list(self.hardware.devices)
        match path:
            case "/":
                return {
                    "machine": f"{machine_type(self.inventory.config)}-machine",
                    "objects": _CONTAINER,
                    "chardevs": _CONTAINER,
                }
            case "/machine":
                return {"peripheral": _CONTAINER, "peripheral-anon": _CONTAINER, "unattached": _CONTAINER}
            case "/machine/peripheral":
                return {plugged.name: plugged.model.name for plugged in devices if plugged.name}
            case "/machine/peripheral-anon":
                return {plugged.path.rpartition("/")[2]: plugged.model.name for plugged in devices if not plugged.name}
            case "/machine/unattached":
                kind = f"{self.inventory.config.cpu.name}-x86_64-cpu"
                return {f"device[{index}]": kind for index in range(self.inventory.config.cpus)}
            case "/objects":
                return {made.name: made.kind for made in self.hardware.objects}
            case "/chardevs":
                return {entry.label: f"chardev-{entry.kind}" for entry in self.hardware.chardevs}
            case _:
                return None

    def _properties(self, path: str) -> dict[str, tuple[str, Callable[[], Any]]]:
        """Properties of what is at `path`: type and how to get the value. Raises QmpError."""
        children = self._children(path)
        if children is not None:
            return self._container_properties(path)
        parent, _, name = path.rpartition("/")
        siblings = self._children(parent or "/")
        plugged = self.hardware.devices.find(path)
        if plugged is not None:
            return self._device_properties(plugged)
        if parent.startswith("/machine/peripheral") and name == "virtio-backend":
            owner = self.hardware.devices.find(parent)
            if owner is not None and owner.model.name.startswith("virtio-"):
                return self._device_properties(owner)
        if siblings is None or name not in siblings:
            msg = f"Device '{path}' not found"
            raise QmpError(msg, ErrorClass.DEVICE_NOT_FOUND)
        properties: dict[str, tuple[str, Callable[[], Any]]] = {"type": ("string", lambda: siblings[name])}
        if parent == "/machine/unattached":
            properties |= self._cpu_properties(int(name.removeprefix("device[").removesuffix("]")))
        elif parent == "/objects":
            made = self.hardware.objects.find(name)
            if made is not None:
                options = {key: value for key, value in made.options.items() if key not in {"qom-type", "id", "data"}}
                properties |= _constants(options)
        return properties

    def _container_properties(self, path: str) -> dict[str, tuple[str, Callable[[], Any]]]:
        config = self.inventory.config
        if path != "/machine":
            return {"type": ("string", lambda: _CONTAINER)}
        values: dict[str, Any] = {
            "type": f"{machine_type(config)}-machine",
            "kernel": "" if config.kernel is None else str(config.kernel),
            "initrd": "" if config.initrd is None else str(config.initrd),
            "append": config.append,
            "graphics": False,
            "usb": False,
        }
        return _constants(values)

    def _cpu_properties(self, index: int) -> dict[str, tuple[str, Callable[[], Any]]]:
        from pyhyve.machine.monitor import cpu_models  # noqa: PLC0415 - few clients ask

        features = cpu_models.features(self.inventory.config.cpu, has_kvm=self.machine.parts.vm.has_kernel_irqchip)
        values: dict[str, Any] = {"realized": True, "hotplugged": False, "hotpluggable": False, **features}
        return {
            **_constants(values),
            "apic-id": ("uint32", lambda: index),
            "unavailable-features": ("strList", list),
        }

    def _device_properties(self, plugged: PluggedDevice) -> dict[str, tuple[str, Callable[[], Any]]]:
        properties: dict[str, tuple[str, Callable[[], Any]]] = {
            "type": ("string", lambda: plugged.model.name),
            "realized": ("bool", lambda: True),
            "hotplugged": ("bool", lambda: plugged.hotplugged),
            "hotpluggable": ("bool", lambda: plugged.model.hotpluggable),
            "parent_bus": ("link<bus>", lambda: f"/machine/{plugged.bus}"),
        }
        for name, known in plugged.model.properties.items():
            properties[name] = (known.type, functools.partial(plugged.values.get, name, known.default))
        if plugged is self.hardware.balloon:
            properties["guest-stats"] = ("guest statistics", lambda: self._guest_stats(plugged))
            properties[_POLLING] = ("int", lambda: self.hardware.balloon_polling_s)
        return properties

    @staticmethod
    def _guest_stats(plugged: PluggedDevice) -> dict[str, Any]:
        device = plugged.device
        stats = {f"stat-{name}": device.statistics.get(key, -1) for name, key in qom_types.BALLOON_STATS.items()}
        return {"stats": stats, "last-update": device.updated_s}

    def qom_list(self, path: str) -> list[dict[str, Any]]:
        """What is at a path."""
        path = _absolute(path)
        listed = [{"name": name, "type": kind} for name, (kind, _) in self._properties(path).items()]
        children = self._children(path)
        if children:
            listed += [{"name": name, "type": f"child<{kind}>"} for name, kind in children.items()]
        plugged = self.hardware.devices.find(path)
        if plugged is not None and plugged.model.name.startswith("virtio-"):
            kind = plugged.model.name.removesuffix("-pci") + "-device"
            listed.append({"name": "virtio-backend", "type": f"child<{kind}>"})
        return listed

    def qom_get(self, path: str, property: str) -> Any:  # noqa: A002, ANN401 - QEMU's name, any JSON value
        """A property's value."""
        path = _absolute(path)
        properties = self._properties(path)
        children = self._children(path)
        if children and property in children:
            return f"{path.rstrip('/')}/{property}"
        if property not in properties:
            msg = f"Property '{properties['type'][1]()}.{property}' not found"
            raise QmpError(msg)
        return properties[property][1]()

    def qom_set(self, path: str, property: str, value: Any) -> None:  # noqa: A002, ANN401 - QEMU's name
        """Change a property: of those there are, only how often a balloon asks for statistics."""
        path = _absolute(path)
        properties = self._properties(path)
        if property not in properties:
            msg = f"Property '{properties['type'][1]()}.{property}' not found"
            raise QmpError(msg)
        plugged = self.hardware.devices.find(path)
        if plugged is not None and plugged is self.hardware.balloon and property == _POLLING:
            seconds = convert(f"x.{_POLLING}", find_model("virtio-balloon-pci").properties[_POLLING], value)
            if seconds < 0:
                msg = "timer value must be greater than zero"
                raise QmpError(msg)
            self.hardware.poll_balloon(seconds)
            return
        if plugged is not None and property in plugged.model.properties:
            what = f"device '{plugged.name}' (type '{plugged.model.name}')"
            msg = f"Attempt to set property '{property}' on {what} after it was realized"
            raise QmpError(msg)
        msg = "Insufficient permission to perform this operation"
        raise QmpError(msg)


def _absolute(path: str) -> str:
    """`path` with one leading slash and none at the end."""
    return "/" + path.strip("/")


def _constants(values: Mapping[str, Any]) -> dict[str, tuple[str, Callable[[], Any]]]:
    """Properties that keep their value."""
    return {key: (_type_of(value), functools.partial(_same, value)) for key, value in values.items()}


def _same(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return value


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return "int" if isinstance(value, int) else "string"
