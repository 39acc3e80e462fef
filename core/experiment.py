"""From what was asked to a run that can train: data, tokenizer, plan, model.

No step of it prints: `note` receives sentences for people.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from . import kernels
from .checkpoints import Checkpoint
from .choice import Choice, check_until
from .config import ModelConfig, TrainConfig, from_json, with_fields
from .device import pick_device, use_threads
from .errors import ConfigError, DamagedError, DataError, UsageError
from .hashing import key
from .model import SequenceModel
from .optim import Optimizer, make_optimizers
from .plan import Planned
from .plugins import find, guess_task, name_of
from .protocols import Dataset, Follows, Halves, Items, Sequence, Task, Tokenizer
from .run import Run
from .source import Source
from .weights import load_optimizers, load_weights

Note = Callable[[str], None]
Paths = tuple[str, ...]
EVALUATIONS = 8  # in a run, about, where train.eval_every says nothing
DEFAULT_BUDGET = 120.0  # seconds, where nothing says how long


@dataclass(frozen=True)
class Request:
    """What the flags of `train` say."""

    task: str | None = None
    task_options: Mapping[str, object] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    column: str | None = None
    valid: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    holdout: float | None = None
    tokenizer: str | None = None
    arch: str = "transformer"
    size: str | None = None
    context: int | None = None
    budget: float | None = None
    steps: int | None = None
    tokens: int | None = None
    seed: int = 0
    device: str = "auto"
    init: Run | None = None
    sets: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass
class Prepared:
    """Data and tokenizer, before anything is planned."""

    task: Task
    source: Source
    train: Items
    held: dict[str, Items]  # valid, test where one was named, report where valid chooses
    tokenizer: Tokenizer
    tokenizer_spec: str
    heldout: dict[str, list[Sequence]]
    floor: dict[str, float]
    final_split: str


# -- data ----------------------------------------------------------------------------------------


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task with its options, as typed. ConfigError for one it does not have."""
    kind = find("tasks", name)
    task: Task = kind(with_fields(kind.Options(), "task", options))
    for f, value in asdict(task.options).items():  # type: ignore[attr-defined]
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
    if isinstance(task, Follows):
        if request.valid:
            held["valid"] = task.follow(train, held["valid"])
        if request.test:
            held["test"] = task.follow(train, held["test"], held["valid"])
    if (chooses.patience or chooses.until) and "test" not in held:
        if not isinstance(task, Halves):
            raise UsageError(f"--patience, --until: the {name} task needs --test beside them")
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
        ends = tuple(f"_{name}" for name in getattr(task, "headline", ()))
        first = {name: value for name, value in floor.items() if not ends or name.endswith(ends)}
        values = ", ".join(f"{name} {value:.4g}" for name, value in first.items())
        unit = getattr(task, "floor_unit", f"bits per {task.unit}")
        note(f"to beat{', in ' if unit else ''}{unit}: {values}")
    return Prepared(task, source, train, held, tokenizer, spec, heldout, floor, final)


# -- from plan to run ----------------------------------------------------------------------------


def describe_config(
    request: Request, prepared: Prepared, planned: Planned, argv: list[str], origins: dict[str, str]
) -> dict[str, Any]:
    """config.json: everything resolved, where it comes from, and what it was made with."""
    from importlib.metadata import version

    import numpy

    return {
        "tfm": version("tfm"),
        "task": prepared.task.name,
        "task_options": asdict(prepared.task.options),  # type: ignore[attr-defined]
        "arch": request.arch,
        "size": planned.size,
        "model": asdict(planned.model),
        "train": asdict(planned.train),
        "plan": planned.about,
        "data": {
            "paths": [p if p == "-" or p.startswith("hf:") else str(Path(p).absolute())
                      for p in request.data],
            "default": not request.data,
            "about": prepared.source.describe(),
            "column": request.column,
            "valid": list(request.valid),
            "test": list(request.test),
            "holdout": request.holdout,
            "fingerprint": prepared.train.fingerprint,
            "tokens": planned.tokens,
        },
        "tokenizer": {
            "spec": prepared.tokenizer_spec,
            "kind": name_of("tokenizers", type(prepared.tokenizer)),
        },
        "final_split": prepared.final_split,
        "floor": prepared.floor,
        "init": str(request.init.path.absolute()) if request.init else None,
        "device": planned.device.type,
        "origins": origins,
        "argv": argv,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": numpy.__version__, "kernels": kernels.version(),
                     "platform": sys.platform},
    }  # fmt: skip


@dataclass
class State:
    """All that a step depends on."""

    model: SequenceModel
    optimizers: list[Optimizer]
    config: TrainConfig
    step: int = 0
    skipped: int = 0
    choice: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        every = self.config.eval_every or max(1, self.config.steps // EVALUATIONS)
        self.config = replace(self.config, eval_every=every)

    def goes_on(self) -> bool:
        return self.step < self.config.steps and not self.choice.is_over(self.config)

    def plan_anew(self, steps: int) -> None:
        """So many steps in all; a run that was at its end goes on."""
        if self.choice.is_over(self.config):
            self.choice = replace(self.choice, waited=0, reached=False)
        self.config = replace(self.config, steps=steps)

    def saved(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the tensors."""
        return {
            "train": asdict(self.config), "skipped": self.skipped, "choice": asdict(self.choice)
        }  # fmt: skip


def fresh_state(planned: Planned, init: Run | None) -> State:
    """Weights drawn from the seed, or those of another run."""
    torch.manual_seed(key(planned.train.seed, "weights"))
    model = SequenceModel(planned.model)
    if init is not None:
        checkpoint = init.checkpoint()
        init.check_checkpoint(checkpoint)
        if replace(init.model_config(), dropout=0.0) != replace(planned.model, dropout=0.0):
            raise UsageError(
                f"--init {init.path}: its model has another shape than these flags ask for; "
                "leave --arch, --size, --context and --set model.* to it"
            )
        load_weights(model, checkpoint.path / "model.safetensors")
    model = model.to(planned.device)
    return State(model, make_optimizers(model, planned.train), planned.train)


def resume(
    run: Run, note: Note, device: str, cache: Path, moved: Paths = ()
) -> tuple[Task, Planned, State]:
    """A run taken up where its newest sound checkpoint left it.

    Data is read again from where it was, or from where it `moved`; DataError where it has changed.
    """
    run.check()
    config = run.config
    task, tokenizer = run.task(), run.tokenizer()
    model_shape, train_config = run.model_config(), run.train_config()
    use_threads(train_config.threads)
    where = pick_device(device)
    data = _reopened(run, task, tokenizer, train_config, cache, moved)
    planned = Planned(
        model_shape, train_config, config["size"], config["data"]["tokens"], data, where,
        config["plan"],
    )  # fmt: skip
    for checkpoint in reversed(run.checkpoints()):
        try:
            return task, planned, _restored(run, checkpoint, model_shape, where)
        except DamagedError as error:
            note(f"{error}; going back to the checkpoint before")
    if run.checkpoints():
        raise DamagedError(f"{run.path}: no sound checkpoint is left")
    return (
        task,
        planned,
        fresh_state(planned, Run(Path(config["init"])) if config["init"] else None),
    )


def _restored(
    run: Run, checkpoint: Checkpoint, model_shape: ModelConfig, device: torch.device
) -> State:
    run.check_checkpoint(checkpoint)
    model = SequenceModel(model_shape)
    load_weights(model, checkpoint.path / "model.safetensors")
    model = model.to(device)
    try:
        saved = json.loads((checkpoint.path / "state.json").read_bytes())
        config = from_json(TrainConfig, saved["train"], str(checkpoint.path))
        step, skipped = int(saved["step"]), int(saved["skipped"])
        choice = Choice(**saved.get("choice", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{checkpoint.path / 'state.json'}: no state ({error})") from error
    plans = [e for e in run.log() if e.get("event") == "replan" and e["step"] <= step]
    optimizers = make_optimizers(model, config)
    load_optimizers(optimizers, checkpoint.path / "optimizer.safetensors")
    state = State(model, optimizers, config, step, skipped, choice)
    if plans and plans[-1]["step"] == step:  # it may have come after the checkpoint
        state.plan_anew(plans[-1]["steps"])
    return state


def training_items(run: Run, task: Task, moved: Paths = ()) -> Items:
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


def _reopened(
    run: Run, task: Task, tokenizer: Tokenizer, config: TrainConfig, cache: Path, moved: Paths
) -> Dataset:
    train = training_items(run, task, moved)
    context, tokens = run.model_config().context, run.config["data"]["tokens"]
    return task.dataset(train, tokenizer, context, tokens, config.seed, cache)
