"""Which engine runs a machine: KVM where it runs real kernels, the translator everywhere else."""

from __future__ import annotations

from pyhyve.accel.cpu_models import HOST
from pyhyve.support.errors import UserError
from pyhyve.support.logs import late_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyhyve.accel.api import Vm
    from pyhyve.accel.cpu_models import CpuModel
    from pyhyve.memory.guest import GuestMemory

    Progress = Callable[[int, int], None]

_LOG = late_logger(__name__)
CHOICES = ("auto", "kvm", "jit")


class AccelError(UserError):
    """The engine that was asked for cannot run here."""


def open_vm(choice: str, memory: GuestMemory, progress: Progress | None = None, cpu: CpuModel = HOST) -> Vm:
    """Make a `Vm` over `memory` with the engine `choice` (one of `CHOICES`) and processors of the model `cpu`.

    Raises AccelError, and CpuUnavailableError when the engine lacks a feature of the model.

    Engines are imported only when taken: each costs start-up time. `progress(done, total)` is called while the
    translator is compiled, the first time on a host.
    """
    if choice not in CHOICES:
        msg = f"accel: unknown engine {choice!r} (use {', '.join(CHOICES)})"
        raise AccelError(msg)
    if choice != "jit":
        reason = _why_not_kvm()
        if reason is None:
            from pyhyve.accel.kvm import KvmVm  # noqa: PLC0415 - see the docstring

            return KvmVm(memory, cpu_model=cpu)
        if choice == "kvm":
            msg = f"accel kvm: {reason}; --accel jit runs anywhere"
            raise AccelError(msg)
        _LOG.info("not using KVM: %s", reason)
    from pyhyve.accel.emulator import EmulatorVm  # noqa: PLC0415 - see the docstring

    return EmulatorVm(memory, progress, cpu)


def _why_not_kvm() -> str | None:
    """None when KVM can run a kernel here, else one line that says why not."""
    from pyhyve.kvm.probe import probe  # noqa: PLC0415 - see `open_vm`

    found = probe()
    return None if found.usable else found.reason
