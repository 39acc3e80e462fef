"""The state of a training: initialised, saved to a checkpoint, restored from one."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from ..config import ModelConfig, TrainConfig, from_json
from ..data.keyed_random import key
from ..errors import ConfigError, DamagedError, UsageError
from ..model.sequence_model import SequenceModel
from ..ops.device import pick_device, use_threads
from ..runs.catalogue import open_run
from ..runs.checkpoints import Checkpoint
from ..runs.run import Run
from ..runs.tensors import load_weights, read_tensors
from ..task import Task
from .average import in_use
from .budget import Plan
from .early_stopping import EarlyStopping
from .optim import load_state_tensors, make_optimizers, state_tensors
from .optimizer import Optimizer
from .prepare import training_data, training_items
from .request import Note

Paths = tuple[str, ...]
EVALUATIONS = 8  # in a run, roughly, if train.eval_every is 0


@dataclass
class State:
    """Everything that the next step depends on."""

    model: SequenceModel
    optimizers: list[Optimizer]
    config: TrainConfig
    step: int = 0
    skipped: int = 0
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    def __post_init__(self) -> None:
        every = self.config.eval_every or max(1, self.config.steps // EVALUATIONS)
        self.config = replace(self.config, eval_every=every)

    def is_unfinished(self) -> bool:
        return self.step < self.config.steps and not self.early_stopping.is_over(self.config)

    def replan(self, steps: int, patience: int | None = None) -> None:
        """Sets the number of steps in all, and the patience of early stopping unless None; a run
        that had ended continues."""
        if self.early_stopping.is_over(self.config):
            self.early_stopping = replace(self.early_stopping, waited=0, reached=False)
        self.config = replace(self.config, steps=steps)
        if patience is not None:
            self.config = replace(self.config, patience=patience)

    def save(self, run: Run) -> Checkpoint:
        """Writes a checkpoint of this step, see `checkpoints.save`."""
        with in_use(self.optimizers):
            weights = {name: p.detach() for name, p in self.model.named_parameters()}
        about = {
            "train": asdict(self.config),
            "skipped": self.skipped,
            "early_stopping": asdict(self.early_stopping),
        }
        return run.save(self.step, weights, state_tensors(self.model, self.optimizers), about)


def fresh_state(plan: Plan, init: Run | None, first_id: int = 0) -> State:
    """Weights initialised from the seed, or those of another run, whose ids begin at `first_id`.
    UsageError if its model has another shape."""
    torch.manual_seed(key(plan.train.seed, "weights"))
    model = SequenceModel(plan.model)
    if init is not None:
        known, wanted = replace(init.model_config(), dropout=0.0), plan.model
        last_id = first_id + known.vocab_size
        if known.positions != "learned":  # items, such as windows, can have another length
            known = replace(known, context=wanted.context)
        if wanted.vocab_size > last_id or first_id:  # of several domains
            names = ("vocab_size", "axes", "features", "ordered")
            known = replace(known, **{name: getattr(wanted, name) for name in names})
        if known.context != wanted.context and known.positions == "learned":
            raise UsageError(
                f"--init {init.path}: it has learned the positions of {known.context} tokens, and "
                f"these items need {wanted.context}; start from a run with rotary positions"
            )
        if known != replace(wanted, dropout=0.0):
            raise UsageError(
                f"--init {init.path}: its model has another shape than these flags ask for; "
                "leave --arch, --size, --context and --set model.* to it"
            )
        weights = init.load_model().state_dict()
        for name in ("embedding.weight", "head.weight"):
            rows = model.get_parameter(name).detach().clone()
            rows[first_id:last_id] = weights[name]
            weights[name] = rows
        model.load_state_dict(weights)
    model = model.to(plan.device)
    return State(model, make_optimizers(model, plan.train), plan.train)


def resume(
    run: Run, note: Note, device: str, cache: Path, moved: Paths = ()
) -> tuple[Task, Plan, State]:
    """A run at its newest undamaged checkpoint, or at its beginning if it has none.

    Its data is read again, from the files `moved` if there are any. DataError if the data has
    changed, DamagedError if no checkpoint is usable.
    """
    run.check()
    config = run.config
    task, tokenizer = run.task(), run.tokenizer()
    model_shape, train_config = run.model_config(), run.train_config()
    use_threads(train_config.threads)
    where = pick_device(device)
    data = training_data(
        task,
        training_items(run, task, moved),
        tokenizer,
        model_shape,
        config["data"]["tokens"],
        train_config.seed,
        cache,
    )
    plan = Plan(
        model_shape,
        train_config,
        config["size"],
        config["data"]["tokens"],
        data,
        where,
        config["plan"],
    )
    for checkpoint in reversed(run.checkpoints()):
        try:
            return task, plan, _restored(run, checkpoint, model_shape, where)
        except DamagedError as error:
            note(f"{error}; going back to the checkpoint before")
    if run.checkpoints():
        raise DamagedError(f"{run.path}: no sound checkpoint is left")
    if not config["init"]:
        return task, plan, fresh_state(plan, None)
    init = open_run(config["init"], Path(), whole=True)
    if init.config["task"] != task.name:
        task.start_from(init.config["task"], init.tokenizer())
    return task, plan, fresh_state(plan, init, task.first_id(tokenizer))


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
        early_stopping = EarlyStopping(**saved.get("early_stopping", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{checkpoint.path / 'state.json'}: no state ({error})") from error
    plans = [e for e in run.log() if e.get("event") == "replan" and e["step"] <= step]
    optimizers = make_optimizers(model, config)
    path = checkpoint.path / "optimizer.safetensors"
    try:
        load_state_tensors(model, optimizers, read_tensors(path))
    except ConfigError as error:
        raise ConfigError(f"{run.path}: {error}") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not the optimiser of this run ({error})") from error
    state = State(model, optimizers, config, step, skipped, early_stopping)
    if plans and plans[-1]["step"] == step:  # logged after the checkpoint was saved
        state.replan(plans[-1]["steps"], plans[-1].get("patience"))
    return state
