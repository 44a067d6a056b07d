"""Secrets."""

from __future__ import annotations

import base64
import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from pyhyve.cli.virsh.documents import DUMP_USAGE, show
from pyhyve.cli.virsh.flags import collect, exclusive
from pyhyve.cli.virsh.registry import verb
from pyhyve.cli.virsh.shell import VerbFailed, read_file
from pyhyve.client import LibvirtError

if TYPE_CHECKING:
    from pyhyve.cli.virsh.shell import Shell
    from pyhyve.cli.virsh.syntax import Values

_USAGES: Final = ("none", "volume", "ceph", "iscsi", "tls", "vtpm")
_VALUE_BYTES_MOST: Final = 1 << 20


def _secret(shell: Shell, values: Values) -> Any:  # noqa: ANN401 - a record
    text = values.text("secret")
    try:
        return shell.call("SECRET_LOOKUP_BY_UUID", UUID(text).bytes).secret
    except ValueError as error:
        msg = f"failed to get secret '{text}'"
        shell.connection  # noqa: B018 - a daemon out of reach is said first
        raise VerbFailed(msg, "uuidstr in virSecretLookupByUUIDString must be a valid UUID") from error
    except LibvirtError as error:
        msg = f"failed to get secret '{text}'"
        raise VerbFailed(msg, str(error)) from error


@verb("secret-list", "secret", "[--ephemeral] [--no-ephemeral] [--private] [--no-private]", "secrets")
def secret_list(shell: Shell, values: Values) -> None:
    """List secrets."""
    flags = collect(values, {"ephemeral": 1, "no-ephemeral": 2, "private": 4, "no-private": 8})
    with shell.failing("Failed to list secrets"):
        found = shell.call("CONNECT_LIST_ALL_SECRETS", 1, flags).secrets
    rows = []
    for secret in sorted(found, key=lambda s: str(UUID(bytes=s.uuid))):
        kind = _USAGES[secret.usage_type] if secret.usage_type < len(_USAGES) else "unknown"
        usage = f"{kind} {secret.usage_id}" if secret.usage_type else "Unused"
        rows.append([str(UUID(bytes=secret.uuid)), usage])
    shell.table(["UUID", "Usage"], rows)


@verb("secret-define", "secret", "<file> [--validate]", "add or change a secret's attributes")
def secret_define(shell: Shell, values: Values) -> None:
    """Define a secret."""
    path, flags = values.text("file"), collect(values, {"validate": 1})
    xml = read_file(path)
    with shell.failing(f"Failed to set attributes from {path}"):
        secret = shell.call("SECRET_DEFINE_XML", xml, flags).secret
    shell.say(f"Secret {UUID(bytes=secret.uuid)} created")


@verb("secret-dumpxml", "secret", f"<secret> {DUMP_USAGE}", "a secret's attributes")
def secret_dumpxml(shell: Shell, values: Values) -> None:
    """Show a secret's document."""
    show(shell, values, shell.call("SECRET_GET_XML_DESC", _secret(shell, values), 0).xml)


@verb(
    "secret-set-value",
    "secret",
    "<secret> [--file <string>] [--plain] [--interactive] [--base64 <string>]",
    "set a secret's value",
)
def secret_set_value(shell: Shell, values: Values) -> None:
    """Set a value."""
    exclusive(values, "file", "base64")
    exclusive(values, "plain", "base64")
    exclusive(values, "interactive", "base64")
    exclusive(values, "interactive", "plain")
    exclusive(values, "interactive", "file")
    path, encoded = values.get("file"), values.get("base64")
    secret = _secret(shell, values)
    if values.flag("plain") and path is None:
        msg = "Option --file is required by option --plain"
        raise VerbFailed(msg)
    if encoded is not None:
        shell.error("Passing secret value as command-line argument is insecure!")
        raw = _decoded(encoded.encode())
    elif path is not None:
        try:
            with Path(path).open("rb") as file:
                raw = file.read(_VALUE_BYTES_MOST)
        except OSError as error:
            msg = f"Failed to open file '{path}': {error.strerror}"
            raise VerbFailed(msg) from error
        raw = raw if values.flag("plain") else _decoded(raw)
    elif values.flag("interactive"):
        raw = getpass.getpass("Enter new value for secret:").encode()
    else:
        msg = "Input secret value is missing"
        raise VerbFailed(msg)
    with shell.failing("Failed to set secret value"):
        shell.call("SECRET_SET_VALUE", secret, raw, 0)
    shell.say("Secret value set")


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(text)
    except ValueError as error:
        msg = "Invalid base64 data"
        raise VerbFailed(msg) from error


@verb("secret-get-value", "secret", "<secret> [--plain]", "a secret's value")
def secret_get_value(shell: Shell, values: Values) -> None:
    """Show a value."""
    value = shell.call("SECRET_GET_VALUE", _secret(shell, values), 0).value
    if values.flag("plain"):
        import sys

        sys.stdout.flush()
        sys.stdout.buffer.write(value)
    else:
        shell.write(base64.b64encode(value).decode())


@verb("secret-undefine", "secret", "<secret>", "remove a secret")
def secret_undefine(shell: Shell, values: Values) -> None:
    """Remove a secret."""
    secret, text = _secret(shell, values), values.text("secret")
    with shell.failing(f"Failed to delete secret {text}"):
        shell.call("SECRET_UNDEFINE", secret)
    shell.say(f"Secret {text} deleted")
