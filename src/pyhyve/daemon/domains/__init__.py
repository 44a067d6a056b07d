"""Domains: definitions, the machines that run them, and everything that is done to them.

``definition`` makes a document whole as libvirt does; ``registry`` knows every domain; ``domain`` is one of them;
``hypervisor`` is the contract with what runs machines. Each other module is one subject (life cycle, saving, snapshots,
block jobs, devices, statistics, …) of which the procedures are thin wrappers.
"""
