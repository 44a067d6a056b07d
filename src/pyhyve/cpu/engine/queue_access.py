"""How kernels touch guest memory that a driver changes at the same time: once, with volatile accesses."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.queue_layout import IOVEC
from pyhyve.cpu.lang import U16, U32, U64, Value, current, inline


@inline
def load16(address: Value) -> Value:
    """A 16-bit number at a host address, as 64 bits."""
    return current().load(address.cast(U16), volatile=True).zext(64)


@inline
def load32(address: Value) -> Value:
    """A 32-bit number at a host address, as 64 bits."""
    return current().load(address.cast(U32), volatile=True).zext(64)


@inline
def load64(address: Value) -> Value:
    """A 64-bit number at a host address, as 64 bits."""
    return current().load(address.cast(U64), volatile=True)


@inline
def store16(address: Value, value: Value) -> None:
    """Store the low 16 bits of `value` at a host address."""
    current().store(address.cast(U16), value.trunc(16), volatile=True)


def parts_at(q: Value, index: Any) -> Value:
    """Host address of part `index`."""
    return q.ref("parts").address() + index * IOVEC.size_bytes
