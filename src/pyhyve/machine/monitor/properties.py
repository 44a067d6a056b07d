"""QEMU's `key=value` lists with an implied first key, and JSON objects, of which each key must be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyhyve.support.errors import InputError
from pyhyve.support.option_lists import split_list

_SWITCHES = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}


@dataclass(slots=True)
class Properties:
    """The value of one option, taken apart; every key must be asked for before `finish`."""

    option: str
    values: dict[str, list[str]] = field(default_factory=dict)

    def take_all(self, key: str) -> list[str]:
        """All values of a key that may repeat."""
        return self.values.pop(key, [])

    def take(self, key: str) -> str | None:
        """The (last) value of `key`; None when absent."""
        found = self.values.pop(key, None)
        return None if found is None else found[-1]

    def need(self, key: str) -> str:
        """The value of `key`. Raises InputError when absent."""
        value = self.take(key)
        if not value:
            msg = f"{self.option}: parameter '{key}' is missing"
            raise InputError(msg)
        return value

    def switch(self, key: str, *, default: bool) -> bool:
        """A value of on or off. Raises InputError for another."""
        value = self.take(key)
        if value is None:
            return default
        if value not in _SWITCHES:
            msg = f"{self.option}: {key}={value}: use on or off"
            raise InputError(msg)
        return _SWITCHES[value]

    def only(self, key: str, *supported: str) -> None:
        """Accept `key` when it asks for what is done anyway. Raises InputError otherwise."""
        value = self.take(key)
        if value is not None and value not in supported:
            msg = f"{self.option}: {key}={value} is not supported (only {' or '.join(supported)})"
            raise InputError(msg)

    def finish(self) -> None:
        """Raise InputError when something was not asked for."""
        for key in self.values:
            msg = f"{self.option}: parameter '{key}' is unknown or not supported"
            raise InputError(msg)


def parse_properties(option: str, text: str, implied: str = "") -> Properties:
    """Take `text` apart: a JSON object, or a list whose first part may be the value of `implied`.

    A part without `=` is a switch that is on (`noNAME`: off). Members of nested objects have dotted keys.
    """
    properties = Properties(option)
    if text.startswith("{"):
        from pyhyve.machine.monitor.framing import parse  # noqa: PLC0415 - few write JSON

        value = parse(text.encode(errors="surrogateescape"))
        if not isinstance(value, dict):
            msg = f"{option}: {value if isinstance(value, Exception) else 'not a JSON object'}"
            raise InputError(msg)
        _flatten(properties, "", value)
        return properties
    for index, part in enumerate(split_list(text)):
        key, equals, value = part.partition("=")
        if not equals and index == 0 and implied:
            key, value = implied, part
        elif not equals:
            is_off = key.startswith("no") and key not in {"node-name", "nodelay"}
            key, value = (key[2:], "off") if is_off else (key, "on")
        properties.values.setdefault(key, []).append(value)
    return properties


def _flatten(properties: Properties, prefix: str, value: dict[str, Any]) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            _flatten(properties, f"{prefix}{key}.", item)
        elif isinstance(item, bool):
            properties.values[prefix + key] = ["on" if item else "off"]
        elif isinstance(item, list):
            properties.values[prefix + key] = [str(part) for part in item]
        else:
            properties.values[prefix + key] = [str(item)]
