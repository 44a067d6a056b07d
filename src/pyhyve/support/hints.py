"""What modules take from `typing` at run time, for modules that are loaded at every start.

To load `typing` takes as long as to load twenty modules of a machine. Most of its names are for type checkers alone:
they are imported under `TYPE_CHECKING`. The few that a class statement needs are here. Type checkers see the standard
ones.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Annotated, Protocol, cast, dataclass_transform, runtime_checkable
else:
    from abc import ABCMeta

    _NO_MEMBERS = {
        *("__abstractmethods__", "__annotations__", "__dict__", "__doc__", "__firstlineno__", "__init__", "__module__"),
        *("__qualname__", "__slots__", "__static_attributes__", "__weakref__", "_abc_impl", "_members_"),
    }

    class _ByMembers(ABCMeta):
        """The class of protocols."""

        def __instancecheck__(cls, instance) -> bool:
            members = cls.__dict__.get("_members_")
            if members is None:
                return super().__instancecheck__(instance)
            return all(hasattr(instance, name) for name in members)

    class Protocol(metaclass=_ByMembers):
        """As the standard one, for protocols without type parameters; the members are looked at when asked for."""

        __slots__ = ()

    def runtime_checkable(cls):
        """Have `isinstance` ask for the members of the protocol `cls`."""
        members = set()
        for base in cls.__mro__:
            if Protocol in base.__bases__:
                own = base.__dict__
                members |= own.keys() | own.get("__annotations__", {}).keys()
        cls._members_ = members - _NO_MEMBERS
        return cls

    def cast(_kind, value):
        """`value`."""
        return value

    def dataclass_transform(**_options):
        """A decorator that does nothing."""
        return lambda decorator: decorator

    class Annotated:
        """As the standard one with one annotation; `T | None` and `tuple[T, ...]` can be made of it."""

        __slots__ = ("__metadata__", "__origin__")

        def __init__(self, origin, metadata) -> None:
            self.__origin__ = origin
            self.__metadata__ = (metadata,)

        def __class_getitem__(cls, parameters):
            return cls(*parameters)

        def __or__(self, other):
            return _either(self, other)

        def __ror__(self, other):
            return _either(other, self)

        def __call__(self) -> None:
            """What the standard library takes for a type can be called."""
            raise TypeError

    def _either(one, other):
        from typing import Union  # noqa: PLC0415 - what this module is there to avoid

        return Union[one, other]  # noqa: UP007 - what the operator calls


__all__ = ["Annotated", "Protocol", "cast", "dataclass_transform", "runtime_checkable"]
