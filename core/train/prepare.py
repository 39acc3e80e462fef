"""Data and tokenizer of a run: read, split and tokenized, before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ..config import TrainConfig, with_fields
from ..data.source import Source
from ..errors import ConfigError, DataError
from ..plugins import find, guess_task
from ..protocols import Items, Sequence, Tokenizer
from ..runs.run import Run
from ..task import Task
from .early_stopping import check_until
from .request import Note, Request


@dataclass
class Prepared:
    """All that a plan is made for."""

    task: Task
    source: Source
    train: Items
    held: dict[str, Items]  # valid, test where one was named, report where valid chooses
    tokenizer: Tokenizer
    tokenizer_spec: str
    heldout: dict[str, list[Sequence]]
    floor: dict[str, float]
    final_split: str


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task with its options, as typed. ConfigError for one it does not have."""
    kind = find("tasks", name)
    task: Task = kind(with_fields(kind.Options(), "task", options))
    for f, value in asdict(task.options).items():
        choices = kind.Options.__dataclass_fields__[f].metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise ConfigError(f"--{f} {value}: must be one of {', '.join(choices)}")
    return task


def prepare(request: Request, note: Note) -> Prepared:
    """Reads, splits and tokenizes. DataError and ConfigError for what cannot be."""
    source = Source(tuple(request.data), request.column) if request.data else None
    name = request.task or (guess_task(source) if source else "text")
    if request.task is None and source is not None:
        note(f"{source.describe()} looks like --task {name}")
    task = make_task(name, request.task_options)
    if source is None:
        source = task.default_source()
        note(f"no --data: using {source.about}; give your own with --data FILE")
    items = task.items(source)
    held: dict[str, Items] = {}
    if request.valid:
        train, held["valid"] = items, task.items(Source(request.valid, request.column))
    if request.test:
        held["test"] = task.items(Source(request.test, request.column))
    if not request.valid:
        train, held["valid"] = task.split(items, request.holdout)
    chooses = with_fields(TrainConfig(), "train", request.sets.get("train", {}))
    if request.valid:
        held["valid"] = task.follow(train, held["valid"])
    if request.test:
        held["test"] = task.follow(train, held["test"], held["valid"])
    if (chooses.patience or chooses.until) and "test" not in held:
        held["valid"], held["report"] = task.halves(held["valid"])
    aside = "; ".join(f"{name} {part.about}" for name, part in held.items())
    note(f"training on {train.about}; held out: {aside.removeprefix('valid ')}")

    if request.init is not None:
        spec, tokenizer = request.init.config["tokenizer"]["spec"], request.init.tokenizer()
    else:
        spec = request.tokenizer or task.default_tokenizer
        tokenizer = task.fit_tokenizer(spec, train)
    check_until(chooses.until, task.unit, tokenizer.lossless)
    heldout = {split: list(task.sequences(part, tokenizer)) for split, part in held.items()}
    final = next(name for name in ("test", "report", "valid") if name in held)
    floor = task.floor(train, held[final])
    if floor:
        ends = tuple(f"_{name}" for name in task.headline)
        first = {name: value for name, value in floor.items() if not ends or name.endswith(ends)}
        values = ", ".join(f"{name} {value:.4g}" for name, value in first.items())
        note(f"baselines{' in ' if task.floor_unit else ''}{task.floor_unit}: {values}")
    return Prepared(task, source, train, held, tokenizer, spec, heldout, floor, final)


def training_items(run: Run, task: Task, moved: tuple[str, ...] = ()) -> Items:
    """What a run was trained on, read again from where it was, or from where it `moved`.
    DataError where it has changed."""
    data = run.config["data"]
    # what was piped in was copied into the run
    paths = moved or tuple(str(run.path / "stdin") if p == "-" else p for p in data["paths"])
    source = Source(paths, data["column"]) if paths else task.default_source()
    items = task.items(source)
    train = items if data["valid"] else task.split(items, data["holdout"])[0]
    if train.fingerprint != data["fingerprint"]:
        raise DataError(
            f"{run.path}: its data ({source.describe()}) has changed since; name the old one with "
            "--data, or train anew with --init to go on from its weights"
        )
    return train
