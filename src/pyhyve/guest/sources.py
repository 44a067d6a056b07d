"""Where this host gets Debian packages from: apt's source lists and package indexes, as text.

Source: sources.list(5), deb822(5), the "Debian Repository Format" of the Debian wiki.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>[^#]*)")
DEBIAN_SUITE = re.compile(r"[a-z]+(-updates|-security|-backports|-proposed-updates)?")


@dataclass(frozen=True, slots=True)
class Source:
    """One suite of one archive; `signed_by` is the path of a keyring, or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@dataclass(frozen=True, slots=True)
class PackageRecord:
    """What an index says about one version of one package; `filename` is relative to the archive's `uri`."""

    name: str
    version: str
    filename: str
    size_bytes: int
    sha256: str
    depends: tuple[str, ...]
    uri: str = ""


def stanzas(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a deb822 text, field names in lower case, continuation lines joined by newlines."""
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line.startswith("#"):
            continue
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            key, colon, value = line.partition(":")
            if colon:
                last = key.strip().lower()
                fields[last] = value.strip()
    if fields:
        yield fields


def parse_one_line(text: str) -> list[Source]:
    """The sources in a `sources.list` file."""
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match and match["components"].split():
            options = dict(word.split("=", 1) for word in (match["options"] or "").split() if "=" in word)
            components = tuple(match["components"].split())
            found.append(Source(match["uri"].rstrip("/"), match["suite"], components, options.get("signed-by", "")))
    return found


def parse_deb822(text: str) -> list[Source]:
    """The sources in a `*.sources` file."""
    found = []
    for fields in stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in {"no", "false"}:
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                if components:
                    keyring = signed_by if signed_by.startswith("/") else ""
                    found.append(Source(uri.rstrip("/"), suite, components, keyring))
    return found


def parse_record(fields: dict[str, str], uri: str = "") -> PackageRecord | None:
    """The record in one stanza of a package index; None when fields are missing."""
    try:
        return PackageRecord(
            name=fields["package"],
            version=fields["version"],
            filename=fields["filename"],
            size_bytes=int(fields["size"]),
            sha256=fields["sha256"],
            depends=first_alternatives(fields.get("depends", "")),
            uri=uri,
        )
    except (KeyError, ValueError):
        return None


def first_alternatives(relations: str) -> tuple[str, ...]:
    """The package names in a dependency field: the first choice of each alternative, without versions."""
    kept = (relation.partition("|")[0].partition("(")[0].partition(":")[0] for relation in relations.split(","))
    return tuple(name.strip() for name in kept if name.strip())


def find_stanza(index: str, name: str) -> list[dict[str, str]]:
    """All stanzas of package `name` in an index of tens of megabytes, without parsing the rest."""
    found = []
    needle = f"Package: {name}\n"
    position = 0 if index.startswith(needle) else index.find("\n" + needle)
    while position >= 0:
        start = position + (1 if index[position] == "\n" else 0)
        end = index.find("\n\n", start)
        found += list(stanzas(index[start : end if end >= 0 else len(index)]))
        position = index.find("\n" + needle, start)
    return found


def version_key(version: str) -> tuple[int, list[tuple[list[int], int]], list[tuple[list[int], int]]]:
    """A sort key for Debian versions (deb-version(7)): epoch, upstream version, revision."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return int(epoch) if epoch.isdigit() else 0, _part_key(upstream), _part_key(revision)


def _part_key(part: str) -> list[tuple[list[int], int]]:
    """Alternating non-digit and digit runs; '~' sorts before the end, letters before other characters."""

    def rank(character: str) -> int:
        if character == "~":
            return -1
        return ord(character) if character.isalpha() else ord(character) + 256

    runs = re.findall(r"(\D*)(\d*)", part)
    return [([*map(rank, text), 0], int(digits or 0)) for text, digits in runs if text or digits] + [([0], 0)]
