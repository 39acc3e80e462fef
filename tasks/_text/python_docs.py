"""The documentation text that ships with CPython: data that every machine has.

Parsing the standard library takes a second. Run as a script in a process of its own, it overlaps
with the import of torch; so this file imports nothing of tfm.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import sysconfig
from collections import deque
from collections.abc import Iterator
from pathlib import Path

FOLDERS = (
    "",
    "asyncio",
    "collections",
    "concurrent",
    "email",
    "html",
    "http",
    "importlib",
    "json",
    "logging",
    "multiprocessing",
    "unittest",
    "urllib",
    "xml",
)
WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")  # fields that can hold definitions


def python_docs() -> Iterator[str]:
    """The language reference of `pydoc_data.topics`, then the docstrings of the standard library,
    by file and depth. Files are parsed, never imported."""
    from pydoc_data.topics import topics

    yield from (topics[name].strip() for name in sorted(topics))
    root = Path(sysconfig.get_paths()["stdlib"])
    for folder in FOLDERS:
        for path in sorted((root / folder).glob("*.py")):
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, OSError, ValueError):
                continue
            for node in definitions(tree):
                doc = ast.get_docstring(node)
                if doc:
                    yield f"{getattr(node, 'name', path.stem)}\n\n{doc}"


def definitions(
    tree: ast.AST,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """What can have a docstring, in the order of `ast.walk`, without looking into expressions."""
    waiting = deque([tree])
    while waiting:
        node = waiting.popleft()
        if isinstance(node, WITH_DOCSTRING):
            yield node
        for name in BLOCKS:
            inside = getattr(node, name, None)
            if isinstance(inside, list):
                waiting.extend(inside)


def write(path: Path) -> None:
    """Writes the text to a file."""
    path.write_text("\n\n".join(python_docs()), encoding="utf-8")


def start_writing(path: Path) -> subprocess.Popen[bytes] | None:
    """Starts a process that writes the text to a file; None if that is impossible."""
    try:
        return subprocess.Popen(
            [sys.executable, "-I", __file__, str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


if __name__ == "__main__":
    write(Path(sys.argv[1]))
