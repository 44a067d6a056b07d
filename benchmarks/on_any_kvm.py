"""`python on_any_kvm.py run …`: `pyhyve` on KVM of any kind, for kernels so small that every kind runs them.

`pyhyve run` itself refuses software flavours of KVM, which cannot run a real kernel. The look at `/dev/kvm` that finds
that out is part of the start, and is taken here too.
"""

from __future__ import annotations

from pyhyve.accel import select
from pyhyve.cli.main import command

_look = select._why_not_kvm  # noqa: SLF001 - see the top


def _accept() -> str | None:
    _look()
    return None


if __name__ == "__main__":
    select._why_not_kvm = _accept  # noqa: SLF001 - see the top
    command()
