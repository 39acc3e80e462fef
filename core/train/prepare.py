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
from .prepared_folder import PreparedFolder, prepared_folder, tokenizer_hash, training_options
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
    folder: PreparedFolder | None = None  # that all of this is from
    kept: dict[str, list[Sequence]] | None = None  # `held`, tokenized, if it is in a folder

    def sequences(self) -> dict[str, list[Sequence]]:
        """`held`, tokenized."""
        if self.kept is not None:
            return self.kept
        return {s: list(self.task.sequences(part, self.tokenizer)) for s, part in self.held.items()}


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
                f"--{name.replace('_', '-')} and --init exclude each other: {run.title} has its own"
            )
    return {**kept, **task.init_options(task.options, run.tokenizer()), **given}


def prepare(request: Request, note: Note) -> Prepared:
    """Reads, splits and tokenizes the data. DataError or ConfigError if that is impossible."""
    config = with_fields(TrainConfig(), "train", request.sets.get("train", {}))
    data = read_data(request, note, bool(config.patience or config.until))
    task, train, held, tokenizer = data.task, data.train, data.held, data.tokenizer
    check_until(config.until, task.unit, tokenizer.lossless, task.measures(tokenizer))
    heldout = data.sequences()
    quick = request.budget is not None and request.budget < QUICK_SECONDS
    if data.folder is None:
        final, floor, quick = floor_of(task, train, held, heldout, tokenizer, quick)
    else:
        final, quick = final_split(held), False
        floor = data.folder.floor(final)
    if floor:
        known = [m for m in task.headline if any(name.endswith(f"_{m}") for name in floor)]
        values = baselines_line(floor, known)
        note(f"baselines{' in ' if task.floor_unit else ''}{task.floor_unit}: {values}")
    return Prepared(
        **vars(data), heldout=heldout, floor=floor, final_split=final, quick_floor=quick
    )


def final_split(held: Mapping[str, Items]) -> str:
    """The held-out part that the final score is of."""
    return next(name for name in ("test", "report", "valid") if name in held)


def floor_of(
    task: Task,
    train: Items,
    held: Mapping[str, Items],
    heldout: Mapping[str, list[Sequence]],
    tokenizer: Tokenizer,
    quick: bool,
) -> tuple[str, dict[str, float], bool]:
    """The held-out part that the final score is of, with its baselines; see `Task.baselines`."""
    final = final_split(held)
    floor, quick = task.baselines(train, held[final], heldout[final], tokenizer, quick)
    return final, floor, quick


def read_data(request: Request, note: Note, selects: bool = False) -> Data:
    """Reads and splits the data, and fits the tokenizer. selects: whether held-out items select the
    weights, so that others must score them. DataError or ConfigError if that is impossible."""
    folder = prepared_folder(request.data)
    if folder is not None:
        return _read_folder(folder, request, selects, note)
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
    _check_encoder(request, task)
    own = task.adapt(init.tokenizer()) if init is not None and same else None
    if source is None:
        source = task.default_source()
        if not task.generated:
            note(f"no --data: using {source.about}; give your own with --data FILE")

    train, held, description = _read_parts(request, task, source, own, selects, note)
    note(_about_parts(train, held))

    if init is not None and own is not None:
        spec, tokenizer = init.config["tokenizer"]["spec"], own
    else:
        spec = request.tokenizer or task.default_tokenizer
        tokenizer = task.fit_tokenizer(spec, train)
        about_tokenizer = task.about_tokenizer(spec, tokenizer)
        if about_tokenizer:
            note(about_tokenizer)
    return Data(task, source, train, held, tokenizer, spec, description)


def _read_folder(folder: PreparedFolder, request: Request, selects: bool, note: Note) -> Data:
    """What `read_data` makes of the data that a folder was prepared of. UsageError for flags that
    contradict it."""
    folder.check_flags(request)
    chosen = training_options(folder.task) & request.task_options.keys()
    options = {**asdict(folder.task.options), **{k: request.task_options[k] for k in chosen}}
    task, tokenizer, spec = make_task(folder.task.name, options), folder.tokenizer, folder.spec
    _check_encoder(request, task)
    if request.init is not None:
        tokenizer = task.adapt(request.init.tokenizer())
        spec = request.init.config["tokenizer"]["spec"]
        if tokenizer_hash(tokenizer) != tokenizer_hash(folder.tokenizer):
            raise UsageError(
                f"--init {request.init.title}: {folder.path} has another tokenizer; prepare the "
                "data with the same --init"
            )
    held, kept = folder.held(selects)
    train, read = folder.train(task), folder.about["read"]
    note(f"{folder.path}: prepared; {_about_parts(train, held)}")
    description = Description((), read) if read else None
    source = Source((str(folder.path),))
    return Data(task, source, train, held, tokenizer, spec, description, folder, kept)


def _about_parts(train: Items, held: Mapping[str, Items]) -> str:
    about = "; ".join(f"{name} {part.about}" for name, part in held.items())
    return f"training on {train.about}; held out: {about.removeprefix('valid ')}"


def _check_encoder(request: Request, task: Task) -> None:
    """ConfigError for a model with an encoder if the task has nothing to read there."""
    encoder = architecture(request.arch).model.get("encoder_layers", 0)
    if request.sets.get("model", {}).get("encoder_layers", encoder) and not task.pairs:
        raise ConfigError(
            f"--arch {request.arch}: has an encoder, for the source of a pair; the items of --task "
            f"{task.name} have none"
        )


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
    if "imported" in run.config:
        raise DataError(
            f"{run.path}: imported, so it has no training data; train a new run with "
            f"--init {run.path}"
        )
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
    folder = prepared_folder(source.paths)
    if folder is not None:
        items = folder.training_items(task, run.tokenizer(), run.path)
    else:
        items = _read_again(run, task, source)
    if items.fingerprint != data["fingerprint"]:
        raise DataError(
            f"{run.path}: its data ({source.describe()}) has changed since; name the old one with "
            "--data, or start a new run from its weights with --init"
        )
    return items


def _read_again(run: Run, task: Task, source: Source) -> Items:
    """The training items of a run in its data."""
    data, items = run.config["data"], task.items(source)
    if run.config["init"]:
        items = task.conform(items, run.tokenizer(), lambda text: None)
    parts = task.parts(items)
    train = parts.get("train", items)
    if not data["valid"] and "valid" not in parts:
        train = task.split(train, data["holdout"])[0]
    return train
