"""The state of a training: initialised, saved to a checkpoint, restored from one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import TrainConfig, from_json
from ..data.keyed_random import key
from ..errors import ConfigError, DamagedError, UsageError
from ..exchange.imported import open_start
from ..model.lora import adapt, merged
from ..model.sequence_model import SequenceModel, with_weights
from ..ops.device import pick_device, use_threads
from ..runs.checkpoints import MODEL, OPTIMIZER, WHOLE, Checkpoint, Part
from ..runs.run import Run
from ..runs.tensors import load_weights, open_tensors
from ..task import Task
from .average import in_use
from .budget import EVALUATIONS, Plan
from .early_stopping import EarlyStopping
from .optim import load_state_tensors, make_optimizers, parameter_of, state_tensors
from .optimizer import Optimizer
from .peers import ALONE, Peers
from .prepare import training_data, training_items
from .request import Note

Paths = tuple[str, ...]


@dataclass
class State:
    """Everything that the next step depends on."""

    model: SequenceModel
    optimizers: list[Optimizer]
    config: TrainConfig
    step: int = 0
    skipped: int = 0
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    peers: Peers = ALONE

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

    def save(self, run: Run) -> None:
        """Writes a checkpoint of this step, see `checkpoints.save`. All processes must call this:
        where weights are sharded, each writes its rows, else the leading one writes all."""
        peers, part = self.peers, WHOLE
        if not (peers.leads or peers.shards):
            return
        weights, first_rows = {}, {}
        with in_use(self.optimizers):
            for name, p in self._trained():
                weight = peers.local(p.detach())
                # outside `in_use` the memory of a shard has other values again
                weights[name] = weight.clone() if peers.shards else weight
                first_rows[name] = peers.rows_of(p).start
        optimizer = state_tensors(self.model, self.optimizers)
        if peers.shards:
            first_rows |= {key: first_rows[parameter_of(key)] for key in optimizer}
            part = Part(peers.rank, peers.size, first_rows, peers.share)
        run.save(self.step, weights, optimizer, self.about(), part)

    def about(self) -> dict[str, Any]:
        """What of the state is not a tensor, as JSON has it."""
        return {
            "train": asdict(self.config),
            "skipped": self.skipped,
            "early_stopping": asdict(self.early_stopping),
        }

    def _trained(self) -> list[tuple[str, Tensor]]:
        return [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]

    def _whole_weights(self) -> dict[str, Tensor]:
        """The weights to score and sample with, by name; in other processes than the leading one
        none."""
        found = {}
        with in_use(self.optimizers):
            for name, p in self._trained():
                weight = self.peers.whole(p, self.peers.local(p.detach()))
                if self.peers.leads:
                    found[name] = weight
        return found

    @contextmanager
    def in_whole(self) -> Iterator[SequenceModel]:
        """Inside, a model with the weights to score and sample with, and without adapters. All
        processes must enter; where weights are sharded, only the leading one's model has values."""
        if self.peers.shards:
            yield with_weights(self.model.config, self._whole_weights())
        else:
            with in_use(self.optimizers):
                yield merged(self.model)

    def frozen(self) -> dict[str, Tensor]:
        """The weights that training leaves as they are, by name."""
        return {n: p.detach() for n, p in self.model.named_parameters() if not p.requires_grad}


def fresh_state(plan: Plan, init: Run | None, first_id: int = 0, peers: Peers = ALONE) -> State:
    """Weights initialised from the seed, or those of another run, whose ids begin at `first_id`;
    with adapters, if `train.lora`. UsageError if its model has another shape, or ids would be new
    that only weights could learn."""
    torch.manual_seed(key(plan.train.seed, "weights"))
    model = SequenceModel(plan.model)
    if init is not None:
        known, wanted = replace(init.model_config(), dropout=0.0), plan.model
        known_ids = known.vocab_size
        last_id = first_id + known_ids
        if known.positions != "learned":  # items, such as windows, can have another length
            known = replace(known, context=wanted.context)
        if wanted.vocab_size > last_id or first_id:  # of several domains
            names = ("vocab_size", "axes", "features", "ordered")
            known = replace(known, **{name: getattr(wanted, name) for name in names})
        if known.context != wanted.context and known.positions == "learned":
            raise UsageError(
                f"--init {init.title}: it has learned the positions of {known.context} tokens, and "
                f"these items need {wanted.context}; start from a run with rotary positions"
            )
        if known != replace(wanted, dropout=0.0):
            raise UsageError(
                f"--init {init.title}: its model has another shape than these flags ask for; "
                "leave --arch, --size, --context and --set model.* to it"
            )
        if plan.train.lora and wanted.vocab_size != known_ids:
            raise UsageError(
                f"--lora {plan.train.lora}: adapters cannot learn the {wanted.vocab_size:,} ids of "
                f"this data, of which --init {init.title} knows {known_ids:,}; leave --lora out"
            )
        weights = init.load_model().state_dict()
        for name in ("embedding.weight", "head.weight"):
            rows = model.get_parameter(name).detach().clone()
            rows[first_id:last_id] = weights[name]
            weights[name] = rows
        model.load_state_dict(weights)
    adapt(model, plan.train.lora, key(plan.train.seed, "adapters"))
    return _placed(model, plan.device, plan.train, peers)


def _placed(model: SequenceModel, device: torch.device, config: TrainConfig, peers: Peers) -> State:
    """The first step's state of a model, of which every process has all values."""
    if config.lora and peers.shards:
        raise UsageError(f"--shard and --lora {config.lora} exclude each other: use --nproc alone")
    peers.place(model, device, config.dtype)
    return State(model, make_optimizers(model, config, peers), config, peers=peers)


def resume(
    run: Run,
    note: Note,
    device: str,
    cache: Path,
    moved: Paths = (),
    peers: Peers = ALONE,
    checked: int | None = None,
) -> tuple[Task, Plan, State]:
    """A run at its newest undamaged checkpoint, or at its beginning if it has none.

    Its data is read again, from the files `moved` if there are any. checked: the step at which the
    leading process of several has resumed: that checkpoint is taken, and not checked once more.
    DataError if the data has changed, DamagedError if no checkpoint is usable.
    """
    run.check()
    config = run.config
    task, tokenizer = run.task(), run.tokenizer()
    model_shape, train_config = run.model_config(), run.train_config()
    alike = run.config.get("processes", 1) == peers.size  # else results differ anyway
    use_threads(train_config.threads if alike else 0)
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
    for checkpoint in reversed([c for c in run.checkpoints() if checked in (None, c.step)]):
        try:
            if checked is None:
                run.check_checkpoint(checkpoint)
            return task, plan, _restored(run, checkpoint, where, peers)
        except DamagedError as error:
            note(f"{error}; going back to the checkpoint before")
    if run.checkpoints():
        raise DamagedError(f"{run.path}: no sound checkpoint is left")
    if train_config.lora:
        return task, plan, _placed(run.initial_model(), where, train_config, peers)
    if not config["init"]:
        return task, plan, fresh_state(plan, None, peers=peers)
    init = open_start(config["init"], Path(), model_shape.context)
    if init.config["task"] != task.name:
        task.start_from(init.config["task"], init.tokenizer())
    return task, plan, fresh_state(plan, init, task.first_id(tokenizer), peers)


def _restored(run: Run, checkpoint: Checkpoint, device: torch.device, peers: Peers) -> State:
    """The state that a checkpoint has, of which each process reads its part."""
    try:
        saved = json.loads((checkpoint.path / "state.json").read_bytes())
        config = from_json(TrainConfig, saved["train"], str(checkpoint.path))
        step, skipped = int(saved["step"]), int(saved["skipped"])
        early_stopping = EarlyStopping(**saved.get("early_stopping", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{checkpoint.path / 'state.json'}: no state ({error})") from error
    plans = [e for e in run.log() if e.get("event") == "replan" and e["step"] <= step]
    state = _placed(run.initial_model(), device, config, peers)
    state.step, state.skipped, state.early_stopping = step, skipped, early_stopping
    load_weights(state.model, checkpoint.path / MODEL, lambda p: (peers.local(p), peers.rows_of(p)))
    path = checkpoint.path / OPTIMIZER
    try:
        load_state_tensors(state.model, state.optimizers, open_tensors(path))
    except ConfigError as error:
        raise ConfigError(f"{run.path}: {error}") from None
    except ValueError as error:
        raise DamagedError(f"{path}: not the optimiser of this run ({error})") from error
    if plans and plans[-1]["step"] == step:  # logged after the checkpoint was saved
        state.replan(plans[-1]["steps"], plans[-1].get("patience"))
    return state
