"""Exits of a guest on KVM, counted by the kernel: to user space by reason, and all of them (tracefs, `kvm` events)."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyhyve.kvm.abi import ExitReason
from pyhyve.support.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACEFS = Path("/sys/kernel/tracing")
_BUCKET = re.compile(r"\{ *(\w+): *(-?\d+) *\} *hitcount: *(\d+)")
_EVENTS = {"kvm_userspace_exit": "reason", "kvm_exit": "exit_reason"}


@dataclass(slots=True)
class ExitCounts:
    """Filled when the block of `counted` ends."""

    to_user_space: Counter[str] = field(default_factory=Counter)
    total: int = 0

    def describe(self) -> str:
        """One line."""
        reasons = ", ".join(f"{name} {count}" for name, count in self.to_user_space.most_common())
        return f"{self.to_user_space.total()} to user space ({reasons}) of {self.total} in all"


@contextlib.contextmanager
def counted() -> Iterator[ExitCounts]:
    """Count the exits of all guests on this host while the block runs. Raises UserError where that cannot be done."""
    events = TRACEFS / "events/kvm"
    if not events.exists():
        subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACEFS], capture_output=True, check=False)
    counts = ExitCounts()
    try:
        for event, key in _EVENTS.items():
            (events / event / "trigger").write_text(f"hist:keys={key}\n")
    except OSError as error:
        msg = f"exits cannot be counted: {error} (needs root, and a kernel with CONFIG_HIST_TRIGGERS)"
        raise UserError(msg) from error
    try:
        yield counts
        for reason, count in _read(events / "kvm_userspace_exit"):
            # A signal (a kick) ends KVM_RUN with an error, not with a reason; the event shows the last reason.
            counts.to_user_space[_name(reason)] += count
        counts.total = sum(count for _, count in _read(events / "kvm_exit"))
    finally:
        for event, key in _EVENTS.items():
            (events / event / "trigger").write_text(f"!hist:keys={key}\n")


def _read(event: Path) -> list[tuple[int, int]]:
    text = (event / "hist").read_text()
    return [(int(value), int(hits)) for _, value, hits in _BUCKET.findall(text)]


def _name(reason: int) -> str:
    try:
        return ExitReason(reason).name
    except ValueError:
        return f"reason {reason}"
