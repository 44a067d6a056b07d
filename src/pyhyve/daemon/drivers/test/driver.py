"""``test:///default`` on a daemon: one host, made up, with the domain "test" on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyhyve.daemon.drivers.api import DriverBase
from pyhyve.daemon.drivers.test.capabilities import capabilities
from pyhyve.daemon.drivers.test.host import TestHost
from pyhyve.rpc.errors import ErrorDomain

if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = ["TestDriver"]


class TestDriver(DriverBase):
    """The driver."""

    __test__ = False  # pytest: no test
    type_name = "TEST"
    function_prefix = "test"
    error_domain = ErrorDomain.TEST
    uri = "test:///default"

    def __init__(self) -> None:
        super().__init__(TestHost())

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
        return capabilities()
