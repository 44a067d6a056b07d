"""What a machine is made of besides its board, added and removed by QEMU's options: nodes, networks, devices, objects.

The command line and the monitor come in here with the same values, those of QEMU's schema. May import what `machine`
may, except the monitor.
"""
