"""From what was asked to a run that can train: data, tokenizer, plan, model.

No step of it prints: `note` receives sentences for people.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from . import plan as planning
from .config import ModelConfig, TrainConfig, from_json, model_config, parse_value, with_fields
from .device import default_dtype, keep_freed_memory, pick_device, use_threads
from .errors import ConfigError, DamagedError, DataError, UsageError
from .hashing import key
from .model import SequenceModel
from .optim import make_optimizers
from .plugins import find, guess_task
from .protocols import Dataset, Items, Sequence, Task, Tokenizer
from .run import Run, check_files, load_optimizers, load_weights
from .source import Source

Note = Callable[[str], None]
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
    held: dict[str, Items]  # valid, and test where one was named
    tokenizer: Tokenizer
    tokenizer_spec: str
    heldout: dict[str, list[Sequence]]
    floor: dict[str, float]

    @property
    def final_split(self) -> str:
        return "test" if "test" in self.held else "valid"


# -- data ----------------------------------------------------------------------------------------


def make_task(name: str, options: Mapping[str, object]) -> Task:
    """A task with its options, as typed. ConfigError for one it does not have."""
    kind = find("tasks", name)
    task: Task = kind(with_fields(kind.Options(), "task", options))
    for f, value in asdict(task.options).items():  # type: ignore[attr-defined]
        choices = kind.Options.__dataclass_fields__[f].metadata.get("choices")
        if choices and value not in choices:
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
        note(f"training on {train.about}; held out: {held['valid'].about}")

    if request.init is not None:
        spec, tokenizer = request.init.config["tokenizer"]["spec"], request.init.tokenizer()
    else:
        spec = request.tokenizer or task.default_tokenizer
        tokenizer = task.fit_tokenizer(spec, train)
    heldout = {split: list(task.sequences(part, tokenizer)) for split, part in held.items()}
    floor = task.floor(train, held["test" if "test" in held else "valid"])
    if floor:
        values = ", ".join(f"{name} {value:.3f}" for name, value in floor.items())
        note(f"to beat, in bits per {task.unit}: {values}")
    return Prepared(task, source, train, held, tokenizer, spec, heldout, floor)


# -- plan ----------------------------------------------------------------------------------------


@dataclass
class Planned:
    model: ModelConfig
    train: TrainConfig
    size: str
    tokens: int | None  # ids of training data that are prepared, none for all there are
    data: Dataset
    device: torch.device
    about: dict[str, Any]  # the plan, for the run's config


def make_plan(
    request: Request, prepared: Prepared, left: Callable[[], float] | None, cache: Path, note: Note
) -> Planned:
    """Size, shape and steps. `left()`: seconds until the budget's end, none where steps or tokens
    were asked for; only then is anything measured."""
    device = pick_device(request.device)
    keep_freed_memory()
    use_threads(int(_wanted(request, "train", "threads", 0)))
    longest = prepared.task.longest(prepared.train, prepared.tokenizer)

    def configs(size: str, steps: int = 1) -> tuple[ModelConfig, TrainConfig]:
        return make_configs(request, prepared.tokenizer, size, longest, device, steps)

    def dataset(model: ModelConfig, tokens: int | None) -> Dataset:
        return prepared.task.dataset(
            prepared.train, prepared.tokenizer, model.context, tokens, request.seed, cache
        )

    size = request.size or "tiny"
    if left is None:
        model, train = configs(size)
        tokens = request.tokens or 0
        steps = request.steps or planning.steps_for(tokens, train, model.context)
        train = replace(train, steps=steps)
        wanted = train.steps * train.batch * train.accumulate * model.context
        data = dataset(model, wanted)
        model = fit_context(model, data, note)
        return Planned(model, train, size, wanted, data, device, {})

    began = time.perf_counter()
    model, train = configs(size)
    sample = 64 * train.batch * model.context
    data = dataset(model, sample)
    encoding = (time.perf_counter() - began) / sample  # seconds a token, at most
    model = fit_context(model, data, note)
    budget = left()
    speed = planning.measure(model, train, data, device, min(5.0, 0.04 * budget))
    if request.size is None and request.init is None:
        size = planning.choose_size(size, speed, left(), lambda s: configs(s)[0])
        if size != "tiny":
            model, train = configs(size)
            data = dataset(model, sample)
            model = fit_context(model, data, note)
            speed = planning.measure(model, train, data, device, min(10.0, 0.04 * budget))
    held = sum(len(s) for s in prepared.heldout[prepared.final_split])
    scoring = min(held / speed.eval_tokens_per_second, planning.EVALUATION_SHARE * budget)
    per_step = train.batch * train.accumulate * model.context
    reserve = 1.3 * scoring + planning.TEARDOWN
    seconds = left() - reserve
    steps = max(1, int(seconds / (speed.step_seconds + encoding * per_step)))
    if prepared.train.size <= 4 * sample:  # all of it is prepared anyhow
        steps = max(1, int(seconds / speed.step_seconds))
    wanted = steps * per_step
    data = dataset(model, wanted)
    train = replace(train, steps=max(1, min(steps, int((left() - reserve) / speed.step_seconds))))
    about = {
        "budget_seconds": request.budget,
        "step_seconds": speed.step_seconds,
        "eval_tokens_per_second": speed.eval_tokens_per_second,
        "reserve_seconds": reserve,
        "final_tokens": None if held <= 1.05 * scoring * speed.eval_tokens_per_second
        else int(scoring * speed.eval_tokens_per_second),
    }  # fmt: skip
    return Planned(model, train, size, wanted, data, device, about)


def _wanted(request: Request, section: str, name: str, default: object) -> Any:
    value = request.sets.get(section, {}).get(name, default)
    return parse_value(value, type(default), f"{section}.{name}")


def make_configs(
    request: Request,
    tokenizer: Tokenizer,
    size: str,
    longest: int | None,
    device: torch.device,
    steps: int,
) -> tuple[ModelConfig, TrainConfig]:
    """Both configs for a size, the fields of `--set` over the table's."""  # fmt: skip
    sets = dict(request.sets.get("model", {}))
    for name, flag in (("vocab_size", "--tokenizer"), ("axes", "--tokenizer")):
        if name in sets:
            raise ConfigError(f"--set model.{name}: follows from {flag}")
    context = request.context
    if "context" in sets:
        context = parse_value(sets.pop("context"), int, "model.context")
    if request.init is not None:
        model = request.init.model_config()
        context, rows = planning.shape(size, None, model.context)
    else:
        context, rows = planning.shape(size, longest, context)
        model = model_config(
            request.arch, size,
            vocab_size=tokenizer.vocab_size, axes=tokenizer.axes, context=context,
        )  # fmt: skip
    model = with_fields(model, "model", sets)
    train = TrainConfig(
        steps=steps, batch=rows, seed=request.seed, dtype=default_dtype(device, model.width),
        threads=torch.get_num_threads(),
    )  # fmt: skip
    train = with_fields(train, "train", request.sets.get("train", {}))
    return model, replace(train, threads=torch.get_num_threads())


def fit_context(model: ModelConfig, data: Dataset, note: Note) -> ModelConfig:
    """A shorter context where the training data is shorter than a window."""
    context = getattr(data, "context", model.context)
    if context < model.context:
        note(f"the data is short: context {context} rather than {model.context}")
        return replace(model, context=context)
    return model


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
            "kind": type(prepared.tokenizer).__module__.rpartition(".")[2],
        },
        "final_split": prepared.final_split,
        "floor": prepared.floor,
        "init": str(request.init.path.absolute()) if request.init else None,
        "device": planned.device.type,
        "origins": origins,
        "argv": argv,
        "versions": {"python": platform.python_version(), "torch": torch.__version__,
                     "numpy": numpy.__version__, "platform": sys.platform},
    }  # fmt: skip


@dataclass
class State:
    """All that a step depends on."""

    model: SequenceModel
    optimizers: list[torch.optim.Optimizer]
    config: TrainConfig
    step: int = 0
    skipped: int = 0


def fresh_state(planned: Planned, init: Run | None) -> State:
    """Weights drawn from the seed, or those of another run."""
    torch.manual_seed(key(planned.train.seed, "weights"))
    model = SequenceModel(planned.model)
    if init is not None:
        checkpoint = init.checkpoint()
        check_files(checkpoint.path)
        if replace(init.model_config(), dropout=0.0) != replace(planned.model, dropout=0.0):
            raise UsageError(
                f"--init {init.path}: its model has another shape than these flags ask for; "
                "leave --arch, --size, --context and --set model.* to it"
            )
        load_weights(model, checkpoint.path / "model.safetensors")
    model = model.to(planned.device)
    return State(model, make_optimizers(model, planned.train), planned.train)


def resume(run: Run, note: Note, device: str, cache: Path) -> tuple[Task, Planned, State]:
    """A run taken up where its newest sound checkpoint left it.

    Data is read again from where it was, or from `data`; DataError where it has changed.
    """
    run.check()
    config = run.config
    task, tokenizer = run.task(), run.tokenizer()
    model_shape, train_config = run.model_config(), run.train_config()
    use_threads(train_config.threads)
    keep_freed_memory()
    where = pick_device(device)
    data = _reopened(run, task, tokenizer, model_shape.context, train_config.seed, cache)
    planned = Planned(
        model_shape, train_config, config["size"], config["data"]["tokens"], data, where,
        config["plan"],
    )  # fmt: skip
    init = None
    if config["init"]:
        init = Run(Path(config["init"]))
    for checkpoint in reversed(run.checkpoints()):
        try:
            check_files(checkpoint.path)
            model = SequenceModel(model_shape)
            load_weights(model, checkpoint.path / "model.safetensors")
            model = model.to(where)
            import json

            saved = json.loads((checkpoint.path / "state.json").read_bytes())
            train_config = from_json(TrainConfig, saved["train"], str(checkpoint.path))
            optimizers = make_optimizers(model, train_config)
            load_optimizers(optimizers, checkpoint.path / "optimizer.safetensors")
        except DamagedError as error:
            note(f"{error}; going back to the checkpoint before")
            continue
        return (
            task,
            planned,
            State(model, optimizers, train_config, saved["step"], saved["skipped"]),
        )
    if run.checkpoints():
        raise DamagedError(f"{run.path}: no sound checkpoint is left")
    return task, planned, fresh_state(planned, init)


def _reopened(
    run: Run, task: Task, tokenizer: Tokenizer, context: int, seed: int, cache: Path
) -> Dataset:
    data = run.config["data"]
    if "-" in data["paths"]:
        raise DataError(f"{run.path}: was trained on standard input, which is gone; use --init")
    source = task.default_source() if data["default"] else Source(
        tuple(data["paths"]), data["column"]
    )  # fmt: skip
    items = task.items(source)
    train = items if data["valid"] else task.split(items, data["holdout"])[0]
    if train.fingerprint != data["fingerprint"]:
        raise DataError(
            f"{run.path}: its data ({source.describe()}) has changed since; "
            "train anew with --init to go on from its weights"
        )
    return task.dataset(train, tokenizer, context, data["tokens"], seed, cache)
