"""`pyhyve.support.arrays`: the standard array, with nothing left behind."""

from __future__ import annotations

import array
import subprocess
import sys

from pyhyve.support import arrays


def test_array_is_the_standard_one() -> None:
    assert arrays.array is array.array


def test_array_loads_no_collections_and_leaves_no_stand_in() -> None:
    code = (
        "import sys; before = set(sys.modules); from pyhyve.support.arrays import array; "
        "print('collections' in sys.modules.keys() - before, 'collections.abc' in sys.modules.keys() - before); "
        "import collections.abc; "
        "print(collections.OrderedDict.__name__, isinstance(array('Q'), collections.abc.MutableSequence))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\nOrderedDict True\n"
