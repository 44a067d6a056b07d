"""Lists in the values of options: `name,key=value,…`."""

from __future__ import annotations


def split_list(text: str) -> list[str]:
    """The parts of a comma-separated list; `,,` stands for a comma."""
    return [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
