"""A machine in the background from QEMU's command line, steered through its monitor."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from .tiny import HALT, kernel, out32, print32

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "pyhyve.cli.system", "-accel", "tcg", "-m", "16", "-display", "none"]


def converse(path: Path, *commands: str) -> list[dict[str, Any]]:
    """Messages of a conversation that ends the machine, events included."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        with connection.makefile("rwb") as stream:
            for name in ("qmp_capabilities", *commands):
                stream.write(json.dumps({"execute": name}).encode())
            stream.flush()
            return [json.loads(line) for line in stream]


def wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 60
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        time.sleep(0.02)


def test_daemon_runs_until_quit_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program, monitor, pid, serial = (tmp_path / name for name in ("kernel", "qmp", "pid", "serial"))
    program.write_bytes(kernel(print32("hello\n") + HALT))
    words = ["-kernel", str(program), "-daemonize", "-pidfile", str(pid), "-serial", f"file:{serial}"]
    words += ["-qmp", f"unix:{monitor},server=on,wait=off"]
    done = subprocess.run([*COMMAND, *words], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    os.kill(int(pid.read_text()), 0)
    second = subprocess.run([*COMMAND, *words[:4], str(pid)], check=False, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert "another process holds it" in second.stderr
    deadline = time.monotonic() + 60
    while serial.read_text() != "hello\n":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    messages = converse(monitor, "query-status", "stop", "quit")
    replies = [message["return"] for message in messages if "return" in message]
    assert replies == [{}, {"status": "running", "singlestep": False, "running": True}, {}, {}]
    assert [message["event"] for message in messages if "event" in message] == ["STOP", "SHUTDOWN"]
    wait_until_gone(pid)
    assert not monitor.exists()


def test_no_shutdown_keeps_the_machine_after_its_power_off(tmp_path: Path) -> None:
    program, monitor = tmp_path / "kernel", tmp_path / "qmp"
    program.write_bytes(kernel(out32(0x604, 0x3400, size=2) + HALT))
    words = ["-kernel", str(program), "-S", "-no-shutdown", "-qmp", f"unix:{monitor},server=on,wait=off", "-daemonize"]
    subprocess.run([*COMMAND, *words], check=True, timeout=120)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(monitor))
        with connection.makefile("rwb") as stream:
            stream.write(b'{"execute":"qmp_capabilities"}{"execute":"cont"}')
            stream.flush()
            events = []
            while "STOP" not in events:
                events.append(json.loads(stream.readline()).get("event"))
    assert [event for event in events if event] == ["RESUME", "SHUTDOWN", "STOP"]
    messages = converse(monitor, "query-status", "cont", "system_reset", "query-status", "quit")
    answers = [message.get("return", message.get("error")) for message in messages if "event" not in message][2:]
    assert answers[0]["status"] == "shutdown"
    assert answers[1] == {"class": "GenericError", "desc": "Resetting the Virtual Machine is required"}
    assert answers[3]["status"] == "prelaunch"
