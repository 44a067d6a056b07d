"""Names that users give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyhyve.image.opening import create_image
from pyhyve.machine.block.errors import ChangeError
from pyhyve.machine.block.graph import BlockGraph
from pyhyve.machine.identifiers import is_identifier

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["a", "Z9", "disk-0.x_y"])
def test_identifier_is_accepted(name: str) -> None:
    assert is_identifier(name)


@pytest.mark.parametrize("name", ["", "0a", "-a", "#block000", "a b", "a/b", "\u00e9", "a\u00e9", "a\u0661"])
def test_other_names_are_refused(name: str) -> None:
    assert not is_identifier(name)


@pytest.mark.parametrize("name", ["#block000", "\u00e9"])
def test_block_node_cannot_take_a_name_that_pyhyve_gives(tmp_path: Path, name: str) -> None:
    """It would replace the node of that name, which nobody could close any more."""
    image, other = tmp_path / "a", tmp_path / "b"
    for path in (image, other):
        create_image(str(path), "raw", 4096)
    graph = BlockGraph()
    graph.add({"driver": "raw", "node-name": "n", "file": {"driver": "file", "filename": str(image)}})
    below = graph.need("n").file
    assert below is not None
    for options in (
        {"driver": "file", "node-name": name, "filename": str(other)},
        {"driver": "raw", "node-name": "m", "file": {"driver": "file", "node-name": name, "filename": str(other)}},
    ):
        with pytest.raises(ChangeError, match="Invalid node-name"):
            graph.add(options)
    assert graph.need("#block000") is below
    graph.discard(graph.add_unnamed({"driver": "file", "filename": str(other)}))
    graph.close()
    graph = BlockGraph()
    graph.add({"driver": "file", "node-name": "n", "filename": str(image)})
    graph.close()
