"""Guest physical memory for x86 kernels."""

from pyhyve.cpu.engine.dirty import DirtyMarks
from pyhyve.cpu.engine.regions import Regions
from pyhyve.cpu.isa.x86.state import STATE

regions = Regions(STATE)
dirty = DirtyMarks(STATE, regions)
host_address = regions.host_address
