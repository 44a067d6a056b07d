"""How many processors there are, and in what groups, on QEMU's command line (`-smp`)."""

from __future__ import annotations

from pyhyve.machine.config import CpuTopology
from pyhyve.support.errors import InputError


def topology(numbers: dict[str, int]) -> tuple[int, CpuTopology | None]:
    """Number of processors and their groups, what is left out made up as QEMU does. Raises InputError."""
    cpus = numbers.get("cpus") or numbers.get("maxcpus")
    dies, threads = numbers.get("dies", 1), numbers.get("threads", 1)
    sockets, cores = numbers.get("sockets"), numbers.get("cores")
    if cpus is None:
        cpus = (sockets or 1) * dies * (cores or 1) * threads
    if numbers.get("maxcpus", cpus) != cpus:
        msg = f"-smp: maxcpus={numbers['maxcpus']} is not supported: processors cannot be added later"
        raise InputError(msg)
    if sockets is None:
        # As in QEMU since 6.2: cores are preferred over sockets.
        if cores is None:
            return (
                (cpus, None)
                if dies * threads == 1
                else _filled(cpus, 1, dies, max(1, cpus // (dies * threads)), threads)
            )
        sockets = max(1, cpus // (dies * cores * threads))
    elif cores is None:
        cores = max(1, cpus // (sockets * dies * threads))
    return _filled(cpus, sockets, dies, cores, threads)


def _filled(cpus: int, sockets: int, dies: int, cores: int, threads: int) -> tuple[int, CpuTopology]:
    topology = CpuTopology(sockets, dies, cores, threads)
    if topology.cpus != cpus:
        msg = (
            f"-smp: sockets ({sockets}) * dies ({dies}) * cores ({cores}) * threads ({threads}) is not the number of "
            f"processors ({cpus})"
        )
        raise InputError(msg)
    return cpus, topology
