"""`dataclass`, `field` and `replace` of the standard library, for classes that are made at every start.

The standard decorator compiles six methods for each class, about a millisecond; the modules of a machine hold some
sixty such classes, which was half of the time to the first guest instruction. This one shares its methods among all
classes and compiles a class's `__init__` when more than a few instances are made. Type checkers see the standard
functions; what they accept and this module does not (`order`, `InitVar`, `init=False`…) is refused when the class is
made.

The standard `fields`, `asdict`, `replace` and `is_dataclass` work on these classes, and either kind may inherit from
the other.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` would be felt in short commands

if TYPE_CHECKING:
    from dataclasses import dataclass, field, replace
else:
    _MISSING = object()
    _PLAIN_INSTANCES = 16  # to compile takes as long as to make twenty to forty without

    class _Field:
        """A default that is made anew for each instance, or metadata."""

        __slots__ = ("default", "factory", "metadata")

        def __init__(self, default, factory, metadata) -> None:
            self.default = default
            self.factory = factory
            self.metadata = metadata

    def field(*, default=_MISSING, default_factory=_MISSING, metadata=None):
        """As the standard `field`, with these three options."""
        return _Field(default, default_factory, metadata)

    class _Spec:
        """One field: its name, type (as text), default, and whether it can be given by position."""

        __slots__ = ("default", "factory", "kw_only", "metadata", "name", "type")

        def __init__(self, name, type_, given, kw_only) -> None:
            self.name = name
            self.type = type_
            self.kw_only = kw_only
            if isinstance(given, _Field):
                self.default, self.factory, self.metadata = given.default, given.factory, given.metadata
            else:
                self.default, self.factory, self.metadata = given, _MISSING, None

    def dataclass(cls=None, /, *, frozen=False, slots=False, kw_only=False, eq=True):
        """As the standard decorator, with these four options."""
        if cls is None:
            return lambda decorated: _make(decorated, frozen=frozen, slots=slots, kw_only=kw_only, eq=eq)
        return _make(cls, frozen=frozen, slots=slots, kw_only=kw_only, eq=eq)

    def replace(instance, /, **changes):
        """A copy of `instance` with other values in some fields."""
        cls = instance.__class__
        specs = cls.__dict__.get("_specs_")
        if specs is None:
            from dataclasses import replace as standard  # noqa: PLC0415 - what this module is there to avoid

            return standard(instance, **changes)
        for spec in specs:
            if spec.name not in changes:
                changes[spec.name] = getattr(instance, spec.name)
        return cls(**changes)

    def _make(cls, *, frozen, slots, kw_only, eq):
        specs = {}
        for base in cls.__mro__[-1:0:-1]:
            specs |= _inherited(base)
        namespace = dict(cls.__dict__)
        own = []
        for name, type_ in namespace.get("__annotations__", {}).items():
            if not isinstance(type_, str):
                msg = f"{cls.__name__}.{name}: needs 'from __future__ import annotations'"
                raise TypeError(msg)
            if type_.startswith(("ClassVar", "typing.ClassVar")):
                continue
            if type_.startswith(("InitVar", "KW_ONLY")):
                msg = f"{cls.__name__}.{name}: {type_} is not supported here"
                raise TypeError(msg)
            given = namespace.get(name, _MISSING)
            if isinstance(given, (list, dict, set)):
                msg = f"mutable default {type(given)} for field {name} is not allowed: use default_factory"
                raise ValueError(msg)  # noqa: TRY004 - as the standard library does
            specs[name] = _Spec(name, type_, given, kw_only)
            own.append(name)
        added = _methods(tuple(specs.values()), namespace, frozen=frozen, slots=slots, eq=eq)
        if slots:
            taken = {name for base in cls.__mro__[1:] for name in getattr(base, "__slots__", ())}
            for name in (*own, "__dict__", "__weakref__"):
                namespace.pop(name, None)
            namespace["__slots__"] = tuple(name for name in own if name not in taken)
            namespace["__qualname__"] = cls.__qualname__
            cls = type(cls)(cls.__name__, cls.__bases__, namespace | added)  # at once: to add them one by one is slow
        else:
            for name in own:
                default = specs[name].default
                if default is not _MISSING:
                    setattr(cls, name, default)
                elif name in namespace:
                    delattr(cls, name)
            for name, value in added.items():
                setattr(cls, name, value)
        if "__init__" in added:
            added["__init__"].owner = cls
        return cls

    def _inherited(base):
        specs = base.__dict__.get("_specs_")
        if specs is not None:
            return {spec.name: spec for spec in specs}
        standard = base.__dict__.get("__dataclass_fields__")
        if standard is None:
            return {}
        from dataclasses import _FIELD, MISSING  # noqa: PLC0415 - the base has loaded it already

        found = {}
        for name, one in standard.items():
            if one._field_type is not _FIELD:  # noqa: SLF001 - how the standard library marks class variables
                continue
            given = _Field(
                _MISSING if one.default is MISSING else one.default,
                _MISSING if one.default_factory is MISSING else one.default_factory,
                one.metadata,
            )
            found[name] = _Spec(name, one.type, given, one.kw_only)
        return found

    def _methods(specs, namespace, *, frozen, slots, eq):
        """What the class gets besides what it says itself."""
        added = {
            "_specs_": specs,
            "_frozen_": frozen,
            "_key_": None,
            "__match_args__": tuple(spec.name for spec in specs if not spec.kw_only),
            "__dataclass_fields__": _FIELDS,
            "__dataclass_params__": _PARAMS,
        }
        if "__init__" not in namespace:
            added["__init__"] = _first_initialiser(specs, frozen=frozen)
        if "__repr__" not in namespace:
            added["__repr__"] = _repr
        if eq and "__eq__" not in namespace:
            added["__eq__"] = _eq
        if frozen:
            if (eq and "__hash__" not in namespace) or ("__eq__" in namespace and namespace["__hash__"] is None):
                added["__hash__"] = _hash
            added["__setattr__"] = _refuse_set
            added["__delattr__"] = _refuse_delete
            if slots and "__getstate__" not in namespace:
                added["__getstate__"] = _getstate
                added["__setstate__"] = _setstate
        elif eq and "__hash__" not in namespace:
            added["__hash__"] = None
        return added

    def _make_key(cls):
        """The function that gives the values of all fields as a tuple, made when instances are first compared."""
        from operator import attrgetter  # noqa: PLC0415 - would be felt in short commands

        names = [spec.name for spec in cls._specs_]
        if len(names) == 1:
            one = attrgetter(names[0])
            key = lambda instance: (one(instance),)  # noqa: E731 - one of three
        else:
            key = attrgetter(*names) if names else lambda _instance: ()
        owner = next(base for base in cls.__mro__ if "_specs_" in base.__dict__)
        owner._key_ = staticmethod(key)
        return key

    def _first_initialiser(specs, *, frozen):
        """An `__init__` for the first few instances: many classes have no more, and to compile one takes longer."""
        made = 0

        def __init__(self, *args, **values) -> None:  # noqa: N807 - it is the class's
            nonlocal made
            made += 1
            if made > _PLAIN_INSTANCES or not _fill(self, specs, args, values, frozen=frozen):
                owner = __init__.owner
                owner.__init__ = compiled = _initialiser(owner, specs, frozen=frozen)
                compiled(self, *args, **values)

        return __init__

    def _fill(self, specs, args, values, *, frozen) -> bool:
        """Set all fields; False when the arguments do not fit, which a compiled `__init__` words as Python does."""
        given = dict(zip([spec.name for spec in specs if not spec.kw_only], args, strict=False))
        fits = len(given) == len(args) and given.keys().isdisjoint(values)
        given.update(values)
        missing = 0
        for spec in specs:
            if spec.name not in given:
                missing += 1
                fits = fits and (spec.default is not _MISSING or spec.factory is not _MISSING)
        if not fits or len(given) + missing != len(specs):
            return False
        put = object.__setattr__ if frozen else setattr
        for spec in specs:
            if spec.name in given:
                value = given[spec.name]
            else:
                value = spec.default if spec.factory is _MISSING else spec.factory()
            put(self, spec.name, value)
        post = getattr(self, "__post_init__", None)
        if post is not None:
            post()
        return True

    def _initialiser(cls, specs, *, frozen):
        """Compile `__init__`."""
        scope = {"_set": object.__setattr__, "_MISSING": _MISSING}
        positional, keywords, body = [], [], []
        for spec in specs:
            name = spec.name
            if spec.factory is not _MISSING:
                scope[f"_f_{name}"] = spec.factory
                text = f"{name}=_MISSING"
                value = f"_f_{name}() if {name} is _MISSING else {name}"
            elif spec.default is not _MISSING:
                scope[f"_d_{name}"] = spec.default
                text, value = f"{name}=_d_{name}", name
            else:
                text = value = name
            (keywords if spec.kw_only else positional).append(text)
            body.append(f"_set(self, {name!r}, {value})" if frozen else f"self.{name} = {value}")
        if hasattr(cls, "__post_init__"):
            body.append("self.__post_init__()")
        parameters = ["self", *positional, *(["*", *keywords] if keywords else [])]
        lines = "\n ".join(body or ["pass"])
        exec(f"def __init__({', '.join(parameters)}):\n {lines}", scope)  # noqa: S102 - as the standard does
        made = scope["__init__"]
        made.__qualname__ = f"{cls.__qualname__}.__init__"
        return made

    def _repr(self) -> str:
        values = ", ".join(f"{spec.name}={getattr(self, spec.name)!r}" for spec in self._specs_)
        return f"{self.__class__.__qualname__}({values})"

    def _eq(self, other):
        if other.__class__ is not self.__class__:
            return NotImplemented
        key = self._key_ or _make_key(self.__class__)
        return key(self) == key(other)

    def _hash(self) -> int:
        return hash((self._key_ or _make_key(self.__class__))(self))

    def _refuse_set(self, name, value) -> None:
        from dataclasses import FrozenInstanceError  # noqa: PLC0415 - what this module is there to avoid

        msg = f"cannot assign to field {name!r}"
        raise FrozenInstanceError(msg)

    def _refuse_delete(self, name) -> None:
        from dataclasses import FrozenInstanceError  # noqa: PLC0415 - what this module is there to avoid

        msg = f"cannot delete field {name!r}"
        raise FrozenInstanceError(msg)

    def _getstate(self):
        return [getattr(self, spec.name) for spec in self._specs_]

    def _setstate(self, state) -> None:
        for spec, value in zip(self._specs_, state, strict=True):
            object.__setattr__(self, spec.name, value)

    class _Standard:
        """`__dataclass_fields__` or `__dataclass_params__`, made when somebody asks for them."""

        __slots__ = ("_name",)

        def __init__(self, name) -> None:
            self._name = name

        def __get__(self, instance, owner):
            import dataclasses  # noqa: PLC0415 - what this module is there to avoid

            cls = next(base for base in owner.__mro__ if "_specs_" in base.__dict__)
            if self._name == "__dataclass_params__":
                flags = (True, True, True, False, False, cls._frozen_)  # init, repr, eq, order, unsafe_hash
                return dataclasses._DataclassParams(*flags)  # noqa: SLF001 - as the standard library makes it
            found = {}
            for spec in cls._specs_:
                one = dataclasses.field(
                    default=dataclasses.MISSING if spec.default is _MISSING else spec.default,
                    default_factory=dataclasses.MISSING if spec.factory is _MISSING else spec.factory,
                    metadata=spec.metadata,
                    kw_only=spec.kw_only,
                )
                one.name, one.type, one._field_type = spec.name, spec.type, dataclasses._FIELD  # noqa: SLF001 - ditto
                found[spec.name] = one
            cls.__dataclass_fields__ = found
            return found

    _FIELDS, _PARAMS = _Standard("__dataclass_fields__"), _Standard("__dataclass_params__")


__all__ = ["dataclass", "field", "replace"]
