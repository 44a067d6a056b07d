"""`Enum`, `IntEnum`, `IntFlag` and `StrEnum` of the standard library, for classes that are made at every start.

The standard ones take some fifteen microseconds for each member, and the modules of a machine hold several hundred.
These do without what nobody here uses: members are plain values (or `auto()`), `__new__`, `__init__`, `_missing_` and
the functional form are refused or absent, and a name that begins with an underscore is no member. Combinations of
flags are made anew each time: a guest cannot fill the memory with them. Type checkers see the standard classes.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from enum import Enum, IntEnum, IntFlag, StrEnum, auto
else:
    _AUTO = object()
    _REFUSED = {"__new__", "__init__", "_missing_", "_generate_next_value_"}

    def auto():
        """As the standard one."""
        return _AUTO

    class _EnumType(type):
        """The class of enumerations: makes their members, and finds them by value and name."""

        def __new__(mcs, name, bases, namespace):
            if namespace.get("_root_"):
                return super().__new__(mcs, name, bases, namespace)
            inherited = next(base for base in bases if isinstance(base, mcs))
            refused = _REFUSED & namespace.keys()
            if refused or (inherited._by_name_ and not inherited.__dict__.get("_root_")):
                msg = f"{name}: {', '.join(refused) or 'an enumeration with members'} cannot be extended here"
                raise TypeError(msg)
            body, given = {}, {}
            for key, value in namespace.items():
                is_member = key[0] != "_" and not hasattr(value, "__get__")
                (given if is_member else body)[key] = value
            by_name, by_value = {}, {}
            body |= {"_by_name_": by_name, "_by_value_": by_value}
            cls = super().__new__(mcs, name, bases, body)
            kind = int if issubclass(cls, int) else str if issubclass(cls, str) else object
            value = 0
            for key, text in given.items():
                value = cls._next_(key, value) if text is _AUTO else text
                member = by_value.get(value)
                if member is None:
                    by_value[value] = member = kind.__new__(cls) if kind is object else kind.__new__(cls, value)
                    member._name_, member._value_ = key, value
                by_name[key] = member
                type.__setattr__(cls, key, member)
            return cls

        def __call__(cls, value):
            try:
                return cls._by_value_[value]
            except (KeyError, TypeError):  # TypeError: a value that cannot be a key
                return cls._other_(value)

        def __getitem__(cls, name):
            return cls._by_name_[name]

        def __iter__(cls):
            return iter(cls._listed_())

        def __reversed__(cls):
            return reversed(cls._listed_())

        def __len__(cls) -> int:
            return len(cls._listed_())

        def __bool__(cls) -> bool:
            return True

        def __contains__(cls, value) -> bool:
            try:
                return value in cls._by_value_
            except TypeError:
                return False

        def __setattr__(cls, name, value) -> None:
            if name in cls._by_name_:
                msg = f"cannot reassign member {name!r}"
                raise AttributeError(msg)
            super().__setattr__(name, value)

        def __repr__(cls) -> str:
            return f"<enum {cls.__name__!r}>"

        @property
        def __members__(cls):
            """All members by name, second names too."""
            return dict(cls._by_name_)

    class Enum(metaclass=_EnumType):
        """As the standard one."""

        _root_ = True
        _by_name_, _by_value_ = {}, {}

        @classmethod
        def _listed_(cls):
            return list(cls._by_value_.values())

        @classmethod
        def _other_(cls, value):
            msg = f"{value!r} is not a valid {cls.__qualname__}"
            raise ValueError(msg)

        @staticmethod
        def _next_(_name, last):
            return last + 1

        @property
        def name(self):
            """The name in the class."""
            return self._name_

        @property
        def value(self):
            """What the class says."""
            return self._value_

        def __repr__(self) -> str:
            return f"<{self.__class__.__name__}.{self._name_}: {self._value_!r}>"

        def __str__(self) -> str:
            return f"{self.__class__.__name__}.{self._name_}"

        def __copy__(self):
            return self

        def __deepcopy__(self, _memo):
            return self

        def __reduce_ex__(self, _protocol):
            return self.__class__, (self._value_,)

    class IntEnum(int, Enum):
        """As the standard one: members are numbers, and printed as numbers."""

        _root_ = True
        __repr__, __str__ = Enum.__repr__, int.__repr__

    class StrEnum(str, Enum):  # noqa: SLOT000 - members have a name
        """As the standard one: members are strings, and printed as such."""

        _root_ = True
        __repr__, __str__ = Enum.__repr__, str.__str__

        @staticmethod
        def _next_(name, _last):
            return name.lower()

    class IntFlag(int, Enum):
        """As the standard one: bits that combine; unknown ones are kept."""

        _root_ = True
        __str__ = int.__repr__

        @classmethod
        def _listed_(cls):
            return [member for value, member in cls._by_value_.items() if value > 0 and not value & (value - 1)]

        @classmethod
        def _other_(cls, value):
            if not isinstance(value, int):
                return super()._other_(value)
            if value < 0:  # as with the standard ones, all bits up to the highest known one
                top = max(cls._by_value_, default=0)
                value += max(1 << top.bit_length(), 1 << value.bit_length())
                if value in cls._by_value_:
                    return cls._by_value_[value]
            made = int.__new__(cls, value)
            made._name_, made._value_ = None, int(value)
            return made

        @staticmethod
        def _next_(_name, last):
            return 1 << int(last).bit_length()

        @property
        def name(self):
            """Names of the bits, and the number of those that have none; None when no bit has a name."""
            if self._name_ is None:
                names = [member._name_ for member in self]
                rest = self._value_ & ~sum(self)
                return "|".join([*names, *([str(rest)] if rest else [])]) if names else None
            return self._name_

        def __repr__(self) -> str:
            name = self.name
            return f"<{self.__class__.__name__}{'' if name is None else '.' + name}: {self._value_}>"

        def __iter__(self):
            value = self._value_
            return iter([member for member in sorted(self.__class__._listed_()) if member._value_ & value])

        def __len__(self) -> int:
            return self._value_.bit_count()

        def __bool__(self) -> bool:
            return self._value_ != 0

        def __contains__(self, other) -> bool:
            if not isinstance(other, self.__class__):
                msg = f"unsupported operand type(s) for 'in': {type(other).__qualname__!r}"
                raise TypeError(msg)
            return other._value_ & self._value_ == other._value_

        def __or__(self, other):
            return self.__class__(self._value_ | int(other)) if isinstance(other, int) else NotImplemented

        def __and__(self, other):
            return self.__class__(self._value_ & int(other)) if isinstance(other, int) else NotImplemented

        def __xor__(self, other):
            return self.__class__(self._value_ ^ int(other)) if isinstance(other, int) else NotImplemented

        __ror__, __rand__, __rxor__ = __or__, __and__, __xor__

        def __invert__(self):
            return self.__class__(~self._value_)


__all__ = ["Enum", "IntEnum", "IntFlag", "StrEnum", "auto"]
