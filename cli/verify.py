"""`tfm verify`: checks a run's files against their checksums, and that it resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..core.data.shards import PREPARED, is_prepared
from ..core.errors import AnswerNo, DamagedError, UsageError
from . import kernels
from . import options as opt
from .folders import cache_folder
from .render import loops_shown, say


@click.command("verify", cls=opt.Command)
@opt.run_argument
@opt.option("--resume-exact", is_flag=True, help="Also kill and resume a copy; compare weights.")
@opt.option("--data", multiple=True, metavar="PATH", help="Training data, if it has moved.")
@opt.device_option
@opt.runs_option
@opt.json_option
def command(
    run: str | None,
    resume_exact: bool,
    data: tuple[str, ...],
    device: str,
    runs: str,
    quiet: bool,
    as_json: bool,
) -> None:
    """Check every file of RUN (the newest by default), or of a folder of `tfm prepare`, against its
    checksum.

    Lists each damaged file on stdout, with exit code 3. With --resume-exact, the first steps of
    the run are trained twice in a temporary folder, once interrupted by SIGKILL and resumed: exit
    code 5 if the two differ in any bit of the weights or in the log.
    """
    path, count, found = _problems(run, runs, quiet)
    if resume_exact and is_prepared(path):
        raise UsageError(f"--resume-exact: {path} is a folder of `tfm prepare`; name a run")
    result: dict[str, Any] = {
        "schema": 1,
        "run": str(path),
        "checked": count,
        "damaged": [{"file": file, "problem": what} for file, what in found],
    }
    differ: list[str] = []
    if resume_exact and not found:
        from ..core.runs.run import Run
        from ..core.train.trial import resume_differences

        differ = resume_differences(
            Run(path),
            device,
            data,
            cache_folder(),
            kernels.compiler(),
            lambda text: say(text, quiet),
        )
        result["resume_exact"], result["differences"] = not differ, differ
    if as_json:
        click.echo(json.dumps(result))
    for file, what in found if not as_json else ():
        click.echo(f"{file}: {what}")
    if found:
        raise DamagedError(f"{path}: {len(found)} of {count} files and checkpoints are damaged")
    if differ:
        raise AnswerNo(f"{path}: differs after resuming: {'; '.join(differ)}")
    say(f"{path}: {count} files and checkpoints match their checksums", quiet)


def _problems(name: str | None, runs: str, quiet: bool) -> tuple[Path, int, list[tuple[Path, str]]]:
    """The path of a run or of prepared data, the number of files, and which are damaged."""
    from ..core.files import file_problems, read_manifest
    from ..core.runs.catalogue import all_problems, find_run, split_part

    if name is None or not is_prepared(name):
        path = find_run(split_part(name)[0], Path(runs))
        return path, *all_problems(path)
    path = Path(name)
    manifest = read_manifest(path, PREPARED)
    with loops_shown(quiet):
        return path, 1 + len(manifest["files"]), list(file_problems(path, manifest))
