from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyhyve.guest.sources import (
    Source,
    find_stanza,
    first_alternatives,
    parse_deb822,
    parse_one_line,
    parse_record,
    stanzas,
    version_key,
)

ONE_LINE = """\
# deb http://example.org/old bookworm main
deb http://example.org/debian/ bookworm main contrib
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://example.org/security bookworm-security main # comment
deb-src http://example.org/debian bookworm main
deb http://example.org/flat ./
"""
DEB822 = """\
# A comment
Types: deb deb-src
URIs: http://example.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://example.org/off
Suites: sid
Components: main
Enabled: no

Types: deb
URIs: http://example.org/inline
Suites: stable
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
"""
INDEX = """\
Package: linux-image
Version: 1

Package: linux-image-cloud-amd64
Version: 6.1.1-1
Depends: linux-image-6.1-cloud-amd64 (= 6.1.1-1), kmod | busybox, libc6:any (>= 2)
Filename: pool/l/linux.deb
Size: 1504
SHA256: 00be

Package: linux-image-cloud-amd64
Version: 6.1.2-1
Filename: pool/l/linux2.deb
Size: 1505
SHA256: 00bf
"""


def test_one_line_sources_are_read() -> None:
    assert parse_one_line(ONE_LINE) == [
        Source("http://example.org/debian", "bookworm", ("main", "contrib")),
        Source("http://example.org/security", "bookworm-security", ("main",), "/usr/share/keyrings/x.gpg"),
    ]


def test_deb822_sources_are_read() -> None:
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert parse_deb822(DEB822) == [
        Source("http://example.org/debian", "bookworm", ("main",), keyring),
        Source("http://example.org/debian", "bookworm-updates", ("main",), keyring),
        Source("http://example.org/inline", "stable", ("main",)),
    ]


def test_find_stanza_gives_every_version_of_exactly_that_package() -> None:
    assert [fields["version"] for fields in find_stanza(INDEX, "linux-image-cloud-amd64")] == ["6.1.1-1", "6.1.2-1"]
    assert [fields["version"] for fields in find_stanza(INDEX, "linux-image")] == ["1"]
    assert find_stanza(INDEX, "cloud") == []


def test_parse_record_reads_dependencies() -> None:
    record = parse_record(find_stanza(INDEX, "linux-image-cloud-amd64")[0], "http://example.org")
    assert record is not None
    assert record.depends == ("linux-image-6.1-cloud-amd64", "kmod", "libc6")
    assert (record.size_bytes, record.uri) == (1504, "http://example.org")


@pytest.mark.parametrize("text", ["Package: x\n", "Package: x\nVersion: 1\nFilename: f\nSize: many\nSHA256: 0\n"])
def test_parse_record_leaves_out_what_is_not_complete(text: str) -> None:
    assert parse_record(next(stanzas(text))) is None


def test_first_alternatives_of_nothing_is_nothing() -> None:
    assert first_alternatives("") == ()


def test_versions_sort_as_deb_version_says() -> None:
    rising = [
        "1.0~rc1-1",
        "1.0-1",
        "1.0-1+deb12u1",
        "1.0a-1",
        "1.0+b-1",
        "1.2-1",
        "1.10-1",
        "6.12.9-1",
        "6.12.100-1",
        "1:0.1-1",
    ]
    for lower, higher in pairwise(rising):
        assert version_key(lower) < version_key(higher), (lower, higher)


@given(text=st.text(max_size=200))
def test_source_lists_of_any_text_are_read(text: str) -> None:
    for source in parse_one_line(text) + parse_deb822(text):
        assert source.components


@given(version=st.text(alphabet="0123456789.:-~+abc", max_size=20), other=st.text(alphabet="01.~-a", max_size=9))
def test_any_two_versions_can_be_compared(version: str, other: str) -> None:
    first, second = version_key(version), version_key(other)
    assert (first < second) + (first > second) + (first == second) == 1
