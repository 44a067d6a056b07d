from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from pyhyve.support.logs import late_logger

if TYPE_CHECKING:
    import pytest


def test_late_logger_is_the_logger_of_its_name(caplog: pytest.LogCaptureFixture) -> None:
    late_logger("pyhyve.test").warning("%d of %d", 1, 2)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("pyhyve.test", "1 of 2")]


def test_logging_is_loaded_when_something_is_logged() -> None:
    program = (
        "import sys; from pyhyve.support.logs import late_logger; log = late_logger('a'); "
        "before = 'logging' in sys.modules; log.debug('x'); print(before, 'logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
