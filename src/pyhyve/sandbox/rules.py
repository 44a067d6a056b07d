"""What a machine's process may ask of the kernel once it is set up.

Files, sockets and memory; threads, but no processes; no change of identity, no namespaces, no tracing, no modules, no
mounts. Order matters: the filter looks rules up from the first, and `ioctl` is KVM_RUN.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from pyhyve.sandbox.bpf import ANY, Argument, Rule
from pyhyve.sandbox.syscalls import Call

if TYPE_CHECKING:
    from collections.abc import Mapping

_CLONE_VM, _CLONE_THREAD = 0x100, 0x1_0000
_TYPE_MASK = 0xFF00
_TIOCSTI, _TIOCLINUX, _TIOCSCTTY = 0x5412, 0x541C, 0x540E
_IOCTL_TYPES = (
    0xAE00,  # KVM
    0x5400,  # terminals, taps, FIONBIO
    0x1200,  # block devices
    0xAF00,  # vhost
    0x8900,  # sockets
)
_PR_GET_NAME, _PR_SET_NAME, _PR_SET_VMA = 16, 15, 0x53564D41
_PR_GET_DUMPABLE, _PR_SET_NO_NEW_PRIVS, _PR_GET_NO_NEW_PRIVS, _PR_GET_SECCOMP = 3, 38, 39, 21

_PLAIN = (
    # the loop of a machine that runs
    Call.FUTEX, Call.READ, Call.WRITE, Call.EPOLL_WAIT, Call.READV, Call.WRITEV, Call.PREADV2, Call.PWRITEV2,
    Call.PREADV, Call.PWRITEV, Call.PREAD64, Call.PWRITE64, Call.TIMERFD_SETTIME, Call.CLOCK_NANOSLEEP, Call.POLL,
    Call.PPOLL, Call.EPOLL_CTL, Call.SENDTO, Call.RECVFROM, Call.SENDMSG, Call.RECVMSG, Call.SENDMMSG, Call.RECVMMSG,
    Call.RT_SIGRETURN, Call.RT_SIGPROCMASK, Call.RT_SIGACTION, Call.CLOCK_GETTIME, Call.GETTIMEOFDAY, Call.MADVISE,
    Call.FSYNC, Call.FDATASYNC, Call.FALLOCATE, Call.SCHED_YIELD, Call.MEMBARRIER, Call.RSEQ,
    # memory
    Call.MMAP, Call.MUNMAP, Call.MPROTECT, Call.MREMAP, Call.BRK, Call.MSYNC, Call.MINCORE, Call.MEMFD_CREATE,
    # files
    Call.OPENAT, Call.OPEN, Call.CLOSE, Call.CLOSE_RANGE, Call.FSTAT, Call.STAT, Call.LSTAT, Call.NEWFSTATAT,
    Call.STATX, Call.LSEEK, Call.FCNTL, Call.FLOCK, Call.FTRUNCATE, Call.TRUNCATE, Call.GETDENTS, Call.GETDENTS64,
    Call.GETCWD, Call.RENAME, Call.RENAMEAT, Call.RENAMEAT2, Call.MKDIR, Call.MKDIRAT, Call.RMDIR, Call.UNLINK,
    Call.UNLINKAT, Call.READLINK, Call.READLINKAT, Call.CHMOD, Call.FCHMOD, Call.FCHMODAT, Call.UMASK, Call.ACCESS,
    Call.FACCESSAT, Call.FACCESSAT2, Call.STATFS, Call.FSTATFS, Call.FADVISE64, Call.SYNC_FILE_RANGE, Call.SENDFILE,
    Call.COPY_FILE_RANGE, Call.DUP, Call.DUP2, Call.DUP3, Call.PIPE, Call.PIPE2, Call.EVENTFD, Call.EVENTFD2,
    Call.TIMERFD_CREATE, Call.TIMERFD_GETTIME, Call.EPOLL_CREATE1, Call.EPOLL_PWAIT, Call.SELECT, Call.PSELECT6,
    # sockets
    Call.CONNECT, Call.ACCEPT, Call.ACCEPT4, Call.SHUTDOWN, Call.BIND, Call.LISTEN, Call.GETSOCKNAME,
    Call.GETPEERNAME, Call.SETSOCKOPT, Call.GETSOCKOPT, Call.SOCKETPAIR,
    # the process itself
    Call.EXIT, Call.EXIT_GROUP, Call.GETPID, Call.GETTID, Call.GETPPID, Call.GETUID, Call.GETEUID, Call.GETGID,
    Call.GETEGID, Call.UNAME, Call.SYSINFO, Call.GETRUSAGE, Call.GETRANDOM, Call.GETCPU, Call.SCHED_GETAFFINITY,
    Call.SCHED_SETAFFINITY, Call.NANOSLEEP, Call.PAUSE, Call.CLOCK_GETRES, Call.SIGALTSTACK, Call.SET_ROBUST_LIST,
    Call.GET_ROBUST_LIST, Call.WAIT4, Call.WAITID, Call.FUTEX_WAKE, Call.FUTEX_WAIT,
)  # fmt: skip


def machine_rules(pid: int) -> Mapping[int, Rule]:
    """The rules for the process `pid`."""
    rules: dict[int, Rule] = {
        Call.IOCTL: Rule(
            arguments=(Argument(1, _IOCTL_TYPES, _TYPE_MASK),),
            # Typing on a terminal's behalf is a way out.
            refused=(Argument(1, (_TIOCSTI, _TIOCLINUX, _TIOCSCTTY)),),
        )
    }
    rules |= dict.fromkeys(_PLAIN, ANY)
    families = (int(socket.AF_UNIX), int(socket.AF_INET), int(socket.AF_INET6))
    rules |= {
        Call.SOCKET: Rule(arguments=(Argument(0, families),)),
        Call.CLONE: Rule(
            arguments=(Argument(0, (_CLONE_VM | _CLONE_THREAD,), _CLONE_VM | _CLONE_THREAD),)
        ),
        Call.TGKILL: Rule(arguments=(Argument(0, (pid,)),)),
        Call.RT_TGSIGQUEUEINFO: Rule(arguments=(Argument(0, (pid,)),)),
        Call.KILL: Rule(arguments=(Argument(0, (pid,)),)),
        Call.PRLIMIT64: Rule(arguments=(Argument(2, (0,)), Argument(0, (0, pid)))),
        Call.PRCTL: Rule(
            arguments=(
                Argument(
                    0,
                    (
                        _PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA, _PR_GET_DUMPABLE, _PR_SET_NO_NEW_PRIVS,
                        _PR_GET_NO_NEW_PRIVS, _PR_GET_SECCOMP,
                    ),
                ),
            )
        ),
    }  # fmt: skip
    return rules
