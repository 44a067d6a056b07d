"""Loggers that load the logging package when something is logged: it is slow to load, and most machines log nothing."""

from __future__ import annotations

from pyhyve.support.hints import cast

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Any


class _LateLogger:
    """Stands for the logger of this name."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 - whatever a logger has
        import logging  # noqa: PLC0415 - see the top

        return getattr(logging.getLogger(self._name), attribute)


def late_logger(name: str) -> logging.Logger:
    """As `logging.getLogger`."""
    return cast("logging.Logger", _LateLogger(name))
