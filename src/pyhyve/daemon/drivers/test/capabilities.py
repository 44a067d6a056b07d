"""The ``<capabilities>`` of the test driver's host: those of libvirt's own."""

from __future__ import annotations

from functools import cache
from typing import Final

_CELLS: Final = ((2 << 20, 4, 524_288), (4 << 20, 8, 524_288))
"""Memory in KiB, page size in KiB and pages of each cell."""
_CPUS_IN_CELL: Final = 8
_PAGES_KIB: Final = (4, 8, 2048, 1 << 20)


def _cell(number: int) -> str:
    memory, page, pages = _CELLS[number]
    first = number * _CPUS_IN_CELL
    cpus = "\n".join(
        f"            <cpu id='{first + core}' socket_id='{number}' die_id='0' core_id='{core}' "
        f"siblings='{first + core}'/>"
        for core in range(_CPUS_IN_CELL)
    )
    return f"""\
        <cell id='{number}'>
          <memory unit='KiB'>{memory}</memory>
          <pages unit='KiB' size='{page}'>{pages}</pages>
          <pages unit='KiB' size='2048'>0</pages>
          <pages unit='KiB' size='1048576'>0</pages>
          <cpus num='{_CPUS_IN_CELL}'>
{cpus}
          </cpus>
        </cell>"""


def _guest(os_type: str) -> str:
    return f"""\
  <guest>
    <os_type>{os_type}</os_type>
    <arch name='i686'>
      <wordsize>32</wordsize>
      <emulator>/usr/bin/test-hv</emulator>
      <domain type='test'/>
    </arch>
    <features>
      <pae/>
      <nonpae/>
    </features>
  </guest>
"""


@cache
def capabilities() -> str:
    """Return the document."""
    pages = "\n".join(f"      <pages unit='KiB' size='{size}'/>" for size in _PAGES_KIB)
    cells = "\n".join(map(_cell, range(len(_CELLS))))
    return f"""\
<capabilities>

  <host>
    <cpu>
      <arch>i686</arch>
      <features>
        <pae/>
        <nonpae/>
      </features>
{pages}
    </cpu>
    <power_management/>
    <iommu support='no'/>
    <topology>
      <cells num='{len(_CELLS)}'>
{cells}
      </cells>
    </topology>
    <secmodel>
      <model>testSecurity</model>
      <doi></doi>
    </secmodel>
  </host>

{_guest("hvm")}
{_guest("xen")}
</capabilities>
"""
