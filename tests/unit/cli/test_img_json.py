from __future__ import annotations

import json

import pytest

from pyhyve.cli.img_json import json_text


@pytest.mark.parametrize(
    "value",
    [
        {}, [], "", 0, -5, 1 << 70, True, None, "plain", 'a "quoted" \\ path\n\t\r\b\f\x00\x1f\x7fäöü☃',
        {"a": [1, [2, {"b": {}}], []], "c": {"d": False}}, [{"x": None}, "y"],
    ],
    ids=repr,
)  # fmt: skip
def test_text_is_what_the_standard_library_writes(value: object) -> None:
    assert json_text(value) == json.dumps(value, indent=4, ensure_ascii=False)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="float"):
        json_text([1.5])
