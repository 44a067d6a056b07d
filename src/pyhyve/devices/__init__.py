"""What the guest sees: devices as register state machines, and the buses that reach them.

May import from `backends`, `memory` and `support`. A device knows its registers, never its address.
"""
