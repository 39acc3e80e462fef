"""Reads and splits the data of a new run and fits its tokenizer, before training is planned."""

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
    """The data and tokenizer of a new run: the input of `make_plan`."""

    task: Task
    source: Source
    train: Items
    # "valid"; "test" with --test; "report", half of "valid", where the other half selects weights
    heldout_items: dict[str, Items]
    tokenizer: Tokenizer
    tokenizer_spec: str
    heldout: dict[str, list[Sequence]]  # the same splits as ids
    floor: dict[str, float]  # scores of trivial baselines on the final split
    final_split: str  # the split that the final score is measured on


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task, built from its options as typed. ConfigError for an unknown option or value."""
    kind = find("tasks", name)
    task: Task = kind(with_fields(kind.Options(), "task", options))
    for f, value in asdict(task.options).items():
        choices = kind.Options.__dataclass_fields__[f].metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise ConfigError(f"--{f} {value}: must be one of {', '.join(choices)}")
    return task


def prepare(request: Request, note: Note) -> Prepared:
    """Reads, splits and tokenizes the data that the flags name. DataError, ConfigError."""
    source = Source(tuple(request.data), request.column) if request.data else None
    name = request.task or (guess_task(source) if source else "text")
    if request.task is None and source is not None:
        note(f"{source.describe()} looks like --task {name}")
    task = make_task(name, request.task_options)
    if source is None:
        source = task.default_source()
        note(f"no --data: using {source.about}; give your own with --data FILE")
    items = task.items(source)
    splits: dict[str, Items] = {}  # all but the training items
    if request.valid:
        train, splits["valid"] = items, task.items(Source(request.valid, request.column))
    if request.test:
        splits["test"] = task.items(Source(request.test, request.column))
    if not request.valid:
        train, splits["valid"] = task.split(items, request.holdout)
    config = with_fields(TrainConfig(), "train", request.sets.get("train", {}))
    if request.valid:
        splits["valid"] = task.follow(train, splits["valid"])
    if request.test:
        splits["test"] = task.follow(train, splits["test"], splits["valid"])
    if (config.patience or config.until) and "test" not in splits:
        splits["valid"], splits["report"] = task.halves(splits["valid"])
    heldout_about = "; ".join(f"{name} {part.about}" for name, part in splits.items())
    note(f"training on {train.about}; held out: {heldout_about.removeprefix('valid ')}")

    if request.init is not None:
        spec, tokenizer = request.init.config["tokenizer"]["spec"], request.init.tokenizer()
    else:
        spec = request.tokenizer or task.default_tokenizer
        tokenizer = task.fit_tokenizer(spec, train)
    check_until(config.until, task.unit, tokenizer.lossless)
    heldout = {split: list(task.sequences(part, tokenizer)) for split, part in splits.items()}
    final = next(name for name in ("test", "report", "valid") if name in splits)
    floor = task.floor(train, splits[final])
    if floor:
        ends = tuple(f"_{name}" for name in task.headline)
        main = {name: value for name, value in floor.items() if not ends or name.endswith(ends)}
        values = ", ".join(f"{name} {value:.4g}" for name, value in main.items())
        note(f"to beat{', in ' if task.floor_unit else ''}{task.floor_unit}: {values}")
    return Prepared(task, source, train, splits, tokenizer, spec, heldout, floor, final)


def training_items(run: Run, task: Task, moved: tuple[str, ...] = ()) -> Items:
    """Reads the training items of a run again, from their old paths or from `moved`.
    DataError if the data has changed."""
    data = run.config["data"]
    # the run has a copy of data that was piped in
    paths = moved or tuple(str(run.path / "stdin") if p == "-" else p for p in data["paths"])
    source = Source(paths, data["column"]) if paths else task.default_source()
    items = task.items(source)
    train = items if data["valid"] else task.split(items, data["holdout"])[0]
    if train.fingerprint != data["fingerprint"]:
        raise DataError(
            f"{run.path}: its data ({source.describe()}) has changed since training; name the "
            "unchanged data with --data, or start a new run from its weights with --init"
        )
    return train
