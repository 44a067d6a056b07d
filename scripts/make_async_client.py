"""Writes `pyhyve.client.aio` from `pyhyve.client`: the same classes, with every method that asks the daemon awaited.

    python scripts/make_async_client.py           write the modules
    python scripts/make_async_client.py --check   fail where they are not what would be written

The modules in `MODULES` are read; `session` is written by hand, since that is where the two differ.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/pyhyve/client"
TARGET = SOURCE / "aio"
MODULES = ("managed", "stream", "domain", "network", "storage", "authentication", "connection")
AWAITED = {
    ("session", name)
    for name in ("call", "exchange", "open_stream", "send_stream", "end_stream", "receive_stream", "next_event")
}
"""Methods of a session that wait, as (what it is called, method)."""
FUNCTIONS = {"authenticate"}
"""Functions, rather than methods, that wait."""
RENAMED = {"__enter__": "__aenter__", "__exit__": "__aexit__"}
HEADING = (
    '"""{first}\n\nMade from :mod:`pyhyve.client.{name}` by ``scripts/make_async_client.py``: change that one.\n"""\n\n'
)


class Waits(ast.NodeVisitor):
    """Finds out whether a function calls something that waits."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.found = False

    def visit_Call(self, node: ast.Call) -> None:
        """Look at one call."""
        self.found |= waits(node, self.names)
        self.generic_visit(node)


def waits(node: ast.Call, names: set[str]) -> bool:
    """Whether a call waits: of a session's method, or of a function known to wait."""
    function = node.func
    if isinstance(function, ast.Name):
        return function.id in FUNCTIONS
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    owned_by = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    if (owned_by.lstrip("_"), function.attr) in AWAITED:
        return True
    return owned_by == "self" and function.attr in names


def waiting_names(trees: dict[str, ast.Module]) -> set[str]:
    """Names of all functions and methods that wait, however many calls away."""
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    names: set[str] = set()
    while True:
        before = len(names)
        for function in functions:
            visitor = Waits(names)
            for statement in function.body:
                visitor.visit(statement)
            if visitor.found:
                names.add(function.name)
        if len(names) == before:
            return names


class Rewriter(ast.NodeTransformer):
    """Makes what waits wait."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Make a function that waits a coroutine."""
        visitor = Waits(self.names)
        for statement in node.body:
            visitor.visit(statement)
        self.generic_visit(node)
        if not visitor.found and node.name not in RENAMED:
            return node
        fields = {name: getattr(node, name) for name in node._fields}
        fields["name"] = RENAMED.get(node.name, node.name)
        return ast.copy_location(ast.AsyncFunctionDef(**fields), node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Await a call that waits."""
        is_session = isinstance(node.func, ast.Name) and node.func.id == "Session"
        is_waiting = waits(node, self.names)
        self.generic_visit(node)
        if is_session:
            node.func = ast.Attribute(ast.Name("Session", ast.Load()), "open", ast.Load())
        return ast.Await(node) if is_waiting or is_session else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """Import the awaited twin."""
        words = (node.module or "").split(".")
        if words[:2] == ["pyhyve", "client"] and words[-1] in {*MODULES, "session"}:
            node.module = ".".join([*words[:2], "aio", *words[2:]])
        return node


def render(name: str, tree: ast.Module, names: set[str]) -> str:
    """Return the text of one module."""
    made = Rewriter(names).visit(tree)
    ast.fix_missing_locations(made)
    first = (ast.get_docstring(made) or "").splitlines()[0].rstrip(".")
    made.body = made.body[1:]
    text = HEADING.format(first=f"{first}, for asyncio.", name=name) + ast.unparse(made) + "\n"
    for command in (["check", "--fix", "-q", "-"], ["format", "-q", "-"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(TARGET / f"{name}.py")],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        text = done.stdout or text
    return text


def main() -> int:
    """Write the modules, or check them."""
    trees = {name: ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8")) for name in MODULES}
    names = waiting_names(trees)
    stale = []
    for name, tree in trees.items():
        path, text = TARGET / f"{name}.py", render(name, tree, names)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    for path in stale:
        print(path)
    return int(bool(stale) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
