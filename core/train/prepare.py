"""The first stage of a training: reads, splits and tokenizes the data."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from ..architectures import architecture
from ..config import ModelConfig, TrainConfig, with_fields
from ..data.datasets import with_sources
from ..data.source import Source
from ..display import baselines_line
from ..errors import ConfigError, DataError, UsageError
from ..plugins import find, guess_task
from ..protocols import Dataset, Items, Sequence, Tokenizer
from ..runs.run import Run
from ..task import Description, Task
from .early_stopping import check_until
from .request import Note, Request

QUICK_SECONDS = 5.0  # a budget too short for baselines that take seconds; `tfm eval` has them


@dataclass
class Data:
    """The result of `read_data`."""

    task: Task
    source: Source
    train: Items
    held: dict[str, Items]  # held-out parts: valid; test if given; report if valid selects
    tokenizer: Tokenizer
    tokenizer_spec: str
    description: Description | None = None  # of the training data


@dataclass
class Prepared(Data):
    """The result of `prepare`."""

    heldout: dict[str, list[Sequence]] = field(default_factory=dict)  # `held`, tokenized
    floor: dict[str, float] = field(default_factory=dict)  # baselines on the final split
    final_split: str = "valid"  # of the final score: test, report or valid
    quick_floor: bool = False  # slow baselines are left out of `floor`


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """The task with these options, given as text or values. ConfigError for an unknown one."""
    kind = find("tasks", name)
    task: Task = kind(with_fields(kind.Options(), "task", options))
    for f, value in asdict(task.options).items():
        choices = kind.Options.__dataclass_fields__[f].metadata.get("choices")
        if choices and value is not None and value not in choices:
            raise ConfigError(f"--{f} {value}: must be one of {', '.join(choices)}")
    return task


def init_options(run: Run, given: Mapping[str, object]) -> dict[str, object]:
    """The task options of a run that starts from `run`: those its tokenizer depends on are kept,
    `given` ones set. UsageError for a given option that would have to be kept."""
    task = run.task()
    kept = {
        f.name: getattr(task.options, f.name)
        for f in fields(task.options)
        if f.metadata.get("inherited")
    }
    for name in given:
        if name in kept:
            raise UsageError(
                f"--{name.replace('_', '-')} and --init exclude each other: {run.path} has its own"
            )
    return {**kept, **task.init_options(task.options, run.tokenizer()), **given}


def prepare(request: Request, note: Note) -> Prepared:
    """Reads, splits and tokenizes the data. DataError or ConfigError if that is impossible."""
    config = with_fields(TrainConfig(), "train", request.sets.get("train", {}))
    data = read_data(request, note, bool(config.patience or config.until))
    task, train, held, tokenizer = data.task, data.train, data.held, data.tokenizer
    check_until(config.until, task.unit, tokenizer.lossless, task.measures(tokenizer))
    heldout = {split: list(task.sequences(part, tokenizer)) for split, part in held.items()}
    final = next(name for name in ("test", "report", "valid") if name in held)
    quick = request.budget is not None and request.budget < QUICK_SECONDS
    floor, quick = task.baselines(train, held[final], heldout[final], tokenizer, quick)
    if floor:
        values = baselines_line(floor, task.headline)
        note(f"baselines{' in ' if task.floor_unit else ''}{task.floor_unit}: {values}")
    return Prepared(
        **vars(data), heldout=heldout, floor=floor, final_split=final, quick_floor=quick
    )


def read_data(request: Request, note: Note, selects: bool = False) -> Data:
    """Reads and splits the data, and fits the tokenizer. selects: whether held-out items select the
    weights, so that others must score them. DataError or ConfigError if that is impossible."""
    source = Source(tuple(request.data), request.column) if request.data else None
    name = request.task or "text"
    if request.task is None and source is not None:
        guess = guess_task(source)
        name = guess.task
        most = "" if guess.share == 1 else f" ({int(100 * guess.share)} % of its bytes)"
        note(f"{source.describe()} looks like --task {name}{most}")
    init = request.init
    options = dict(request.task_options)
    same = init is not None and init.config["task"] == name
    if init is not None and same:
        options = init_options(init, options)
    task = make_task(name, options)
    if init is not None and not same:
        task.start_from(init.config["task"], init.tokenizer())
    encoder = architecture(request.arch).model.get("encoder_layers", 0)
    if request.sets.get("model", {}).get("encoder_layers", encoder) and not task.pairs:
        raise ConfigError(
            f"--arch {request.arch}: has an encoder, for the source of a pair; the items of --task "
            f"{name} have none"
        )
    own = task.adapt(init.tokenizer()) if init is not None and same else None
    if source is None:
        source = task.default_source()
        if not task.generated:
            note(f"no --data: using {source.about}; give your own with --data FILE")

    train, held, description = _read_parts(request, task, source, own, selects, note)
    about = "; ".join(f"{name} {part.about}" for name, part in held.items())
    note(f"training on {train.about}; held out: {about.removeprefix('valid ')}")

    if init is not None and own is not None:
        spec, tokenizer = init.config["tokenizer"]["spec"], own
    else:
        spec = request.tokenizer or task.default_tokenizer
        tokenizer = task.fit_tokenizer(spec, train)
        about_tokenizer = task.about_tokenizer(spec, tokenizer)
        if about_tokenizer:
            note(about_tokenizer)
    return Data(task, source, train, held, tokenizer, spec, description)


def _read_parts(
    request: Request, task: Task, source: Source, own: Tokenizer | None, selects: bool, note: Note
) -> tuple[Items, dict[str, Items], Description | None]:
    """(training items, held-out parts by name, what was found in the data). own: the tokenizer of
    the run of --init; selects: whether held-out items select the weights, so that others must score
    them."""

    def read(source: Source) -> tuple[Items, Description | None]:
        items = task.items(source)
        description = task.describe(items)
        for line in description.lines if description else ():
            note(line)
        return items if own is None else task.conform(items, own, note), description

    items, description = read(source)
    parts = task.parts(items)
    held: dict[str, Items] = {}
    for split, paths in (("valid", request.valid), ("test", request.test)):
        if paths:
            held[split], _ = read(Source(paths, request.column))
            if split in parts:
                note(f"--{split} replaces {parts[split].about} of the data's own part {split}")
        elif split in parts:
            held[split] = parts[split]
    if "valid" in held and request.holdout is not None:
        raise UsageError(
            f"--holdout {request.holdout}: nothing is held out where "
            f"{'--valid names' if request.valid else 'the data has'} a validation part"
        )
    train = parts.get("train", items)
    if "valid" not in held:
        train, held["valid"] = task.split(train, request.holdout)
    for split in ("valid", "test"):
        if split in held and held[split].fingerprint == train.fingerprint:
            note(f"--{split} is the training data itself: its scores say nothing about other data")
    if request.valid:
        held["valid"] = task.follow(train, held["valid"])
    if request.test:
        held["test"] = task.follow(train, held["test"], held["valid"])
    if selects and "test" not in held:
        held["valid"], held["report"] = task.halves(held["valid"])
    ordered: tuple[str, ...] = ("valid", "report", "test")
    return train, {name: held[name] for name in ordered if name in held}, description


def training_data(
    task: Task,
    train: Items,
    tokenizer: Tokenizer,
    model: ModelConfig,
    tokens: int | None,
    seed: int,
    cache: Path,
) -> Dataset:
    """The training rows of a model. tokens, cache: see `Task.dataset`."""
    data = task.dataset(train, tokenizer, model.context, tokens, seed, cache)
    return with_sources(data) if model.encoder_layers else data


def training_items(run: Run, task: Task, moved: tuple[str, ...] = ()) -> Items:
    """The training items of a run, read again from their files, or from the files `moved` if they
    are elsewhere now. DataError if their content has changed."""
    data = run.config["data"]
    copies = data.get("streams", {"-": "stdin"})  # older runs keep standard input only
    paths = moved or tuple(str(run.path / copies[p]) if p in copies else p for p in data["paths"])
    source = Source(paths, data["column"]) if paths else task.default_source()
    gone = [
        p for p in paths if not p.startswith("hf:") and not glob.glob(p) and not Path(p).exists()
    ]
    if gone:
        raise DataError(
            f"{run.path}: its data {gone[0]} is not there any more; name its new place with --data"
        )
    items = task.items(source)
    if run.config["init"]:
        items = task.conform(items, run.tokenizer(), lambda text: None)
    parts = task.parts(items)
    train = parts.get("train", items)
    if not data["valid"] and "valid" not in parts:
        train = task.split(train, data["holdout"])[0]
    if train.fingerprint != data["fingerprint"]:
        raise DataError(
            f"{run.path}: its data ({source.describe()}) has changed since; name the old one with "
            "--data, or start a new run from its weights with --init"
        )
    return train
