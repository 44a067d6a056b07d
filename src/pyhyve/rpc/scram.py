"""SCRAM-SHA-256, both sides, without I/O: messages in, messages out.

Source: RFC 5802 (SCRAM), RFC 7677 (SHA-256), RFC 4013 (SASLprep). Without channel binding: libvirt's clients have none.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MECHANISM", "Credential", "ScramClient", "ScramError", "ScramServer", "derive_credential", "saslprep"]

MECHANISM: Final = "SCRAM-SHA-256"
ITERATIONS: Final = 15_000
"""Rounds of hashing for new passwords (RFC 7677 section 4 asks for at least 4096)."""
_MESSAGE_MAX: Final = 4096
_ROUNDS_LEAST: Final = 4096
_ROUNDS_MOST: Final = 10_000_000
"""What a client lets a server ask for: less is weak (RFC 7677 section 4), more would keep it busy for minutes."""


class ScramError(ValueError):
    """The exchange failed; the reason is for the log: a client is only told that it failed."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a server keeps of a password (RFC 5802 section 3). Its text is the one PostgreSQL uses."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    def __str__(self) -> str:
        salt, stored, server = (_text(part) for part in (self.salt, self.stored_key, self.server_key))
        return f"{MECHANISM}${self.iterations}:{salt}${stored}:{server}"

    @classmethod
    def parse(cls, text: str) -> Credential:
        """Parse :meth:`__str__`'s text. Raises ValueError."""
        mechanism, parameters, keys = text.split("$")
        iterations, salt = parameters.split(":")
        stored, server = keys.split(":")
        made = cls(_bytes(salt), int(iterations), _bytes(stored), _bytes(server))
        if mechanism != MECHANISM or {len(made.stored_key), len(made.server_key)} != {hashlib.sha256().digest_size}:
            msg = f"no {MECHANISM} credential"
            raise ValueError(msg)
        return made


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def saslprep(text: str) -> str:
    """Prepare a name or password for comparing (RFC 4013). Raises ValueError for characters it forbids."""
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in text
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    forbidden = (
        stringprep.in_table_a1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(test(character) for character in prepared for test in forbidden):
        msg = "a character that names and passwords may not have"
        raise ValueError(msg)
    if any(map(stringprep.in_table_d1, prepared)):
        ends_right = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not ends_right or any(map(stringprep.in_table_d2, prepared)):
            msg = "directions of writing are mixed"
            raise ValueError(msg)
    return prepared


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def derive_credential(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> Credential:
    """Return what to keep of a password. Raises ValueError where it has characters passwords may not have."""
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = _salted(password, salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return Credential(salt, iterations, stored, _hmac(salted, b"Server Key"))


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)


def _attributes(message: str) -> dict[str, str]:
    attributes = {}
    for part in message.split(","):
        name, equals, value = part.partition("=")
        if not equals or len(name) != 1 or name in attributes:
            msg = "a message is no list of attributes"
            raise ScramError(msg)
        attributes[name] = value
    return attributes


class ScramServer:
    """One exchange: :meth:`first`, then :meth:`final`. ``user`` is set once it succeeded."""

    def __init__(
        self, look_up: Callable[[str], Credential | None], nonce: Callable[[], str] = lambda: secrets.token_urlsafe(24)
    ) -> None:
        self._look_up = look_up
        self._nonce = nonce
        self._credential: Credential | None = None
        self._name = ""
        self._sent = ""
        self._signed = ""
        self._header = ""
        self.user: str | None = None

    def first(self, data: bytes) -> bytes:
        """Answer the client's first message. Raises ScramError."""
        message = _decoded(data)
        binding, _, rest = message.partition(",")
        authority, _, bare = rest.partition(",")
        if binding not in {"n", "y"}:
            msg = "the client asks for channel binding"
            raise ScramError(msg)
        attributes = _attributes(bare)
        if not {"n", "r"} <= attributes.keys() or "m" in attributes or not attributes["r"]:
            msg = "the first message lacks a name or a nonce, or asks for an extension"
            raise ScramError(msg)
        name = attributes["n"].replace("=2C", ",").replace("=3D", "=")
        if authority not in {"", "a=" + attributes["n"]}:
            msg = "the client wants to act as someone else"
            raise ScramError(msg)
        try:
            self._name = saslprep(name)
        except ValueError as error:
            msg = "the name has a character it may not have"
            raise ScramError(msg) from error
        self._credential = self._look_up(self._name)
        # An unknown name gets a salt of its own, the same each time, so that it cannot be told from a known one.
        known = self._credential or _decoy(self._name)
        self._header = f"{binding},{authority},"
        self._sent = f"{attributes['r']}{self._nonce()}"
        answer = f"r={self._sent},s={_text(known.salt)},i={known.iterations}"
        self._signed = f"{bare},{answer}"
        return answer.encode()

    def final(self, data: bytes) -> bytes:
        """Answer the client's final message: the proof that we know the password too. Raises ScramError."""
        message = _decoded(data)
        without_proof, comma, proof_text = message.rpartition(",p=")
        attributes = _attributes(message)
        if not comma or not {"c", "r"} <= attributes.keys():
            msg = "the final message lacks an attribute"
            raise ScramError(msg)
        if attributes["c"] != _text(self._header.encode()) or attributes["r"] != self._sent:
            msg = "the final message does not belong to the first"
            raise ScramError(msg)
        try:
            proof = _bytes(proof_text)
        except ValueError as error:
            msg = "the proof is none"
            raise ScramError(msg) from error
        known = self._credential or _decoy(self._name)
        auth_message = f"{self._signed},{without_proof}".encode()
        signature = _hmac(known.stored_key, auth_message)
        key = bytes(one ^ other for one, other in zip(proof, signature, strict=False))
        right = hmac.compare_digest(hashlib.sha256(key).digest(), known.stored_key)
        if not right or len(proof) != len(signature) or self._credential is None:
            msg = f"wrong password, or no user {self._name!r}"
            raise ScramError(msg)
        self.user = self._name
        return b"v=" + base64.b64encode(_hmac(known.server_key, auth_message))


class ScramClient:
    """One exchange: send :meth:`first`, answer with :meth:`final`, then :meth:`check` the server's proof."""

    def __init__(self, user: str, password: str, nonce: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> None:
        """Raises ValueError where name or password has characters they may not have."""
        self._password = password
        self._nonce = nonce()
        name = saslprep(user).replace("=", "=3D").replace(",", "=2C")
        saslprep(password)
        self._bare = f"n={name},r={self._nonce}"
        self._server_signature = b""

    def first(self) -> bytes:
        """The first message."""
        return f"n,,{self._bare}".encode()

    def final(self, data: bytes) -> bytes:
        """Answer the server's first message: the proof that we know the password. Raises ScramError."""
        message = _decoded(data)
        attributes = _attributes(message)
        if not {"r", "s", "i"} <= attributes.keys() or "m" in attributes:
            msg = "the server's message lacks an attribute, or asks for an extension"
            raise ScramError(msg)
        try:
            salt, iterations = _bytes(attributes["s"]), int(attributes["i"])
        except ValueError as error:
            msg = "the server's salt or count is none"
            raise ScramError(msg) from error
        if not attributes["r"].startswith(self._nonce) or attributes["r"] == self._nonce:
            msg = "the server's message does not belong to ours"
            raise ScramError(msg)
        if not _ROUNDS_LEAST <= iterations <= _ROUNDS_MOST:
            msg = f"the server asks for {iterations} rounds of hashing"
            raise ScramError(msg)
        salted = _salted(self._password, salt, iterations)
        key = _hmac(salted, b"Client Key")
        without_proof = f"c=biws,r={attributes['r']}"
        auth_message = f"{self._bare},{message},{without_proof}".encode()
        signature = _hmac(hashlib.sha256(key).digest(), auth_message)
        proof = bytes(one ^ other for one, other in zip(key, signature, strict=True))
        self._server_signature = _hmac(_hmac(salted, b"Server Key"), auth_message)
        return f"{without_proof},p={_text(proof)}".encode()

    def check(self, data: bytes) -> None:
        """Take in the server's final message. Raises ScramError where it does not know the password."""
        attributes = _attributes(_decoded(data))
        try:
            given = _bytes(attributes.get("v", ""))
        except ValueError as error:
            msg = "the server's proof is none"
            raise ScramError(msg) from error
        if not self._server_signature or not hmac.compare_digest(given, self._server_signature):
            msg = f"the server does not know the password ({attributes.get('e', 'wrong proof')})"
            raise ScramError(msg)


_decoy_key: Final = secrets.token_bytes(32)


def _decoy(name: str) -> Credential:
    return Credential(_hmac(_decoy_key, name.encode())[:16], ITERATIONS, _decoy_key, _decoy_key)


def _decoded(data: bytes) -> str:
    if len(data) > _MESSAGE_MAX:
        msg = "a message is too long"
        raise ScramError(msg)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        msg = "a message is not UTF-8"
        raise ScramError(msg) from error
