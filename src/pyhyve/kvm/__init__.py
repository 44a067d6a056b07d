"""The Linux KVM interface: its ABI, and objects over the system, VM, vCPU and device descriptors.

A thin layer: a method is an ioctl, takes and gives Python values, and raises `KvmError` with the ioctl's name. What a
machine makes of it is in `pyhyve.accel`. May import from `memory` and `support` only.
"""
