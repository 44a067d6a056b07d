"""``<cpu>`` elements as clients hand them in to be compared: a host's from its capabilities, or a guest's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.model import ARCHITECTURES, feature_places, models
from pyhyve.daemon.errors import LibvirtError
from pyhyve.rpc.errors import ErrorCode, ErrorDomain
from pyhyve.xml.document import Node, XmlError, parse_document

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CpuDefinition", "parse_cpu"]

_POLICIES: Final = ("force", "require", "optional", "disable", "forbid")
_MATCHES: Final = ("minimum", "exact", "strict")
_MODES: Final = ("custom", "host-model", "host-passthrough", "maximum")


@dataclass(frozen=True, slots=True)
class CpuDefinition:
    """One element. ``guest``: it has a mode or a match; ``features`` are policies by name."""

    arch: str | None
    mode: str
    match: str
    model: str | None
    vendor: str | None
    guest: bool
    features: dict[str, str] = field(default_factory=dict)

    def required(self) -> set[str]:
        """Features the CPU has to have: its model's and those asked for, without those switched off."""
        wanted = set(models[self.model].features) if self.model is not None else set()
        wanted |= {name for name, policy in self.features.items() if policy in {"require", "force"}}
        return wanted - {name for name, policy in self.features.items() if policy in {"disable", "forbid", "optional"}}

    def with_policy(self, *policies: str) -> set[str]:
        """Features with one of these policies."""
        return {name for name, policy in self.features.items() if policy in policies}


def _error(detail: str, code: ErrorCode = ErrorCode.XML_ERROR) -> LibvirtError:
    return LibvirtError(code, ErrorDomain.CPU, detail)


def _children(node: Node, name: str) -> Iterator[Node]:
    return (child for child in node.children if child.name == name)


def _text(node: Node, name: str) -> str | None:
    return next((child.text.strip() for child in _children(node, name)), None)


def parse_cpu(document: str) -> CpuDefinition:
    """Parse a document. Raises LibvirtError where it is none, or names what does not exist."""
    try:
        node = parse_document(document)
    except XmlError as error:
        raise LibvirtError(ErrorCode.XML_DETAIL, ErrorDomain.XML, str(error)) from error
    if node.name != "cpu":
        msg = "XML does not contain expected 'cpu' element"
        raise _error(msg)
    attributes = dict(node.attributes)
    mode, match = attributes.get("mode"), attributes.get("match")
    for given, known, attribute in ((mode, _MODES, "mode"), (match, _MATCHES, "match")):
        if given is not None and given not in known:
            msg = f"Invalid value for attribute '{attribute}' in element 'cpu': '{given}'."
            raise _error(msg)
    # A mode or a way to match makes it a guest's; so does the lack of an architecture.
    arch = _text(node, "arch")
    guest = mode is not None or match is not None or arch is None
    model, vendor = _text(node, "model"), _text(node, "vendor")
    features: dict[str, str] = {}
    for child in _children(node, "feature"):
        written = dict(child.attributes)
        name, policy = written.get("name", ""), written.get("policy", "require")
        if not name:
            msg = "Missing 'name' attribute for CPU feature"
            raise _error(msg)
        if policy not in _POLICIES:
            msg = "Invalid CPU feature policy"
            raise _error(msg, ErrorCode.CONFIG_UNSUPPORTED)
        if name in features:
            msg = f"CPU feature '{name}' specified more than once"
            raise _error(msg)
        features[name] = policy
    made = CpuDefinition(arch, mode or "custom", match or "exact", model or None, vendor or None, guest, features)
    _check(made)
    return made


def _check(cpu: CpuDefinition) -> None:
    if cpu.arch is not None and cpu.arch not in ARCHITECTURES:
        return  # its names are not ours to check
    if cpu.mode == "custom" and cpu.model is None and cpu.features:
        msg = "Non-empty feature list specified without CPU model"
        raise _error(msg)
    if cpu.model is not None and cpu.model not in models:
        msg_0 = f"Unknown CPU model {cpu.model}"
        raise _error(msg_0, ErrorCode.INTERNAL_ERROR)
    for name in cpu.features:
        if name not in feature_places:
            msg_0 = f"Unknown CPU feature {name}"
            raise _error(msg_0, ErrorCode.INTERNAL_ERROR)
