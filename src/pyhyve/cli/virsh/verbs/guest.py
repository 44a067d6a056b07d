"""Domains: talking to the guest: console, keys, agent, and the machine's monitor."""

from __future__ import annotations

import datetime as dt
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.keycodes import CODESETS, key_code
from pyhyve.cli.virsh.output import param_text
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_AGENT_TIMEOUTS: Final = {"block": -2, "default": -1, "nowait": 0}
_SIGNALS: Final = (
    "nop",
    "hup",
    "int",
    "quit",
    "ill",
    "trap",
    "abrt",
    "bus",
    "fpe",
    "kill",
    "usr1",
    "segv",
    "usr2",
    "pipe",
    "alrm",
    "term",
    "stkflt",
    "chld",
    "cont",
    "stop",
    "tstp",
    "ttin",
    "ttou",
    "urg",
    "xcpu",
    "xfsz",
    "vtalrm",
    "prof",
    "winch",
    "poll",
    "pwr",
    "sys",
)
_GUEST_INFO: Final = {"user": 1, "os": 2, "timezone": 4, "hostname": 8, "filesystem": 16, "disk": 32, "interface": 64}
_HOLD_MS_MOST: Final = (1 << 31) - 1
_KEYS_MOST: Final = 16


@verb("console", "domain", "<domain> [--devname <string>] [--force] [--safe]", "a domain's console on this terminal")
def console(shell: Shell, values: Values) -> None:
    """Attach to a console."""
    from pyhyve.cli.virsh.console import attach

    attach(shell, shell.domain(values), values.get("devname"), collect(values, {"force": 1, "safe": 2}))


@verb(
    "send-key",
    "domain",
    "<domain> [--codeset=<string>] [--holdtime=<number>] {[--keycode] <string>}...",
    "press keys in the guest",
)
def send_key(shell: Shell, values: Values) -> None:
    """Press keys."""
    domain, codeset = shell.domain(values), values.get("codeset") or "linux"
    hold = values.number("holdtime", minimum=0, maximum=_HOLD_MS_MOST) or 0
    if codeset not in CODESETS:
        msg = f"unknown codeset: '{codeset}'"
        raise VerbFailed(msg)
    words = values.words("keycode")
    if len(words) > _KEYS_MOST:
        msg = "too many keycodes"
        raise VerbFailed(msg)
    codes = []
    for word in words:
        code = key_code(word, codeset)
        if code is None:
            msg = f"invalid keycode: '{word}'"
            raise VerbFailed(msg)
        codes.append(code)
    shell.call("DOMAIN_SEND_KEY", domain.ref, CODESETS.index(codeset), hold, codes, 0)


@verb("send-process-signal", "domain", "<domain> <pid> <signame>", "signal a process in a container guest")
def send_process_signal(shell: Shell, values: Values) -> None:
    """Send a signal."""
    domain, word = shell.domain(values), values.text("signame").lower().removeprefix("sig_").removeprefix("sig")
    if word not in _SIGNALS and not word.isdigit():
        msg = f"malformed signal name: {values.text('signame')}"
        raise VerbFailed(msg)
    number = int(word) if word.isdigit() else _SIGNALS.index(word)
    shell.call("DOMAIN_SEND_PROCESS_SIGNAL", domain.ref, values.number("pid"), number, 0)


@verb("screenshot", "domain", "<domain> [--file <string>] [--screen <number>]", "write what a display shows to a file")
def screenshot(shell: Shell, values: Values) -> None:
    """Take a screenshot."""
    domain, screen = shell.domain(values), values.number("screen", minimum=0) or 0
    with shell.failing(f"could not take a screenshot of {domain.name}"):
        mime, stream = domain.screenshot(screen)
    given = values.get("file")
    extension = {"image/x-portable-pixmap": ".ppm", "image/png": ".png"}.get(mime or "", "")
    stamp = dt.datetime.now().astimezone().strftime("%Y-%m-%d-%H:%M:%S")
    path = Path(given or f"{domain.name}-{stamp}{extension}")
    try:
        with path.open("wb") as file, stream:
            while data := stream.receive():
                file.write(data)
    except OSError as error:
        msg = f"cannot create file {path}"
        raise VerbFailed(msg) from error
    shell.say(f"Screenshot saved to {path}, with type of {mime}")


# -- the monitor -------------------------------------------------------------------------------------------------------


@verb(
    "qemu-monitor-command",
    "domain",
    "<domain> [--hmp] [--pretty] [--return-value] [--pass-fds=<string>] {[--cmd] <string>}...",
    "a command to the machine's monitor",
)
def qemu_monitor_command(shell: Shell, values: Values) -> None:
    """Send a monitor command."""
    exclusive(values, "hmp", "pretty")
    exclusive(values, "hmp", "return-value")
    domain, text = shell.domain(values), " ".join(values.words("cmd"))
    human = values.flag("hmp")
    if not human and not text.lstrip().startswith("{"):
        text = _wrapped(values.words("cmd"))
    fds = [int(word) for word in (values.get("pass-fds") or "").split(",") if word.isdigit()]
    if fds:
        reply = shell.connection.session.exchange(
            "QEMU_DOMAIN_MONITOR_COMMAND_WITH_FILES", domain.ref, text, int(human), fds=fds
        )
        result = reply.result.result
    else:
        result = shell.call("QEMU_DOMAIN_MONITOR_COMMAND", domain.ref, text, int(human)).result
    if human:
        shell.print((result or "").replace("\r\n", "\n"))
        return
    if values.flag("return-value"):
        answer = json.loads(result)
        if "return" not in answer:
            msg = "'return' member missing"
            raise VerbFailed(msg)
        result = json.dumps(answer["return"], separators=(",", ":"))
    shell.print(_pretty(result) if values.flag("pretty") else result)


def _wrapped(words: list[str]) -> str:
    """A monitor command given as a name and arguments (or as pieces of JSON) in the monitor's own form."""
    if words and words[0].startswith("{"):
        return " ".join(words)
    document: dict[str, object] = {"execute": words[0]}
    if len(words) > 1:
        try:
            document["arguments"] = json.loads(" ".join(words[1:]))
        except ValueError as error:
            msg = f"failed to wrap arguments '{' '.join(words[1:])}' into a QMP command wrapper"
            raise VerbFailed(msg) from error
    return json.dumps(document)


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text


@verb("qemu-attach", "domain", "<pid>", "take over a machine process started by hand")
def qemu_attach(shell: Shell, values: Values) -> None:
    """Take over a process."""
    pid = values.number("pid", minimum=0, maximum=(1 << 31) - 1)
    with shell.failing(f"Failed to attach to pid {pid}"):
        ref = shell.call("QEMU_DOMAIN_ATTACH", pid, 0).dom
    shell.say(f"Domain '{ref.name}' attached to pid {pid}")


# -- the agent ---------------------------------------------------------------------------------------------------------


@verb(
    "qemu-agent-command",
    "domain",
    "<domain> [--timeout=<number>] [--async] [--block] [--pretty] {[--cmd] <string>}...",
    "a command to the guest's agent",
)
def qemu_agent_command(shell: Shell, values: Values) -> None:
    """Send an agent command."""
    if sum((values.flag("async"), values.flag("block"), values.get("timeout") is not None)) > 1:
        msg = "timeout, async and block options are exclusive"
        raise VerbFailed(msg)
    domain, timeout = shell.domain(values), values.number("timeout", minimum=-2, maximum=(1 << 31) - 1)
    if timeout is not None and timeout < 1:
        msg = "timeout must be positive"
        raise VerbFailed(msg)
    if values.flag("async"):
        timeout = 0
    elif values.flag("block"):
        timeout = -2
    command = " ".join(values.words("cmd"))
    result = shell.call("QEMU_DOMAIN_AGENT_COMMAND", domain.ref, command, -2 if timeout is None else timeout, 0).result
    if result is not None:
        shell.print(_pretty(result) if values.flag("pretty") else result)


@verb("guest-agent-timeout", "domain", "<domain> [--timeout <number>]", "how long to wait for the guest's agent (s)")
def guest_agent_timeout(shell: Shell, values: Values) -> None:
    """Set the agent's timeout."""
    domain, timeout = shell.domain(values), values.number("timeout", minimum=-2, maximum=(1 << 31) - 1)
    shell.call("DOMAIN_AGENT_SET_RESPONSE_TIMEOUT", domain.ref, -2 if timeout is None else timeout, 0)


@verb(
    "guestinfo", "domain", "<domain> " + " ".join(f"[--{name}]" for name in _GUEST_INFO), "what the guest's agent tells"
)
def guestinfo(shell: Shell, values: Values) -> None:
    """Show what the agent tells."""
    domain = shell.domain(values)
    for param in shell.call("DOMAIN_GET_GUEST_INFO", domain.ref, collect(values, _GUEST_INFO), 0).params:
        shell.print(f"{param.field:<20}: {param_text(param)}")


@verb("domfsinfo", "domain", "<domain>", "file systems mounted in the guest")
def domfsinfo(shell: Shell, values: Values) -> None:
    """List mounted file systems."""
    domain = shell.domain(values)
    with shell.failing("Unable to get filesystem information"):
        found = shell.call("DOMAIN_GET_FSINFO", domain.ref, 0).info
    if not found:
        shell.hint("No filesystems are mounted in the domain")
        return
    rows = [[fs.mountpoint, fs.name, fs.fstype, ",".join(fs.dev_aliases)] for fs in found]
    shell.table(["Mountpoint", "Name", "Type", "Target"], rows)


@verb("domfsfreeze", "domain", "<domain> [[--mountpoint] <string>]...", "hold the guest's file systems still")
def domfsfreeze(shell: Shell, values: Values) -> None:
    """Freeze file systems."""
    domain = shell.domain(values)
    with shell.failing("Unable to freeze filesystems"):
        count = shell.call("DOMAIN_FSFREEZE", domain.ref, values.words("mountpoint"), 0).filesystems
    shell.hint(f"Froze {count} filesystem(s)\n")


@verb("domfsthaw", "domain", "<domain> [[--mountpoint] <string>]...", "let the guest's file systems go on")
def domfsthaw(shell: Shell, values: Values) -> None:
    """Thaw file systems."""
    domain = shell.domain(values)
    with shell.failing("Unable to thaw filesystems"):
        count = shell.call("DOMAIN_FSTHAW", domain.ref, values.words("mountpoint"), 0).filesystems
    shell.hint(f"Thawed {count} filesystem(s)\n")


@verb(
    "domfstrim",
    "domain",
    "<domain> [--minimum <number>] [--mountpoint <string>]",
    "discard what the guest does not use",
)
def domfstrim(shell: Shell, values: Values) -> None:
    """Trim file systems."""
    domain, minimum = shell.domain(values), values.number("minimum", minimum=0)
    with shell.failing("Unable to invoke fstrim"):
        shell.call("DOMAIN_FSTRIM", domain.ref, values.get("mountpoint"), minimum or 0, 0)


@verb("domhostname", "domain", "<domain> [--source <string>]", "the guest's name for itself")
def domhostname(shell: Shell, values: Values) -> None:
    """Show the guest's host name."""
    sources = {None: 0, "lease": 1, "agent": 2}
    domain, source = shell.domain(values), values.get("source")
    if source not in sources:
        msg = f"Unknown data source '{source}'"
        raise VerbFailed(msg)
    with shell.failing("failed to get hostname"):
        shell.print(shell.call("DOMAIN_GET_HOSTNAME", domain.ref, sources[source]).hostname)


@verb("set-user-password", "domain", "<domain> <user> <password> [--encrypted]", "set a user's password in the guest")
def set_user_password(shell: Shell, values: Values) -> None:
    """Set a password."""
    domain, user = shell.domain(values), values.text("user")
    password, flags = values.text("password"), collect(values, {"encrypted": 1})
    shell.call("DOMAIN_SET_USER_PASSWORD", domain.ref, user, password, flags)
    shell.hint(f"Password set successfully for {user} in {domain.name}")


@verb("get-user-sshkeys", "domain", "<domain> <user>", "a guest user's authorized ssh keys")
def get_user_sshkeys(shell: Shell, values: Values) -> None:
    """Show authorized keys."""
    domain = shell.domain(values)
    for key in shell.call("DOMAIN_AUTHORIZED_SSH_KEYS_GET", domain.ref, values.text("user"), 0).keys:
        shell.print(key)


@verb(
    "set-user-sshkeys",
    "domain",
    "<domain> <user> [--file <string>] [--reset] [--remove]",
    "change a guest user's ssh keys",
)
def set_user_sshkeys(shell: Shell, values: Values) -> None:
    """Change authorized keys."""
    from pyhyve.cli.virsh.shell import read_file

    domain, path = shell.domain(values), values.get("file")
    flags = collect(values, {"remove": 2})
    if not flags and not values.flag("reset"):
        flags = 1  # append
    if path is None:
        if flags:
            msg = "Option --file is required" + (" by option --remove" if flags & 2 else "")
            raise VerbFailed(msg)
        keys = []
    else:
        keys = [line for line in read_file(path).splitlines() if line.strip() and not line.startswith("#")]
        if not keys:
            msg = f"File {path} contains no keys"
            raise VerbFailed(msg)
    shell.call("DOMAIN_AUTHORIZED_SSH_KEYS_SET", domain.ref, values.text("user"), keys, flags)


@verb(
    "domsetlaunchsecstate",
    "domain",
    "<domain> [--secrethdr <string>] [--secret <string>] [--set-address <number>]",
    "hand a launch secret to a confidential guest",
)
def domsetlaunchsecstate(shell: Shell, values: Values) -> None:
    """Set launch security state."""
    from pyhyve.cli.virsh.shell import read_file
    from pyhyve.rpc.values import ParamType, TypedParam

    header, secret = values.get("secrethdr"), values.get("secret")
    if header is None or secret is None:
        msg = "Both secret and the secret header are required"
        raise VerbFailed(msg)
    domain = shell.domain(values)
    params = [
        TypedParam("sev-secret-header", ParamType.STRING, read_file(header)),
        TypedParam("sev-secret", ParamType.STRING, read_file(secret)),
    ]
    if (address := values.number("set-address", minimum=0)) is not None:
        params.append(TypedParam("sev-secret-set-address", ParamType.ULLONG, address))
    with shell.failing("Unable to set launch security state"):
        shell.call("DOMAIN_SET_LAUNCH_SECURITY_STATE", domain.ref, params, 0)


@verb(
    "dom-fd-associate",
    "domain",
    "<domain> <name> <pass-fds> [--seclabel-writable] [--seclabel-restore]",
    "hand descriptors to a domain's definition under a name",
)
def dom_fd_associate(shell: Shell, values: Values) -> None:
    """Associate descriptors."""
    domain, words = shell.domain(values), values.text("pass-fds").split(",")
    if not all(word.isdigit() for word in words):
        msg = f"Unable to parse FD number '{next(word for word in words if not word.isdigit())}'"
        raise VerbFailed(msg)
    flags = collect(values, {"seclabel-restore": 1, "seclabel-writable": 2})
    fds = [int(word) for word in words]
    shell.connection.session.exchange("DOMAIN_FD_ASSOCIATE", domain.ref, values.text("name"), flags, fds=fds)


@verb(
    "lxc-enter-namespace",
    "domain",
    "<domain> [--noseclabel] {[--cmd] <string>}...",
    "LXC Guest Enter Namespace",
)
def lxc_enter_namespace(shell: Shell, values: Values) -> None:
    """Ask for a container's namespaces; only a driver of containers has any, and none is supported here."""
    domain = shell.domain(values)
    try:
        reply = shell.connection.session.exchange("LXC_DOMAIN_OPEN_NAMESPACE", domain.ref, 0)
    except LibvirtError as error:
        if "Cannot find program" not in str(error):
            raise
        msg = "this function is not supported by the connection driver: virDomainLxcOpenNamespace"
        raise VerbFailed(msg) from error  # a daemon without containers does not know the program at all
    for fd in reply.fds:
        os.close(fd)
    msg = "commands in a container's namespaces are not supported by this virsh"
    raise VerbFailed(msg)
