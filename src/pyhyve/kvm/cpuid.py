"""CPUID leaves as KVM takes them."""

from __future__ import annotations

from pyhyve.kvm import structures as s
from pyhyve.support.records import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """What CPUID answers for `function` (EAX), and `index` (ECX) when `flags` says that it matters."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int


def pack_entries(entries: Iterable[CpuidEntry]) -> bytes:
    """A `struct kvm_cpuid2` with these leaves."""
    body = [s.CPUID_ENTRY2.pack(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries]
    return s.CPUID2.pack(len(body)) + b"".join(body)


def unpack_entries(data: bytes | bytearray) -> tuple[CpuidEntry, ...]:
    """The leaves of a `struct kvm_cpuid2`."""
    count = int.from_bytes(data[:4], "little")
    start = s.CPUID2.size_bytes
    return tuple(CpuidEntry(*values) for values in s.CPUID_ENTRY2.rows(data, start, count))
