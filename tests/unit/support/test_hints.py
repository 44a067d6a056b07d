from __future__ import annotations

import subprocess
import sys
import typing
from enum import IntEnum

import pytest

from pyhyve.support import hints


@hints.runtime_checkable
class Named(hints.Protocol):
    name: str

    def say(self) -> str: ...


@hints.runtime_checkable
class Sized(Named, hints.Protocol):
    @property
    def size(self) -> int: ...


class Person:
    def __init__(self) -> None:
        self.name = "Ada"

    def say(self) -> str:
        return "hello"


class Book(Person):
    size = 3


class Declared(Named):
    name = "declared"


def test_isinstance_asks_for_every_member_of_a_protocol() -> None:
    assert isinstance(Person(), Named)
    assert not isinstance(Person(), Sized)
    assert isinstance(Book(), Sized)
    assert not isinstance("text", Named)
    assert not isinstance(Person, Named)  # the class has no name of its own


def test_class_that_declares_a_protocol_is_an_ordinary_class() -> None:
    assert isinstance(Declared(), Declared)
    assert not isinstance(Person(), Declared)
    assert Declared().name == "declared"


def test_protocol_goes_with_abstract_and_generic_bases() -> None:
    class Both(Person, Named): ...

    class Listed(list[int], Named): ...

    assert isinstance(Both(), Named)
    assert Listed([1]) == [1]
    with pytest.raises(TypeError):

        class Wrong(IntEnum, hints.Protocol): ...  # as with the standard one


def test_annotated_takes_part_in_types() -> None:
    small = hints.Annotated[int, "small"]
    assert (small.__origin__, small.__metadata__) == (int, ("small",))
    assert typing.get_args(small | None) == (small, type(None))
    assert typing.get_args(None | small) == (type(None), small)
    assert typing.get_args(tuple[small, ...])[0] is small
    with pytest.raises(TypeError):
        small()


def test_cast_and_transform_change_nothing() -> None:
    value = object()
    assert hints.cast("int", value) is value
    assert hints.dataclass_transform(frozen_default=True)(Person) is Person


def test_hints_load_no_typing() -> None:
    code = "import sys; import pyhyve.support.hints; print('typing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
