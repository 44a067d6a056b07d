"""Ctrl-C at any moment: an interrupt that waits while something must not be left half done."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, the first SIGINT, SIGTERM or SIGHUP raises KeyboardInterrupt, once; later ones do nothing."""

    def __init__(self) -> None:
        self._depth = 0
        self._asked = False
        self._raised = False
        self._before: list[object] = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, self._handle) for number in NUMBERS]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(NUMBERS, self._before, strict=True):
            if callable(handler) or isinstance(handler, (int, signal.Handlers)):
                signal.signal(number, handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True
        if self._depth == 0:
            self._raise_once()

    def _raise_once(self) -> None:
        if not self._raised:
            self._raised = True
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """An interrupt meanwhile is raised at the end of the block."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        if self._asked and self._depth == 0:
            self._raise_once()

    def ignore(self) -> None:
        """From here on nothing interrupts."""
        self._raised = True
