"""`State`: everything the next training step depends on; initialised, saved and resumed."""

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
from ..runs.checkpoints import Checkpoint
from ..runs.run import Run
from ..runs.tensors import load_weights, read_tensors
from ..task import Task
from .average import averaged_weights
from .budget import Plan
from .early_stopping import EarlyStopping
from .optim import load_state_tensors, make_optimizers, state_tensors
from .optimizer import Optimizer
from .prepare import training_items
from .request import Note

Paths = tuple[str, ...]
EVALUATIONS_PER_RUN = 8  # on the validation split, about, unless train.eval_every is set


@dataclass
class State:
    """Everything the next training step depends on."""

    model: SequenceModel
    optimizers: list[Optimizer]
    config: TrainConfig
    step: int = 0  # the last step taken
    skipped: int = 0  # steps skipped in a row, up to this one
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    def __post_init__(self) -> None:
        every = self.config.eval_every or max(1, self.config.steps // EVALUATIONS_PER_RUN)
        self.config = replace(self.config, eval_every=every)

    def is_done(self) -> bool:
        return self.step >= self.config.steps or self.early_stopping.should_stop(self.config)

    def set_steps(self, steps: int) -> None:
        """Changes the total number of steps. A run that early stopping had ended continues."""
        if self.early_stopping.should_stop(self.config):
            self.early_stopping = replace(self.early_stopping, waited=0, reached=False)
        self.config = replace(self.config, steps=steps)

    def save(self, run: Run) -> Checkpoint:
        """Writes a checkpoint of this step, see `checkpoints.save`."""
        with averaged_weights(self.optimizers):
            weights = {name: p.detach() for name, p in self.model.named_parameters()}
        about = {
            "train": asdict(self.config),
            "skipped": self.skipped,
            "early_stopping": asdict(self.early_stopping),
        }
        return run.save(self.step, weights, state_tensors(self.model, self.optimizers), about)


def initial_state(planned: Plan, init: Run | None) -> State:
    """Random initial weights from the seed, or the weights of the run `init`."""
    torch.manual_seed(key(planned.train.seed, "weights"))
    model = SequenceModel(planned.model)
    if init is not None:
        checkpoint = init.checkpoint()
        init.check_checkpoint(checkpoint)
        if replace(init.model_config(), dropout=0.0) != replace(planned.model, dropout=0.0):
            raise UsageError(
                f"--init {init.path}: its model has another shape than these flags describe; "
                "leave out --arch, --size, --context and --set model.*"
            )
        load_weights(model, checkpoint.path / "model.safetensors")
    model = model.to(planned.device)
    return State(model, make_optimizers(model, planned.train), planned.train)


def resume(
    run: Run, note: Note, device: str, cache: Path, moved: Paths = ()
) -> tuple[Task, Plan, State]:
    """Resumes a run from its newest undamaged checkpoint.

    The data is read again, from its old paths or from `moved`. DataError if it has changed,
    DamagedError if every checkpoint is damaged.
    """
    run.check()
    config = run.config
    task, tokenizer = run.task(), run.tokenizer()
    model_config, train_config = run.model_config(), run.train_config()
    use_threads(train_config.threads)
    run_device = pick_device(device)
    tokens = config["data"]["tokens"]
    data = task.dataset(
        training_items(run, task, moved),
        tokenizer,
        model_config.context,
        tokens,
        train_config.seed,
        cache,
    )
    plan = Plan(
        model_config, train_config, config["size"], tokens, data, run_device, config["plan"]
    )
    for checkpoint in reversed(run.checkpoints()):
        try:
            return task, plan, _load_checkpoint(run, checkpoint, model_config, run_device)
        except DamagedError as error:
            note(f"{error}; going back to the checkpoint before")
    if run.checkpoints():
        raise DamagedError(f"{run.path}: every checkpoint is damaged")
    init = Run(Path(config["init"])) if config["init"] else None
    return task, plan, initial_state(plan, init)


def _load_checkpoint(
    run: Run, checkpoint: Checkpoint, model_config: ModelConfig, device: torch.device
) -> State:
    run.check_checkpoint(checkpoint)
    model = SequenceModel(model_config)
    load_weights(model, checkpoint.path / "model.safetensors")
    model = model.to(device)
    try:
        saved = json.loads((checkpoint.path / "state.json").read_bytes())
        config = from_json(TrainConfig, saved["train"], str(checkpoint.path))
        step, skipped = int(saved["step"]), int(saved["skipped"])
        early_stopping = EarlyStopping(**saved.get("early_stopping", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{checkpoint.path / 'state.json'}: damaged ({error})") from error
    replans = [e for e in run.log() if e.get("event") == "replan" and e["step"] <= step]
    optimizers = make_optimizers(model, config)
    path = checkpoint.path / "optimizer.safetensors"
    try:
        load_state_tensors(model, optimizers, read_tensors(path))
    except ConfigError as error:
        raise ConfigError(f"{run.path}: {error}") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not an optimiser state of this run ({error})") from error
    state = State(model, optimizers, config, step, skipped, early_stopping)
    if replans and replans[-1]["step"] == step:  # possibly replanned after the checkpoint was saved
        state.set_steps(replans[-1]["steps"])
    return state
