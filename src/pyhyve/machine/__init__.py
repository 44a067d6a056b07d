"""A running machine: configuration, wiring, the vCPU loop, the I/O thread and the life cycle.

May import from `devices`, `boot`, `backends`, `accel`, `memory` and `support`.
"""
