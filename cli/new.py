"""`tfm new`: the skeleton of a package that extends tfm, which works as it is written."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from shlex import quote

import click

from ..core.errors import UsageError, nearest, writing
from . import options as opt
from .names import complete_kind
from .render import say

TEMPLATES = Path(__file__).parent.parent / "templates"
PLACEHOLDER = "newtask"  # the name in the files of a template


@click.command("new", cls=opt.Command)
@click.argument("kind", metavar="task", shell_complete=complete_kind)
@click.argument("name")
@opt.option("--out", metavar="DIR", help="Folder of the package.  [default: NAME]")
@opt.json_option
def command(kind: str, name: str, out: str | None, quiet: bool, as_json: bool) -> None:
    """Write the skeleton of a package: `tfm new task NAME` for a domain of your own.

    The package has a small domain that works, its tests and a README. It prints the path of the
    folder; see docs/new-domain.md for what to replace.
    """
    kinds = sorted(path.name for path in TEMPLATES.iterdir() if path.is_dir())
    if kind not in kinds:
        raise UsageError(f"tfm new {kind}: no such kind of package; {nearest(kind, kinds)}")
    check_name(name)
    folder = Path(out or name)
    write_package(TEMPLATES / kind, name, folder)
    if as_json:
        files = sorted(path.name for path in folder.iterdir())
        record = {"schema": 1, "kind": kind, "name": name, "path": str(folder), "files": files}
        click.echo(json.dumps(record))
    else:
        click.echo(folder)
    say(f"next: pip install -e {quote(str(folder))} && pytest {quote(str(folder))}", quiet)
    say(f"then: tfm train --task {name} --data FILE", quiet)


def check_name(name: str) -> None:
    """UsageError for a name that no new task can have."""
    from ..core.plugins import names

    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(
            f"tfm new task {name}: not a name; use lower-case letters, digits and _, a letter first"
        )
    for group in ("tasks", "tokenizers"):
        if name in names(group):
            raise UsageError(
                f"tfm new task {name}: a {group[:-1]} of this name exists; use another"
            )


def write_package(template: Path, name: str, folder: Path) -> None:
    """Copies a template under a new name, whole or not at all. UsageError if the folder has files
    in it, or its parent does not exist; TfmError if it cannot be written."""
    exists = os.path.lexists(folder)
    if exists and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: already exists; choose another folder with --out DIR")
    parent = Path(os.path.abspath(folder)).parent
    if not parent.is_dir():
        raise UsageError(f"{folder}: there is no folder {parent}; make it first")
    words = {PLACEHOLDER: name, PLACEHOLDER.title(): name.title().replace("_", "")}

    def renamed(text: str) -> str:
        return re.sub("|".join(words), lambda found: words[found[0]], text)

    fresh = (folder if exists else parent) / f".new-{name}-{os.getpid()}"
    with writing(folder):
        try:
            fresh.mkdir()
            for file in template.iterdir():
                if file.is_file():
                    text = renamed(file.read_text(encoding="utf-8"))
                    (fresh / renamed(file.name)).write_text(text, encoding="utf-8")
            if exists:  # it may be the working folder, or one that is mounted
                for file in list(fresh.iterdir()):
                    file.rename(folder / file.name)
            else:
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
