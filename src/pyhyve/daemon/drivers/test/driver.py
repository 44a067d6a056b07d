"""``test:///default`` on a daemon: one host, made up, with the domain "test" on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.drivers.api import DriverBase, HostInfo
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = ["TestDriver"]

_CAPABILITIES: Final = """\
<capabilities>

  <host>
    <cpu>
      <arch>i686</arch>
    </cpu>
  </host>

  <guest>
    <os_type>hvm</os_type>
    <arch name='i686'>
      <wordsize>32</wordsize>
      <domain type='test'/>
    </arch>
  </guest>

</capabilities>
"""


class TestDriver(DriverBase):
    """The driver."""

    __test__ = False  # pytest: no test
    type_name = "Test"
    error_domain = ErrorDomain.TEST
    uri = "test:///default"

    def accepts(self, uri: SplitResult) -> bool:
        """``test:///default`` is what there is."""
        return uri.scheme == "test" and not uri.netloc and uri.path == "/default"

    def version(self) -> int:
        """As libvirt's: version 2 of nothing."""
        return 2

    def max_vcpus(self, type_name: str | None) -> int:
        """As libvirt's."""
        return 32

    async def capabilities(self) -> str:
        """A host of another age."""
        return _CAPABILITIES

    def host_info(self) -> HostInfo | None:
        """A host of 3 GiB and 16 CPUs."""
        return HostInfo(model="i686", memory_kib=3 << 20, cpus=16, mhz=1400, nodes=2, sockets=2, cores=2, threads=2)
