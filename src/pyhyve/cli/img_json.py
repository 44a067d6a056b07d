"""JSON as qemu-img prints it, without importing `json`: that takes longer than the rest of `pyhyve img info`."""

from __future__ import annotations

_ESCAPES = {code: f"\\u{code:04x}" for code in range(0x20)} | {
    ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", 8: "\\b", 12: "\\f",
}  # fmt: skip


def json_text(value: object, depth: int = 0) -> str:
    """`value` (objects, lists, text, whole numbers, truth values, None) over several lines, indented by four spaces."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value)
    inside = "\n" + "    " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{json_text(str(key))}: {json_text(item, depth + 1)}" for key, item in value.items()]
        opening, closing = "{", "}"
    elif isinstance(value, list | tuple):
        parts = [json_text(item, depth + 1) for item in value]
        opening, closing = "[", "]"
    else:
        msg = f"{type(value).__name__} has no JSON form"
        raise TypeError(msg)
    if not parts:
        return opening + closing
    return opening + inside + f",{inside}".join(parts) + "\n" + "    " * depth + closing
