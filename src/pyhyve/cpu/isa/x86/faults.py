"""Raising guest exceptions: they become pending in the state, and `events.deliver` takes them from there."""

from __future__ import annotations

from typing import Any

from pyhyve.cpu.engine.state import Stop
from pyhyve.cpu.isa.x86.spec import Dr6, EventKind, Vector
from pyhyve.cpu.isa.x86.state import STATE
from pyhyve.cpu.lang import U64, Pointer, kernel

COLD = "nounwind noinline cold"


@kernel(Pointer(STATE), U64, U64, U64, name="x86.raise_exception", attributes=COLD)
def raise_exception(st: Any, vector: Any, has_error: Any, error: Any) -> None:
    """Make a fault-class exception pending and stop guest code; `pc` must be that of the instruction."""
    st.event_pending = 1
    st.event_vector = vector.trunc(32)
    st.event_has_error = has_error.trunc(32)
    st.event_error = error
    st.event_kind = EventKind.FAULT
    st.event_length = 0
    st.stop = Stop.EVENT


@kernel(Pointer(STATE), U64, U64, name="x86.raise_page_fault", attributes=COLD)
def pf(st: Any, address: Any, error: Any) -> None:
    """#PF with CR2 and its error code."""
    st.cr2 = address
    raise_exception(st, Vector.PF, 1, error)


@kernel(Pointer(STATE), U64, name="x86.raise_debug_trap", attributes=COLD)
def db(st: Any, dr6_bits: Any) -> None:
    """#DB after an instruction (`pc` is that of the next one); sets `dr6_bits` in DR6."""
    st.dr[6] = st.dr[6] | dr6_bits | Dr6.FIXED
    raise_exception(st, Vector.DB, 0, 0)
    st.event_kind = EventKind.TRAP


@kernel(Pointer(STATE), U64, name="x86.raise_debug_fault", attributes=COLD)
def db_fault(st: Any, dr6_bits: Any) -> None:
    """#DB before an instruction: general detect, or an instruction breakpoint."""
    st.dr[6] = st.dr[6] | dr6_bits | Dr6.FIXED
    raise_exception(st, Vector.DB, 0, 0)


def gp(st: Any, error: Any = 0) -> None:
    """#GP with an error code."""
    raise_exception(st, Vector.GP, 1, error)


def ss(st: Any, error: Any = 0) -> None:
    """#SS with an error code."""
    raise_exception(st, Vector.SS, 1, error)


def np(st: Any, error: Any) -> None:
    """#NP with an error code."""
    raise_exception(st, Vector.NP, 1, error)


def ts(st: Any, error: Any) -> None:
    """#TS with an error code."""
    raise_exception(st, Vector.TS, 1, error)


def ud(st: Any) -> None:
    """#UD."""
    raise_exception(st, Vector.UD, 0, 0)


def nm(st: Any) -> None:
    """#NM."""
    raise_exception(st, Vector.NM, 0, 0)


def de(st: Any) -> None:
    """#DE."""
    raise_exception(st, Vector.DE, 0, 0)


def mf(st: Any) -> None:
    """#MF."""
    raise_exception(st, Vector.MF, 0, 0)


def xm(st: Any) -> None:
    """#XM."""
    raise_exception(st, Vector.XM, 0, 0)


@kernel(Pointer(STATE), name="x86.raise_alignment_check", attributes=COLD)
def ac(st: Any) -> None:
    """#AC, whose error code is 0."""
    raise_exception(st, Vector.AC, 1, 0)
