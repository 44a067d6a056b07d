"""``daemon.toml``: what an administrator sets once. The command line comes first, then this file, then the defaults.

::

    [listen]
    unix = true                       # false: only what is named below, or given by systemd
    legacy_socket = false             # also listen on libvirt-sock, where a bare "virsh" looks
    tcp = ["127.0.0.1:16509"]
    tls = ["0.0.0.0:16514"]

    [unix]
    group = "libvirt"                 # who besides root may use the read-write socket
    mode = "0770"
    mode_read_only = "0777"
    auth = "none"                     # or "sasl"

    [tcp]
    auth = "sasl"                     # or "none"

    [tls]
    auth = "none"                     # or "sasl": a password besides the certificate
    ca = "/etc/pki/CA/cacert.pem"
    certificate = "/etc/pki/libvirt/servercert.pem"
    key = "/etc/pki/libvirt/private/serverkey.pem"
    allowed_names = ["CN=*"]          # distinguished names that may connect; empty: all the CA signed

    [limits]
    clients = 5000
    keepalive_interval_s = 5
    keepalive_count = 5
"""

from __future__ import annotations

import tomllib
import types
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from pyhyve.support.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Auth", "Limits", "Listen", "Settings", "TcpSettings", "TlsSettings", "UnixSettings", "read_settings"]

_AUTH: Final = ("none", "sasl")
Auth = str


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen."""

    unix: bool = True
    legacy_socket: bool = False
    tcp: tuple[str, ...] = ()
    tls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UnixSettings:
    """The unix sockets."""

    group: str = ""
    mode: str = ""
    mode_read_only: str = "0777"
    auth: Auth = "none"


@dataclass(frozen=True, slots=True)
class TcpSettings:
    """Unencrypted connections."""

    auth: Auth = "sasl"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """Encrypted connections."""

    auth: Auth = "none"
    ca: str = "/etc/pki/CA/cacert.pem"
    certificate: str = "/etc/pki/libvirt/servercert.pem"
    key: str = "/etc/pki/libvirt/private/serverkey.pem"
    allowed_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits."""

    clients: int = 5000
    keepalive_interval_s: int = 5
    keepalive_count: int = 5


@dataclass(frozen=True, slots=True)
class Settings:
    """All of the file."""

    listen: Listen = field(default_factory=Listen)
    unix: UnixSettings = field(default_factory=UnixSettings)
    tcp: TcpSettings = field(default_factory=TcpSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    limits: Limits = field(default_factory=Limits)


def read_settings(path: Path) -> Settings:
    """Read the file; the defaults where there is none. Raises InputError, OSError."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        msg = f"{path}: {error}"
        raise InputError(msg) from error
    made: Settings = _table(Settings, document, str(path))
    for name, part in (("unix", made.unix), ("tcp", made.tcp), ("tls", made.tls)):
        if part.auth not in _AUTH:
            msg = f"{path}: {name}.auth: {part.auth!r} is not one of {', '.join(_AUTH)}"
            raise InputError(msg)
    for key, mode in (("mode", made.unix.mode), ("mode_read_only", made.unix.mode_read_only)):
        if mode and not (mode.isdigit() and not set(mode) - set("01234567") and int(mode, 8) <= 0o777):
            msg = f"{path}: unix.{key}: {mode!r} is no mode such as 0770"
            raise InputError(msg)
    return made


def _table(cls: Any, document: dict[str, Any], where: str) -> Any:
    types_ = get_type_hints(cls)
    known = {each.name for each in fields(cls)}
    values = {}
    for key, value in document.items():
        if key not in known:
            msg = f"{where}: {key} is not one of {', '.join(sorted(known))}"
            raise InputError(msg)
        values[key] = _value(types_[key], value, f"{where}: {key}")
    return cls(**values)


def _value(type_: Any, value: Any, where: str) -> Any:
    if is_dataclass(type_):
        if isinstance(value, dict):
            return _table(type_, value, where)
        msg = f"{where} is a table"
        raise InputError(msg)
    if isinstance(type_, types.GenericAlias):
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        msg = f"{where} is a list of texts"
        raise InputError(msg)
    if type(value) is not type_ or (type_ is int and value <= 0):
        msg = f"{where}: {value!r} is not {'a number above 0' if type_ is int else 'a ' + type_.__name__}"
        raise InputError(msg)
    return value
