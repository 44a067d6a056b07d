from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from pyhyve.rpc.scram import Credential, ScramClient, ScramError, ScramServer, derive_credential, saslprep

# The exchange in RFC 7677, section 3.
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
SERVER_FIRST = b"r=rOprNGfwEbeRWgbNEkqO" + NONCE.encode() + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO" + NONCE.encode() + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def server(credential: Credential | None = None) -> ScramServer:
    known = credential or derive_credential("pencil", SALT, 4096)
    return ScramServer(lambda name: known if name == "user" else None, lambda: NONCE)


def test_exchange_is_that_of_the_specification() -> None:
    exchange = server()
    assert exchange.first(CLIENT_FIRST) == SERVER_FIRST
    assert exchange.user is None
    assert exchange.final(CLIENT_FINAL) == SERVER_FINAL
    assert exchange.user == "user"


def client_final(first: bytes, server_first: bytes, password: str, *, header: bytes = b"n,,") -> bytes:
    parts = dict(part.split(b"=", 1) for part in server_first.split(b","))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(parts[b"s"]), int(parts[b"i"]))
    key = hmac.digest(salted, b"Client Key", "sha256")
    without_proof = b"c=" + base64.b64encode(header) + b",r=" + parts[b"r"]
    message = b",".join((first.removeprefix(header), server_first, without_proof))
    signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    return without_proof + b",p=" + base64.b64encode(proof)


@pytest.mark.parametrize(("user", "password"), [("user", "wrong"), ("nobody", "pencil")])
def test_wrong_password_and_unknown_user_fail_alike(user: str, password: str) -> None:
    exchange = server()
    first = f"n,,n={user},r=abc".encode()
    answer = exchange.first(first)
    assert set(dict(part.split(b"=", 1) for part in answer.split(b","))) == {b"r", b"s", b"i"}
    with pytest.raises(ScramError, match="wrong password, or no user"):
        exchange.final(client_final(first, answer, password))
    assert exchange.user is None


def test_unknown_user_has_the_same_salt_each_time() -> None:
    assert server().first(b"n,,n=ghost,r=a") == server().first(b"n,,n=ghost,r=a")


def test_other_headers_and_escaped_names_are_understood() -> None:
    credential = derive_credential("p", SALT, 4096)
    exchange = ScramServer({"a,b=c": credential}.get, lambda: "x")
    first = b"y,,n=a=2Cb=3Dc,r=abc"
    answer = exchange.first(first)
    assert exchange.final(client_final(first, answer, "p", header=b"y,,")).startswith(b"v=")
    assert exchange.user == "a,b=c"


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"n",
        b"n,,",
        b"n,,n=user",
        b"n,,r=abc",
        b"n,,n=user,r=",
        b"p=tls-unique,,n=user,r=abc",
        b"n,a=other,n=user,r=abc",
        b"n,,m=ext,n=user,r=abc",
        b"n,,n=user,n=other,r=abc",
        b"n,,n=\xff,r=abc",
        b"n,,n=us\x07er,r=abc",
        b"n,,n=user,r=" + b"x" * 5000,
    ],
)
def test_first_message_that_is_none_is_refused(message: bytes) -> None:
    with pytest.raises(ScramError):
        server().first(message)


@pytest.mark.parametrize(
    "change",
    [
        (b"c=biws", b"c=eSws"),
        (b"rOprNGfwEbeRWgbNEkqO", b"other"),
        (b",p=dHzb", b",p=AAAA"),
        (b",p=", b",q="),
        (b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"p=dHzb"),
        (b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", b"p=!"),
    ],
)
def test_final_message_that_does_not_fit_is_refused(change: tuple[bytes, bytes]) -> None:
    exchange = server()
    exchange.first(CLIENT_FIRST)
    with pytest.raises(ScramError):
        exchange.final(CLIENT_FINAL.replace(*change))
    assert exchange.user is None


def test_credential_survives_being_written() -> None:
    credential = derive_credential("pencil")
    assert Credential.parse(str(credential)) == credential
    assert credential != derive_credential("pencil")
    for text in ("", "x", "SCRAM-SHA-1$1:AA==$AA==:AA==", str(credential)[:-3], str(credential).replace(":", "$")):
        with pytest.raises(ValueError, match=r".*"):
            Credential.parse(text)


@pytest.mark.parametrize(
    ("text", "prepared"), [("I\u00adX", "IX"), ("user", "user"), ("\u00aa", "a"), ("\u2168", "IX"), ("a\u00a0b", "a b")]
)
def test_names_are_prepared_as_specified(text: str, prepared: str) -> None:
    assert saslprep(text) == prepared


@pytest.mark.parametrize("text", ["\u0007", "\u06271"])
def test_forbidden_characters_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"character|directions"):
        saslprep(text)


def client() -> ScramClient:
    return ScramClient("user", "pencil", lambda: "rOprNGfwEbeRWgbNEkqO")


def test_client_sends_what_the_specification_has() -> None:
    exchange = client()
    assert exchange.first() == CLIENT_FIRST
    assert exchange.final(SERVER_FIRST) == CLIENT_FINAL
    exchange.check(SERVER_FINAL)


def test_client_and_server_agree_on_odd_names_and_passwords() -> None:
    known = derive_credential("p,=\u00c5", iterations=4096)
    both = ScramServer(lambda name: known if name == "a=b,c" else None)
    exchange = ScramClient("a=b,c", "p,=\u0041\u030a")
    exchange.check(both.final(exchange.final(both.first(exchange.first()))))
    assert both.user == "a=b,c"


@pytest.mark.parametrize(
    ("server_first", "problem"),
    [
        (b"r=other,s=AAAA,i=4096", "does not belong to ours"),
        (b"r=rOprNGfwEbeRWgbNEkqO,s=AAAA,i=4096", "does not belong to ours"),
        (b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1", "asks for 1 rounds"),
        (b"r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999", "rounds of hashing"),
        (b"r=rOprNGfwEbeRWgbNEkqOx,s=!,i=4096", "salt or count is none"),
        (b"m=x,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096", "asks for an extension"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_client_refuses_a_server_that_does_not_follow(server_first: bytes, problem: str) -> None:
    with pytest.raises(ScramError, match=problem):
        client().final(server_first)


@pytest.mark.parametrize("proof", [b"v=AAAA", b"e=other-error", b"v=!"])
def test_client_refuses_a_server_without_the_password(proof: bytes) -> None:
    exchange = client()
    exchange.final(SERVER_FIRST)
    with pytest.raises(ScramError, match=r"does not know the password|proof is none"):
        exchange.check(proof)
