"""The quick `dataclass` against the standard one."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, ClassVar

import pytest

from pyhyve.support import records
from pyhyve.support.records import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Quick:
    """A record."""

    name: str
    size: int = 3
    items: list[int] = field(default_factory=list)
    kind: ClassVar[str] = "quick"

    def doubled(self) -> int:
        return self.size * 2


@dataclasses.dataclass(frozen=True, slots=True)
class Slow:
    """A record."""

    name: str
    size: int = 3
    items: list[int] = dataclasses.field(default_factory=list)
    kind: ClassVar[str] = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    a: int
    b: int = 2


@dataclass(slots=True)
class Changing:
    a: int
    b: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Unequal:
    a: int


@dataclass(frozen=True, slots=True)
class Longer(Quick):
    extra: int = 9


@dataclass(frozen=True, slots=True)
class FromSlow(Slow):
    extra: int = 8


@dataclasses.dataclass(frozen=True, slots=True)
class FromQuick(Quick):
    extra: int = 7


@dataclass(frozen=True, slots=True)
class Checked:
    value: int

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(self.value)


@dataclass(frozen=True, slots=True)
class Empty:
    pass


def outcome(function: Any) -> object:
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - compared
        return type(error), str(error).replace("Slow", "Quick")


@pytest.mark.parametrize(
    "use",
    [
        lambda c: repr(c("x")).replace("Slow", "Quick"),
        lambda c: repr(c("x", 4, [1])).replace("Slow", "Quick"),
        lambda c: c("x") == c("x"),
        lambda c: c("x") == c("y"),
        lambda c: c("x") == ("x", 3, []),
        lambda c: c("x").items is c("x").items,
        lambda c: hash(c("x", 1, ())) == hash(c("x", 1, ())),
        lambda c: hash(c("x")),
        lambda c: c("x", 1, [], 5),
        lambda c: c("x", wrong=1),
        lambda c: c("x", name="y"),
        lambda c: c(size=2),
        lambda c: c(size=2, name="z").items,
        lambda c: setattr(c("x"), "size", 1),
        lambda c: delattr(c("x"), "size"),
        lambda c: c.__match_args__,
        lambda c: c.__slots__,
        lambda c: c.__doc__,
        lambda c: hasattr(c("x"), "__dict__"),
        lambda c: [(f.name, f.type, f.default, f.kw_only) for f in dataclasses.fields(c)],
        lambda c: dataclasses.asdict(c("x", items=[1])),
        lambda c: dataclasses.astuple(dataclasses.replace(c("x"), size=7)),
        lambda c: [dataclasses.is_dataclass(c)],
        lambda c: pickle.loads(pickle.dumps(c("x", 5, [1]))) == c("x", 5, [1]),  # noqa: S301 - our own
        lambda c: copy.deepcopy(c("x", 5, [1])) == c("x", 5, [1]),
        lambda c: c.__dataclass_params__.frozen,
    ],
)
@pytest.mark.parametrize("plain", [0, 1000], ids=["compiled", "plain"])
def test_record_does_as_the_standard_one(use: Any, plain: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PLAIN_INSTANCES", plain)
    first = records._first_initialiser(Quick._specs_, frozen=True)
    first.owner = Quick
    monkeypatch.setattr(Quick, "__init__", first)
    assert outcome(lambda: use(Quick)) == outcome(lambda: use(Slow))


def test_missing_argument_is_a_type_error() -> None:
    for kind in (Quick, Slow):
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'name'"):
            kind()


def test_init_is_compiled_once_for_classes_with_many_instances() -> None:
    @dataclass(frozen=True, slots=True)
    class Fresh:
        a: int

    before = Fresh.__init__
    plain = records._PLAIN_INSTANCES
    assert [Fresh(number).a for number in range(plain)] == list(range(plain))
    assert Fresh.__init__ is before
    assert Fresh(3).a == 3
    made = Fresh.__init__
    assert made is not before
    assert Fresh(4).a == 4
    assert Fresh.__init__ is made


def test_keywords_only() -> None:
    assert (Named(a=1).a, Named(a=1, b=5).b) == (1, 5)
    assert Named.__match_args__ == ()
    with pytest.raises(TypeError):
        Named(1)  # type: ignore[misc]


def test_changing_records_have_no_hash() -> None:
    one = Changing(1)
    one.a = 5
    one.b["x"] = 1
    assert one == Changing(5, {"x": 1})
    assert Changing(1).b == {}
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_records_without_equality_are_themselves() -> None:
    one, other = Unequal(1), Unequal(1)
    assert one != other
    assert len({one, other, one}) == 2


def test_either_kind_inherits_from_the_other() -> None:
    assert repr(Longer("n", extra=1)).endswith("Longer(name='n', size=3, items=[], extra=1)")
    assert (FromSlow("n").extra, FromSlow("n", 5).size, FromSlow("n") == FromSlow("n")) == (8, 5, True)
    assert (FromQuick("n").extra, FromQuick("n", 5).size, FromQuick("n") == FromQuick("n")) == (7, 5, True)
    assert Longer("n").doubled() == 6
    assert [f.name for f in dataclasses.fields(Longer)] == ["name", "size", "items", "extra"]
    assert Longer.__slots__ == ("extra",)


def test_post_init_checks_and_replace_calls_it() -> None:
    assert replace(Checked(1), value=2) == Checked(2)
    with pytest.raises(ValueError, match="-1"):
        Checked(-1)
    with pytest.raises(ValueError, match="-2"):
        replace(Checked(1), value=-2)
    assert replace(Slow("x"), size=1) == Slow("x", 1)
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())


def test_patterns_match() -> None:
    match Quick("x", 4):
        case Quick(name, 4):
            assert name == "x"
        case _:
            pytest.fail("no match")


def test_what_is_not_supported_is_refused() -> None:
    with pytest.raises(TypeError):
        dataclass(order=True)
    with pytest.raises(TypeError):
        field(init=False)
    with pytest.raises(ValueError, match="mutable default"):

        @dataclass(frozen=True, slots=True)
        class _Bad:
            a: list[int] = []  # noqa: RUF012 - refused

    assert records.__all__ == ["dataclass", "field", "replace"]
