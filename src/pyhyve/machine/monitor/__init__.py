"""The monitor: QMP, QEMU's machine protocol, and the commands it offers on a machine.

`framing`, `introspection`, `schema`, `validation` and `session` are free of I/O; `server` connects them to sockets;
the `commands_*` modules act on a machine. May import what `machine` may.
"""
