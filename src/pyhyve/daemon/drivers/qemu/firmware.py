"""UEFI: which firmware a machine boots with, and where it keeps its variables.

Firmware is described by JSON files (QEMU's docs/interop/firmware.json), tried in the order of their names; one in /etc
replaces one of the same name in /usr/share. A machine has a copy of the variables that belong to its firmware, made
when it starts for the first time.
"""

from __future__ import annotations

import contextlib
import json
import logging
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pyhyve.daemon.domains.faults import failed, system_error, unsupported
from pyhyve.daemon.faults import Faults
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.support.files import write_atomically
from pyhyve.xml.document import Node
from pyhyve.xml.domain import Features
from pyhyve.xml.element import replace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyhyve.xml.domain import Domain

__all__ = ["Firmware", "complete_firmware", "described", "nvram_of", "prepare_firmware", "suitable"]

_log = logging.getLogger(__name__)
DIRECTORIES: Final = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))
_SECURE: Final = "secure-boot"


@dataclass(frozen=True, slots=True)
class Firmware:
    """One firmware: its code and the variables it begins with, the machines it is for, what it has."""

    path: str
    template: str
    machines: tuple[tuple[str, tuple[str, ...]], ...]
    """Architecture, and patterns of names of machine types."""
    features: frozenset[str]

    def fits(self, architecture: str, machine: str) -> bool:
        """Whether it is for a machine type."""
        return any(
            architecture == wanted and any(fnmatchcase(machine, pattern) for pattern in patterns)
            for wanted, patterns in self.machines
        )


def described(directories: Sequence[Path] = DIRECTORIES) -> list[Firmware]:
    """Return the UEFI firmware in flash that the host has, best first. Blocks."""
    files: dict[str, Path] = {}
    for directory in directories:
        with contextlib.suppress(OSError):
            for path in directory.glob("*.json"):
                files.setdefault(path.name, path)
    found = []
    for name in sorted(files):
        try:
            text = files[name].read_text(encoding="utf-8")
            firmware = _read(json.loads(text)) if text.strip() else None  # an empty file hides one of that name
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _log.warning("%s describes no firmware: %s", files[name], error)
            continue
        if firmware is not None:
            found.append(firmware)
    return found


def _read(held: dict[str, Any]) -> Firmware | None:
    mapping = held["mapping"]
    if "uefi" not in held["interface-types"] or mapping["device"] != "flash":
        return None
    code, variables = mapping["executable"], mapping.get("nvram-template")
    if variables is None or {code["format"], variables["format"]} != {"raw"}:
        return None
    machines = tuple((str(item["architecture"]), tuple(map(str, item["machines"]))) for item in held["targets"])
    return Firmware(code["filename"], variables["filename"], machines, frozenset(held.get("features", ())))


def suitable(architecture: str, machine: str) -> list[Firmware]:
    """Return the firmware for a machine type, best first. Blocks."""
    return [item for item in described() if item.fits(architecture, machine)]


def _attributes(node: Node | None) -> dict[str, str]:
    return dict(node.attributes) if node is not None else {}


def _is_flash(domain: Domain) -> bool:
    return _attributes(domain.os.loader).get("type") == "pflash"


def nvram_of(domain: Domain, directory: Path) -> Path | None:
    """Return where a machine keeps its variables, or None where it has none."""
    if domain.os.nvram is not None and domain.os.nvram.text.strip():
        return Path(domain.os.nvram.text.strip())
    if domain.os.firmware == "efi" or _is_flash(domain):
        return directory / f"{domain.name}_VARS.fd"
    return None


def complete_firmware(domain: Domain, directory: Path) -> Domain:
    """Return a definition with where its variables are kept. Raises LibvirtError."""
    if domain.os.firmware is not None:
        for name in _attributes(domain.os.loader):
            text = f"loader attribute '{name}' cannot be specified when firmware autoselection is enabled"
            raise Faults(ErrorDomain.DOMAIN).worded(ErrorCode.XML_DETAIL, text)
    if domain.os.firmware != "efi" and not _is_flash(domain):
        return domain
    if domain.features is None or domain.features.acpi is None:
        raise unsupported("UEFI requires ACPI on this architecture")
    if domain.os.firmware == "efi" or _attributes(domain.os.loader).get("stateless") == "yes":
        return domain
    kept = domain.os.nvram or Node("nvram")
    if kept.text.strip():
        return domain
    return replace(domain, os=replace(domain.os, nvram=replace(kept, text=str(nvram_of(domain, directory)))))


def prepare_firmware(domain: Domain, architecture: str, directory: Path, *, make: bool = True) -> Domain:
    """Return a live definition with its firmware chosen and (unless it is to be looked at only) its variables made.

    Blocks. Raises LibvirtError.
    """
    os = domain.os
    path = nvram_of(domain, directory)
    if path is None or _attributes(os.loader).get("stateless") == "yes":
        return domain
    template = _attributes(os.nvram).get("template")
    if os.firmware == "efi":
        chosen = _choose(domain, architecture)
        secure = "requires-smm" in chosen.features
        words = [("readonly", "yes"), *([("secure", "yes")] if secure else []), ("type", "pflash")]
        os = replace(os, firmware=None, loader=Node("loader", tuple(words), chosen.path))
        template = template or chosen.template
        if secure:
            features = domain.features or Features()
            domain = replace(domain, features=replace(features, smm=Node("smm", (("state", "on"),))))
    loader = os.loader.text.strip() if os.loader is not None else ""
    if make and not path.exists():
        template = template or next((item.template for item in described() if item.path == loader), None)
        _make_variables(path, template, loader)
    attributes = (("template", template),) if template is not None else ()
    nvram = replace(os.nvram or Node("nvram"), attributes=attributes, text=str(path))
    return replace(domain, os=replace(os, nvram=nvram))


def _make_variables(path: Path, template: str | None, loader: str) -> None:
    if template is None:
        raise failed(f"unable to find any master var store for loader: {loader}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o711)
        write_atomically(path, Path(template).read_bytes(), mode=0o600)
    except OSError as error:
        raise system_error(f"cannot make '{path}' of '{template}'", error) from error


def _choose(domain: Domain, architecture: str) -> Firmware:
    wanted = domain.os.firmware_features
    asked = {
        _attributes(node).get("name", ""): _attributes(node).get("enabled") == "yes"
        for node in (wanted.children if wanted is not None else ())
        if node.name == "feature"
    }
    for item in suitable(architecture, domain.os.type.machine or ""):
        if all((name in item.features) is enabled for name, enabled in asked.items()):
            return item
    raise failed("Unable to find any firmware to satisfy 'efi'")
