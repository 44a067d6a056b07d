"""``test:///default`` on a daemon: one host, made up, with the domain "test" on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyhyve.daemon.domains import lifecycle, notices
from pyhyve.daemon.domains.registry import DomainRegistry
from pyhyve.daemon.drivers.api import DriverBase
from pyhyve.daemon.drivers.test.capabilities import capabilities
from pyhyve.daemon.drivers.test.host import TestHost
from pyhyve.daemon.drivers.test.hypervisor import VCPUS_MAX, TestHypervisor
from pyhyve.daemon.store import MemoryStore
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from pyhyve.daemon.daemon import Daemon

__all__ = ["TestDriver"]


_DOMAIN: Final = """
<domain type='test'>
  <name>test</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e193f</uuid>
  <memory unit='KiB'>8388608</memory>
  <currentMemory unit='KiB'>2097152</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os>
    <type arch='i686'>hvm</type>
    <boot dev='hd'/>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <source file='/guest/diskimage1'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </disk>
    <interface type='network'>
      <mac address='aa:bb:cc:dd:ee:ff'/>
      <source network='default'/>
      <target dev='testnet0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x0'/>
    </interface>
    <memballoon model='virtio'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>
    </memballoon>
  </devices>
</domain>
"""
"""The domain that is there from the start, as in libvirt's own."""


class TestDriver(DriverBase):
    """The driver."""

    __test__ = False  # pytest: no test
    type_name = "TEST"
    function_prefix = "test"
    error_domain = ErrorDomain.TEST
    uri = "test:///default"

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(TestHost())
        self.domains = DomainRegistry(daemon, self, TestHypervisor(), "test", MemoryStore())
        self.domains.listeners.append(notices.handle)
        self.add(DomainRegistry, self.domains)

    def accepts(self, uri: SplitResult) -> bool:
        """``test:///default`` is what there is."""
        return uri.scheme == "test" and not uri.netloc and uri.path == "/default"

    def version(self) -> int:
        """As libvirt's: version 2 of nothing."""
        return 2

    def max_vcpus(self, type_name: str | None) -> int:
        """As libvirt's."""
        return VCPUS_MAX

    async def capabilities(self) -> str:
        """A host of another age."""
        return capabilities()

    async def start(self) -> None:
        """Start the domain that is there from the start."""
        await self.domains.start()
        domain = await self.domains.define(await self.domains.complete(_DOMAIN))
        await lifecycle.start(domain)

    async def stop(self) -> None:
        """Let go of every machine."""
        await self.domains.stop()
