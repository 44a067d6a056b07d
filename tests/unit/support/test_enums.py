"""The classes of `pyhyve.support.enums` beside the standard ones: same questions, same answers."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import subprocess
import sys
from typing import Any

import pytest

from pyhyve.support import enums


def make_color(source: Any) -> Any:
    class Color(source.IntEnum):
        """Colours."""

        RED = 1
        """Of blood."""
        GREEN = 2
        ROT = 1

        @property
        def warm(self) -> bool:
            return self is Color.RED

        @classmethod
        def first(cls) -> Any:
            return cls(1)

    return Color


def make_mode(source: Any) -> Any:
    class Mode(source.IntFlag):
        NONE = 0
        READ = 1
        WRITE = 2
        SYNC = 8
        BOTH = 3

    return Mode


def make_word(source: Any) -> Any:
    class Word(source.StrEnum):
        YES = "yes"
        NO = source.auto()

    return Word


def make_state(source: Any) -> Any:
    class State(source.Enum):
        NEW = source.auto()
        OLD = source.auto()
        ODD = ("a", 1)

    return State


MAKERS = {"Color": make_color, "Mode": make_mode, "Word": make_word, "State": make_state}

QUESTIONS = """\
[str(m) for m in Color]; [repr(m) for m in Color]; [f"{m}" for m in Color]; f"{Color.GREEN:04x}"; Color(2).name
Color["ROT"].name; Color(1) is Color.ROT; Color(Color.GREEN) is Color.GREEN; Color(2.0).name; len(Color)
list(Color.__members__); [m.value for m in reversed(Color)]; Color.RED.warm; Color.first().name; Color.RED + 1
Color.RED == 1; hash(Color.RED) == hash(1); Color.GREEN > Color.RED; {1: "x"}[Color.RED]; Color(3); Color("x")
Color([]); Color["BLUE"]; type(Color.RED | 2).__name__; Color.RED in Color; bool(Color); repr(Color)
Color.__doc__; isinstance(Color.RED, Color); Color.RED.RED if False else 0
json.dumps([Color.RED, {Color.GREEN: Color.RED}]); copy.copy(Color.RED) is Color.RED
copy.deepcopy([Color.RED])[0] is Color.RED; "%d" % Color.GREEN; Color.GREEN.real; [str(m) for m in Mode]
[repr(m) for m in Mode]; len(Mode); [m.name for m in Mode.READ | Mode.SYNC]; Mode(3).name; Mode(9).name
repr(Mode(9)); repr(Mode(0x40)); Mode(0x40).name; Mode(0x41).name; Mode(4).value; str(Mode(9)); Mode(0).name
Mode.READ | Mode.WRITE is Mode.BOTH; (Mode.READ | 4).value; (4 | Mode.READ).value; type(4 | Mode.READ).__name__
Mode.READ in Mode(9); Mode.WRITE in Mode(9); 1 in Mode(9); bool(Mode.NONE); bool(Mode.READ & Mode.WRITE)
(Mode.BOTH ^ 1).name; (~Mode.READ).value; repr(~Mode.READ); (~Mode.NONE).value; (~Mode(0x40)).value
Mode(-1).value; Mode(-2).name; Mode("a"); (Mode.BOTH & ~Mode.READ).name; len(Mode(9)); Mode(9) == 9
sorted([Mode.WRITE, Mode.READ]); Mode.READ | "a"; Mode(1 << 40).value; [str(m) for m in Word]
[repr(m) for m in Word]; f"{Word.YES:>5}"; Word("no").name; Word("x"); Word.YES + "!"; Word.YES == "yes"
"-".join(Word); {"yes": 1}[Word.YES]; set(Word) == {"yes", "no"}; Word.NO.value; json.dumps(Word.YES)
[str(m) for m in State]; [repr(m) for m in State]; State(1).name; State(("a", 1)).name; State.NEW == 1
State.OLD.value; State(9); State.NEW is State["NEW"]; len({State.NEW, State.OLD}); State.NEW < State.OLD"""


def answer(question: str, source: Any) -> Any:
    names = {name: make(source) for name, make in MAKERS.items()}
    try:
        return eval(question, {"copy": copy, "json": json}, names)  # noqa: S307 - the questions above
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        return type(error).__name__, str(error).replace("'", "")[:20]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("question", QUESTIONS.replace("\n", "; ").split("; "))
def test_question_has_the_standard_answer(question: str) -> None:
    assert answer(question, enums) == answer(question, enum)


class Stored(enums.IntEnum):
    ONE = 1


class Flags(enums.IntFlag):
    A = 1
    B = 2


def test_members_survive_pickling() -> None:
    assert pickle.loads(pickle.dumps(Stored.ONE)) is Stored.ONE  # noqa: S301 - our own bytes
    assert pickle.loads(pickle.dumps(Flags.A | Flags.B)) == Flags(3)  # noqa: S301 - ditto


def test_members_are_no_variables() -> None:
    with pytest.raises(AttributeError):
        Stored.ONE = 2  # type: ignore[misc]


@pytest.mark.parametrize("name", ["__new__", "__init__", "_missing_"])
def test_what_is_not_supported_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        type(enums.IntEnum)("Odd", (enums.IntEnum,), {name: lambda *_: None})
    with pytest.raises(TypeError, match="with members"):
        type(enums.IntEnum)("More", (Stored,), {})


def test_unknown_flags_take_no_memory() -> None:
    for value in range(4, 1000):
        Flags(value)
    assert len(Flags.__members__) == 2
    assert Flags(77) is not Flags(77)


def test_enums_load_no_enum() -> None:
    code = "import sys; import pyhyve.support.enums; print('enum' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
