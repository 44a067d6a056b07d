from __future__ import annotations

import os
from pathlib import Path

from pyhyve.support.paths import FileName


def test_file_name_stands_for_the_path_of_that_name() -> None:
    name = FileName("/some/kernel")
    assert name == Path("/some/kernel")
    assert Path("/some/kernel") == name
    assert name == FileName("/some/kernel")
    assert hash(name) == hash(Path("/some/kernel"))
    assert name not in (Path("/other"), "/some/kernel", None)
    assert (str(name), os.fspath(name), f"{name}") == ("/some/kernel",) * 3
    assert repr(name) == "FileName('/some/kernel')"
    assert Path(name, "x") == Path("/some/kernel/x")
