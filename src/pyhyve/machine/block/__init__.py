"""A running machine's disks: nodes by name (QEMU's block layer as QMP shows it), and the jobs that move their data.

May import what `machine` may, except the monitor.
"""
