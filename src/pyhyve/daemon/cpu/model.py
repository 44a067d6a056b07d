"""Features and models as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyhyve.daemon.cpu.tables import FEATURES, MODELS, VENDORS

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ARCHITECTURES",
    "FEATURE_ORDER",
    "Model",
    "Place",
    "feature_places",
    "from_emulator",
    "in_order",
    "migratable",
    "models",
]

ARCHITECTURES: Final = frozenset({"x86_64", "i686"})
"""Architectures whose models these are."""
OTHER_ARCHITECTURES: Final = frozenset(
    {
        *("aarch64", "alpha", "armv6l", "armv7b", "armv7l", "cris", "itanium", "lm32", "loongarch64", "m68k"),
        *(
            "microblaze",
            "microblazeel",
            "mips",
            "mips64",
            "mips64el",
            "mipsel",
            "openrisc",
            "parisc",
            "parisc64",
            "ppc",
        ),
        *("ppc64", "ppc64le", "ppcemb", "riscv32", "riscv64", "s390", "s390x", "sh4", "sh4eb", "sparc", "sparc64"),
        *("unicore32", "xtensa", "xtensaeb"),
    }
)
"""The other architectures libvirt has names for."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a feature's bit is: a leaf and subleaf of CPUID, or a model-specific register; then register and bit."""

    leaf: int
    subleaf: int
    register: str
    bit: int
    msr: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A CPU model."""

    name: str
    vendor: str | None
    """Short name, as in :data:`VENDORS`."""
    signatures: tuple[tuple[int, int], ...]
    """Family and model numbers of CPUs that are this."""
    host: bool
    """Whether a host may be found to be one."""
    guest: bool
    features: frozenset[str]
    removed: frozenset[str]
    """Features it had in earlier versions."""


def _place(text: str) -> Place:
    where, register, bit = text.rsplit(".", 2)
    if where.startswith("msr:"):
        return Place(int(where[4:], 16), 0, register, int(bit), msr=True)
    leaf, subleaf = where.split(".")
    return Place(int(leaf, 16), int(subleaf, 16), register, int(bit))


_WORDS: Final = [word.partition("=") for word in "".join(FEATURES).split()]
feature_places: Final[dict[str, tuple[Place, ...]]] = {
    name.removeprefix("-"): tuple(map(_place, places.split("+"))) if places else () for name, _, places in _WORDS
}
"""Places of each feature; a feature is there when all its bits are set."""
FEATURE_ORDER: Final[dict[str, int]] = {name: number for number, name in enumerate(feature_places)}
"""Order in which libvirt lists features."""
_STUCK: Final = frozenset(name.removeprefix("-") for name, _, _ in _WORDS if name.startswith("-"))


_EMULATORS_NAMES: Final = {
    "lahf-lm": "lahf_lm",
    "pclmulqdq": "pclmuldq",
    "sse3": "pni",
    "sse4-1": "sse4.1",
    "sse4-2": "sse4.2",
    "xd": "nx",
}
"""QEMU's names of features that libvirt calls otherwise; others differ by hyphens at most."""


def from_emulator(names: Iterable[str]) -> frozenset[str]:
    """Return the features with these of QEMU's names; what is no feature of a CPU is left out."""
    candidates = (
        candidate for name in names for candidate in (_EMULATORS_NAMES.get(name, name), name.replace("-", "_"))
    )
    return frozenset(candidate for candidate in candidates if candidate in feature_places)


def migratable(feature: str) -> bool:
    """Whether a guest with this feature can move to another host."""
    return feature not in _STUCK


def in_order(names: Iterable[str]) -> list[str]:
    """Return features in the order libvirt lists them."""
    return sorted(names, key=lambda name: FEATURE_ORDER.get(name, len(FEATURE_ORDER)))


def _models() -> dict[str, Model]:
    made: dict[str, Model] = {}
    for name, vendor, use, signatures, base, difference in MODELS:
        words = difference.split()
        if base:
            features = set(made[base].features)
            features |= {word[1:] for word in words if word[0] == "+"}
            features -= {word[1:] for word in words if word[0] == "-"}
        else:
            features = {word for word in words if word[0] != "~"}
        numbers = []
        for signature in signatures.split():
            family, number = signature.split(".")[:2]
            numbers.append((int(family), int(number)))
        removed = frozenset(word[1:] for word in words if word[0] == "~")
        made[name] = Model(name, vendor or None, tuple(numbers), "h" in use, "g" in use, frozenset(features), removed)
    return made


models: Final[dict[str, Model]] = _models()
"""Every model by name, in libvirt's order."""
VENDOR_STRINGS: Final = {text: name for name, text in VENDORS.items()}
"""Short name of each vendor by what its CPUs say."""
