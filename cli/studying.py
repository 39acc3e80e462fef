"""What `ablate`, `probe` and `scale` share: the study's folder, its processes, its progress. Their
flags are in study_options.py."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from ..core.cores import allowed_cores
from ..core.errors import DamagedError, UsageError
from . import kernels, settings
from . import options as opt
from .folders import cache_folder
from .main import COMMAND_START
from .render import say
from .study_options import numbers
from .study_progress import StudyProgress

if TYPE_CHECKING:
    from ..core.study.comparison import Asked, Comparison, Outcome
    from ..core.study.contestant import Contestant
    from ..core.study.plan import Shapes
    from ..core.study.study import Executor, Job, Result, Study
    from ..core.train.request import Request

DEFAULT_BUDGET = 600.0  # seconds
SLACK_SECONDS = 1.0  # of a budget, for the table and the plot
AT_ANY_TIME = {"resume", "plot", "as_json", "quiet", "jobs", "cluster", "debug"}  # with --resume
LATER_TOO = {"check"}  # what a study can be asked for after all: with --resume, or at first

# -- a session -----------------------------------------------------------------------------------


class Session:
    """A study while a command works on it. flags: those of the command that started the study;
    request: the data and settings that all runs share, without tokens and seed."""

    def __init__(self, study: Study, flags: dict[str, Any], quiet: bool, processes: int) -> None:
        from ..core.study.study import request_from_json

        self.study, self.flags, self.quiet, self.processes = study, flags, quiet, processes
        self.request: Request = request_from_json(study.definition["request"])
        self.threads: int = study.definition["threads"]
        self.factors = numbers(flags["lr_factors"], "--lr")
        self.executor: Executor = self._executor()
        self.progress = StudyProgress(quiet)

    def note(self, text: str) -> None:
        """A line on stderr."""
        say(text, self.quiet)

    def shapes(self, request: Request | None = None) -> Shapes:
        """The data of a request, prepared in this process, and the configs of contestants on it."""
        from ..core.ops.device import pick_device, use_threads
        from ..core.study.plan import Shapes
        from ..core.train.prepare import prepare

        request = request or self.request
        device = pick_device(request.device)
        use_threads(0)
        kernels.use_kernels()
        return Shapes(request, prepare(request, self.note), device, cache_folder())

    def asked(self, share: float = 1.0, **changes: Any) -> Asked:
        """What the flags ask of a comparison. share: of the time that is left of --budget."""
        from ..core.study.comparison import Asked

        budget = self.flags["budget"] or DEFAULT_BUDGET

        def left() -> float:
            spent = time.monotonic() - COMMAND_START
            return max(0.0, share * (budget - spent - SLACK_SECONDS))

        fields = dict(
            factors=self.factors,
            seeds=self.flags["seeds"],
            processes=self.processes,
            threads=self.threads,
            tokens=self.flags["tokens"],
            seconds=left,
        )
        return Asked(**{**fields, **changes})

    def comparison(
        self,
        name: str,
        contestants: Callable[[Shapes], tuple[Sequence[Contestant], str]],
        request: Request | None = None,
        **asked: Any,
    ) -> Comparison:
        """The comparison `name` of the study: planned at first, read when the study goes on.
        contestants: returns them and the name of the reference; asked: see `asked`."""
        from ..core.study.comparison import Comparison, planned

        request = request or self.request

        def plan() -> dict[str, Any]:
            shapes = self.shapes(request)
            everyone, reference = contestants(shapes)
            library = kernels.compiled()
            wanted = self.asked(**asked)
            return planned(shapes, everyone, reference, wanted, library, self.note).record()

        return Comparison.from_record(request, self.study.fact(name, plan))

    def outcomes(self, comparisons: Sequence[Comparison]) -> list[Outcome]:
        """The comparisons, one after the other, with their progress on stderr."""
        for each in comparisons:
            self.progress.expect(each.expected())
        return [each.run(partial(self.train, seconds=each.seconds)) for each in comparisons]

    def train(
        self, jobs: Sequence[Job], seconds: Callable[[Job], float] = lambda job: 0.0
    ) -> list[Result]:
        """The results of all jobs, with their progress on stderr. seconds: that a job is expected
        to take, see `StudyProgress.expect`."""
        if not jobs:
            return []
        expected = {job.name: seconds(job) for job in jobs}
        with self.progress.of(self.study, jobs, expected):
            found = []
            for result in self.study.run(jobs, self.executor):
                found.append(result)
                self.progress.took(result)
        return found

    def _executor(self) -> Executor:
        from ..core.study.executors import Cluster, LocalProcesses
        from ..core.study.worker import Worker

        library = kernels.compiled()
        worker = Worker(
            self.threads, cache_folder(), None if library is None else str(library._name)
        )
        if self.flags["cluster"]:
            return Cluster(self.flags["cluster"], self.processes, worker, self.study.folder)
        return LocalProcesses(self.processes, worker)


@contextmanager
def session(ctx: click.Context, verb: str, flags: dict[str, Any], quiet: bool) -> Iterator[Session]:
    """The study that the flags start, or that --resume names. However it ends, so do its
    processes; where it can be continued, the command for that is printed."""
    if flags["plot"]:
        from ..core.chart_file import check_plot

        check_plot(Path(flags["plot"]))
    begin = _begin if flags["resume"] is None else _resume
    study, flags = begin(ctx, verb, flags)
    folder = study.folder
    opened = None
    try:
        opened = Session(study, flags, quiet, flags["jobs"] or study.definition["processes"])
        yield opened
    except BaseException as error:
        goes_on = any((folder / "runs").iterdir()) or flags["resume"] is not None
        if goes_on and not isinstance(error, DamagedError):  # which would be met again
            say(f"continue with: tfm {verb} --resume {quote(str(folder))}")
        elif not goes_on:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        if opened is not None:
            opened.executor.close()
        study.unlock()
    say(f"all runs are in {folder / 'runs'}", quiet)


def _begin(ctx: click.Context, verb: str, flags: dict[str, Any]) -> tuple[Study, dict[str, Any]]:
    chosen = settings.one_of(ctx, ("budget", "tokens"))
    flags = {**flags, **{name: None for name in ("budget", "tokens") if name != chosen}}
    numbers(flags["lr_factors"], "--lr")
    if flags["study"]:
        from ..core.study.study import check_free

        check_free(Path(flags["study"]))
    request = request_of(ctx, flags)

    from ..core.ops.device import pick_device
    from ..core.study.study import Study, request_to_json

    on_cpu = pick_device(request.device).type == "cpu"
    processes = flags["jobs"] or (allowed_cores() if on_cpu else 1)
    folder = Path(flags["study"]) if flags["study"] else _default_folder(verb)
    definition = {
        "verb": verb,
        "argv": sys.argv[1:],
        "flags": {n: v for n, v in flags.items() if n not in AT_ANY_TIME - {"cluster"} | {"study"}},
        "request": request_to_json(request),
        "processes": processes,
        "threads": max(1, allowed_cores() // processes),  # another number would give other bits
    }
    study = Study.create(folder, definition)
    data, valid, test = (
        kept_streams(paths, folder) for paths in (request.data, request.valid, request.test)
    )
    study.update(request=request_to_json(replace(request, data=data, valid=valid, test=test)))
    return study, flags


def _resume(ctx: click.Context, verb: str, flags: dict[str, Any]) -> tuple[Study, dict[str, Any]]:
    from ..core.study.study import Study

    for param in ctx.command.params:
        name = param.name or ""
        if name not in AT_ANY_TIME | LATER_TOO and settings.origin(ctx, name) == "flag":
            raise UsageError(
                f"{param.opts[0]} and --resume exclude each other: a study keeps its settings"
            )
    folder = Path(flags["resume"])
    study = Study.open(folder)
    made_by = study.definition["verb"]
    if made_by != verb:
        raise UsageError(f"--resume {folder}: a study of tfm {made_by}, not of tfm {verb}")
    now = {name: flags[name] for name in AT_ANY_TIME if name in flags}
    now |= {name: True for name in LATER_TOO if flags.get(name)}
    if now["cluster"] is None:
        del now["cluster"]
    return study, {**study.definition["flags"], **now}


def request_of(ctx: click.Context, flags: dict[str, Any]) -> Request:
    """The data and settings of the flags. ConfigError for unknown names and fields."""
    from ..core.architectures import SIZES, model_config
    from ..core.config import TrainConfig, check_names, with_fields
    from ..core.plugins import find

    sets = settings.sets(ctx, flags["settings"])
    check_names(sets["model"])
    for name in ("seed", "steps", "threads"):
        if name in sets["train"]:
            raise UsageError(f"--set train.{name}: the study decides it for its runs")
    with_fields(TrainConfig(), "train", sets["train"])
    size = flags.get("size") or next(iter(SIZES))
    model_config("transformer", size)
    if flags.get("task"):
        find("tasks", flags["task"])
    given = ctx.meta.get("tfm.task_options", ())
    options = {name: flags[name] for name in given if flags[name] is not None}

    from ..core.train.request import Request

    return Request(
        task=flags.get("task"),
        task_options={**sets["task"], **options},
        data=lasting((*flags.get("data", ()), *opt.expanded(flags.get("files", ())))),
        column=flags.get("column"),
        valid=lasting(flags.get("valid", ())),
        test=lasting(flags.get("test", ())),
        holdout=flags.get("holdout"),
        tokenizer=flags.get("tokenizer"),
        size=size,
        context=flags.get("context"),
        device=flags["device"],
        sets={section: sets[section] for section in ("model", "train")},
    )


def lasting(paths: Sequence[str]) -> tuple[str, ...]:
    """Paths that do not depend on the working folder; names of the Hub and streams as they are."""
    from ..core.data.scratch import is_stream

    return tuple(
        path if path.startswith("hf:") or is_stream(path) else str(Path(path).absolute())
        for path in paths
    )


def kept_streams(paths: Sequence[str], folder: Path) -> tuple[str, ...]:
    """The paths, with copies in `folder` of what can be read only once, as standard input: all
    processes of a study read the data."""
    from ..core.data.scratch import is_stream, streamed

    kept = []
    for path in paths:
        if is_stream(path):
            copied = streamed(path)
            target = folder.absolute() / f"data-{len(list(folder.glob('data-*')))}{copied.suffix}"
            shutil.copyfile(copied, target)
            path = str(target)
        kept.append(path)
    return tuple(kept)


def _default_folder(verb: str) -> Path:
    """studies/TIME-VERB, then studies/TIME-VERB-2 and so on."""
    path = Path("studies") / f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{verb}"
    names = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(each for each in (path, *itertools.islice(names, 100)) if not each.exists())
