"""A scripted machine and its monitor over sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pyhyve.accel.api import ExitKind
from pyhyve.backends.chardev import MemoryChardev
from pyhyve.machine.builder import build
from pyhyve.machine.config import MIB, DiskConfig, MachineConfig
from pyhyve.machine.monitor import server
from pyhyve.machine.monitor.monitor import Monitor
from pyhyve.machine.monitor.schema import SCHEMA
from pyhyve.machine.monitor.types import member_name
from pyhyve.machine.outcome import Outcome, OutcomeKind
from pyhyve.support.errors import InputError, UserError
from tests.unit.machine.fake_vm import FakeVm
from tests.unit.machine.test_machine import make_kernel

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from pyhyve.memory.guest import GuestMemory
    from tests.unit.machine.fake_vm import FakeVcpu


def idle(cpu: FakeVcpu) -> Generator[None, None, None]:
    while True:
        yield from cpu.leave(ExitKind.HALT)


class Client:
    """Reads and writes messages; events are kept aside."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        self._connection = connection
        self._file = connection.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        self.greeting = self.read()
        assert self.ask("qmp_capabilities") == {}

    def read(self) -> dict[str, Any]:
        line = self._file.readline()
        return dict(json.loads(line)) if line else {}

    def send(self, data: bytes) -> None:
        self._file.write(data)
        self._file.flush()

    def reply(self) -> dict[str, Any]:
        while True:
            message = self.read()
            if "event" not in message:
                return message
            self.events.append(message)

    def ask(self, name: str, /, **arguments: Any) -> Any:
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(json.dumps({"execute": name, "arguments": named}).encode())
        reply = self.reply()
        return reply["return"] if "return" in reply else reply["error"]

    def wait_event(self, name: str) -> dict[str, Any]:
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event
            message = self.read()
            assert "event" in message, message
            self.events.append(message)

    def close(self) -> None:
        self._file.close()
        self._connection.close()


class Bench:
    """A running machine with a monitor."""

    def __init__(self, tmp_path: Path, **settings: Any) -> None:
        self.path = tmp_path / "qmp"
        self.vms: list[FakeVm] = []
        config = MachineConfig(
            name="bench",
            memory_bytes=64 * MIB,
            cpus=2,
            kernel=make_kernel(tmp_path / "kernel"),
            timeout_s=60,
            **settings,
        )

        def open_engine(_choice: str, memory: GuestMemory) -> FakeVm:
            self.vms.append(FakeVm(memory, idle, idle))
            return self.vms[0]

        self.machine = build(config, console=MemoryChardev(), open_engine=open_engine)
        self.tcp = server.listen_tcp("127.0.0.1", 0, "tcp0")
        Monitor(self.machine, [server.listen_unix(self.path), self.tcp]).start()
        self.outcome: Outcome | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._clients: list[Client] = []

    def _run(self) -> None:
        self.outcome = self.machine.run()

    def client(self) -> Client:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        self._clients.append(Client(connection))
        return self._clients[-1]

    def end(self) -> Outcome:
        self._thread.join(60)
        assert self.outcome is not None
        return self.outcome

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.machine.request_stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(MIB))
    made = Bench(
        tmp_path,
        disks=(DiskConfig(disk, "raw", drive_id="drive0", device_id="vd0", node_name="node0"),),
        start_paused=True,
    )
    yield made
    made.close()


def conforms(value: object, type_name: str | list[str]) -> bool:
    """Whether `value` is what the schema promises."""
    if isinstance(type_name, list):
        return isinstance(value, list) and all(conforms(item, type_name[0]) for item in value)
    if type_name in SCHEMA.enums:
        return value in SCHEMA.enums[type_name]
    if type_name in SCHEMA.structs:
        if type_name == "SchemaInfo":
            return isinstance(value, dict) and {"name", "meta-type"} <= set(value)
        members = dict(map(member_name, SCHEMA.structs[type_name].members))
        types = {member_name(name)[0]: of for name, of in SCHEMA.structs[type_name].members.items()}
        return (
            isinstance(value, dict)
            and set(value) <= set(members)
            and all(name in value or optional for name, optional in members.items())
            and all(conforms(item, types[name]) for name, item in value.items())
        )
    wanted = {"str": str, "int": int, "size": int, "uint64": int, "number": (int, float), "bool": bool}[type_name]
    return isinstance(value, wanted)


QUERIES = [
    name for name, command in SCHEMA.commands.items() if command.returns and not (command.arguments or command.boxed)
]


def test_every_query_answers_what_the_schema_says(bench: Bench) -> None:
    client = bench.client()
    for name in set(QUERIES) - {"query-balloon", "query-vm-generation-id"}:  # there are none
        returns = SCHEMA.commands[name].returns
        assert returns is not None
        assert conforms(client.ask(name), returns), name


def test_pausing_and_going_on_is_over_when_the_reply_comes(bench: Bench) -> None:
    client, other = bench.client(), bench.client()
    assert client.ask("query-status") == {"running": False, "singlestep": False, "status": "prelaunch"}
    assert client.ask("cont") == {}
    assert client.ask("query-status")["status"] == "running"
    assert client.ask("stop") == {}
    assert client.ask("query-status") == {"running": False, "singlestep": False, "status": "paused"}
    for watcher in (client, other):
        assert watcher.wait_event("RESUME")
        assert watcher.wait_event("STOP")["timestamp"]["seconds"] > 1_000_000_000


def test_reset_and_power_button_become_events(bench: Bench) -> None:
    client = bench.client()
    client.ask("cont")
    assert client.ask("system_reset") == {}
    assert client.wait_event("RESET")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}
    assert client.ask("system_powerdown") == {}
    assert client.wait_event("POWERDOWN")
    assert client.ask("inject-nmi") == {}
    assert [vcpu.nmis for vcpu in bench.vms[0].vcpus] == [1, 0]


def test_set_action_makes_a_reset_the_end(bench: Bench) -> None:
    client = bench.client()
    assert client.ask("set-action", reboot="shutdown") == {}
    client.ask("cont")
    client.ask("system_reset")
    assert client.wait_event("SHUTDOWN")["data"]["reason"] == "host-qmp-system-reset"
    assert bench.end().kind is OutcomeKind.RESET


def test_quit_answers_first_and_leaves_no_socket(bench: Bench) -> None:
    client = bench.client()
    assert client.ask("quit") == {}
    assert client.wait_event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-quit"}
    assert client.read() == {}
    assert bench.end().kind is OutcomeKind.STOPPED
    assert not bench.path.exists()


def test_disk_is_described(bench: Bench) -> None:
    (drive,) = bench.client().ask("query-block")
    assert drive["device"] == "drive0"
    assert drive["qdev"] == "/machine/peripheral/vd0/virtio-backend"
    assert drive["inserted"]["node-name"] == "node0"
    assert drive["inserted"]["image"]["virtual-size"] == MIB
    functions = bench.client().ask("query-pci")[0]["devices"]
    assert [device["qdev_id"] for device in functions if device["qdev_id"]] == ["vd0"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("info status", "VM status: paused (prelaunch)\r\n"),
        ("info name", "bench\r\n"),
        ("info kvm", "kvm support: disabled\r\n"),
        ("info block", "drive0 (node0): "),
        ("info pci", "  Bus  0, device   0, function 0:\r\n    Host bridge: PCI device 8086:1237\r\n"),
        ("info registers", "\r\nCPU#0\r\nRAX="),
        ("info cpus", "* CPU #0: thread_id="),
        ("info chardev", "serial0: filename="),
        ("info version", "7.2.0 (pyhyve "),
        ("info uuid", ""),
        ("info", "info balloon  -- "),
        ("info none", "unknown command: 'info none'\r\n"),
        ("help", "balloon target -- "),
        ("help c", "cont|c  -- resume emulation\r\n"),
        ("help info status", "info status  -- "),
        ("help none", "unknown command: 'none'\r\n"),
        ("cpu 1", ""),
        ("cpu 2", "invalid CPU index\r\n"),
        ("cpu x", "invalid char 'x' in expression\r\nTry \"help cpu\" for more information\r\n"),
        ("cpu", "unexpected end of expression\r\n"),
        ("stop now", "stop|s: extraneous characters"),
        ("none", "unknown command: 'none'\r\n"),
        ("", ""),
    ],
)
def test_human_monitor_command(bench: Bench, line: str, words: str) -> None:
    answer = bench.client().ask("human-monitor-command", command_line=line)
    assert answer.startswith(words)


def test_human_monitor_acts_on_the_machine(bench: Bench) -> None:
    client = bench.client()
    assert client.ask("human-monitor-command", command_line="c") == ""
    assert client.ask("human-monitor-command", command_line="info registers", cpu_index=1).startswith("\r\nCPU#1\r\n")
    assert client.ask("query-status")["status"] == "running"
    assert client.ask("human-monitor-command", command_line="info registers", cpu_index=9)["class"] == "GenericError"


def test_tcp_client_and_vanishing_clients(bench: Bench) -> None:
    port = bench.tcp.socket.getsockname()[1]
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b'{"execute":"qmp_capabilities"}{"execute":"query-qmp-schema"}')
    client = Client(socket.create_connection(("127.0.0.1", port), timeout=60))
    labels = [entry["label"] for entry in client.ask("query-chardev")]
    assert sorted(labels) == ["compat_monitor0", "serial0", "tcp0"]
    client.close()


def test_client_that_does_not_read_is_not_read_either(bench: Bench) -> None:
    client = bench.client()
    stuck = socket.socket(socket.AF_UNIX)
    stuck.connect(str(bench.path))
    stuck.setblocking(False)
    requests = b'{"execute":"qmp_capabilities"}' + b'{"execute":"query-qmp-schema"}' * 20_000
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(requests):
            sent += stuck.send(requests[sent:])
    assert sent < len(requests)
    assert client.ask("query-name") == {"name": "bench"}
    stuck.close()


def test_only_so_many_clients(bench: Bench) -> None:
    clients = [bench.client() for _ in range(server.MAX_CLIENTS)]
    with socket.socket(socket.AF_UNIX) as late:
        late.settimeout(60)
        late.connect(str(bench.path))
        assert late.recv(1) == b""
    assert clients[0].ask("query-name") == {"name": "bench"}


def test_listeners_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="monitor unix:"):
        server.listen_unix(tmp_path / "missing" / "socket")
    with pytest.raises(InputError, match="not in 0"):
        server.listen_tcp("127.0.0.1", 70000)
    read_end, write_end = os.pipe()
    try:
        with pytest.raises(InputError, match="is not a socket"):
            server.listen_descriptor(read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    with socket.socket(socket.AF_UNIX) as idle_socket, pytest.raises(InputError, match="does not listen"):
        server.listen_descriptor(idle_socket.fileno())


def test_inherited_listener_serves(tmp_path: Path) -> None:
    given = socket.socket(socket.AF_UNIX)
    given.bind(str(tmp_path / "given"))
    given.listen()
    listener = server.listen_descriptor(given.detach())
    assert listener.description == f"unix:{tmp_path / 'given'},server=on"
    listener.close()
