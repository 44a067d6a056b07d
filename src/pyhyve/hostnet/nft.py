"""Giving rules to the kernel through the `nft` program."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess

from pyhyve.hostnet.errors import HostNetError, explain

SEARCH_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where administrators' programs are; a user's PATH often lacks these."""
TIMEOUT_S = 30.0


def _path(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:{SEARCH_PATH}")


def find_program(program: str, package: str, use: str) -> str:
    """The path of a host program. Raises HostNetError that says which package has it."""
    path = _path(program)
    if path is None:
        msg = f"{program} is not installed: {use} (apt-get install {package})"
        raise HostNetError(msg)
    return path


def installed() -> bool:
    """Whether there is an `nft` program: where there is none, no rules were made with it."""
    return _path("nft") is not None


def table_name(prefix: str, name: str) -> str:
    """Name of a table of an interface: its letters, or their bytes where it has others."""
    return prefix + (name if re.fullmatch(r"[A-Za-z0-9_]+", name) else name.encode().hex())


def apply(script: str) -> None:
    """Apply `script` in one transaction: all of it or nothing. Raises HostNetError."""
    nft = find_program("nft", "nftables", "networks with rules of their own need it, --mode bridge does not")
    try:
        result = subprocess.run(
            [nft, "-f", "-"], input=script, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"nft: {error}"
        raise HostNetError(msg) from error
    if result.returncode:
        first = next((line for line in result.stderr.splitlines() if line.strip()), f"status {result.returncode}")
        reason = first.partition("Error: ")[2] or first
        if "Operation not permitted" in result.stderr:
            what = "packet filter rules"
            raise explain(what, 1, reason)
        msg = f"nft: {reason} (does this kernel have nf_tables?)"
        raise HostNetError(msg)


def dropping_chains() -> list[str]:
    """Chains of others that drop forwarded packets by default, as `FAMILY TABLE CHAIN`: Docker's, for one.

    A packet has to pass every table, so no rule of ours can undo them. Empty when that cannot be found out.
    """
    try:
        nft = find_program("nft", "nftables", "")
        result = subprocess.run(
            [nft, "-j", "list", "chains"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        chains = [item["chain"] for item in json.loads(result.stdout)["nftables"] if "chain" in item]
    except (HostNetError, OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return []
    return [
        f"{chain['family']} {chain['table']} {chain['name']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop" and chain.get("table") != "pyhyve"
    ]
