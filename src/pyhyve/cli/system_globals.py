"""`-global`: the properties of the board's own devices that management tools set."""

from __future__ import annotations

from typing import Final

from pyhyve.support.errors import InputError

_ONLY: Final = {
    **{f"{chip}.disable_{state}": ("1", "on") for chip in ("ICH9-LPC", "PIIX4_PM") for state in ("s3", "s4")},
    "kvm-pit.lost_tick_policy": ("delay",),
    "PIIX4_PM.acpi-root-pci-hotplug": ("on",),
}
"""What is so anyway: there is no suspend to memory or disk, and lost ticks are made up for late."""


def check_global(value: str) -> None:
    """Take `DRIVER.PROPERTY=VALUE`, or `driver=D,property=P,value=V`. Raises InputError when it is not so anyway."""
    if value.startswith("driver="):
        parts = dict(part.partition("=")[::2] for part in value.split(","))
        name, wanted = f"{parts.get('driver')}.{parts.get('property')}", parts.get("value", "")
    else:
        name, _, wanted = value.partition("=")
    allowed = _ONLY.get(name)
    if allowed is None:
        msg = f"-global {name}: not supported (only {', '.join(_ONLY)})"
        raise InputError(msg)
    if wanted not in allowed:
        msg = f"-global {name}={wanted}: not supported (only {' or '.join(allowed)})"
        raise InputError(msg)
