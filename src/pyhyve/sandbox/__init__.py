"""Containment of a process by itself: no new privileges, a list of system calls, the files it may touch.

May import from `support` only. `contain.enter` is the way in.
"""
