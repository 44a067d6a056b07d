"""Command lines for virsh, in `sessions.txt`: each is a session, so that what one command changes the next one sees."""

from __future__ import annotations

from pathlib import Path

LINES = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
SESSIONS = tuple(line.partition(" | ")[0] for line in LINES.splitlines())

DIFFERENCES: dict[str, str] = {
    "secret-list": "virsh asks again in the words of libvirt before 0.10.2 and shows that failure",
    "nwfilter-list": "virsh asks again in the words of libvirt before 0.10.2 and shows that failure",
    "net-port-dumpxml default nosuch": "virsh exits with 0 although it failed",
    "connect": "both name the default daemon, which is not there, in words of their own",
}
"""Sessions that differ on purpose, each with the reason."""
