"""Small Linux guests made of Debian packages: a kernel and an initial RAM file system with busybox.

May import from `support` only. `builder` is the way in; `deb`, `cpio` and `modules` are codecs without I/O of their
own, `repository` finds and fetches packages.
"""
