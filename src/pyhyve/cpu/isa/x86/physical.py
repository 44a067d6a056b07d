"""Guest physical memory for x86 kernels."""

from pyhyve.cpu.engine.regions import Regions
from pyhyve.cpu.isa.x86.state import STATE

regions = Regions(STATE)
host_address = regions.host_address
