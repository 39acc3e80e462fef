"""Scores on held-out items: a sample of the validation split during training, then the final
split."""

from __future__ import annotations

import math
from typing import Any

from ..protocols import Sequence
from ..runs.run import Run
from ..score.likelihood import evaluate
from ..score.report import report
from ..task import Task
from .average import averaged_weights
from .budget import Plan
from .events import Evaluated
from .state import State

VALIDATION_TOKENS = 16384  # scored by each evaluation during training, about


class Validation:
    """Scores the model in training on the held-out items of its run."""

    def __init__(self, run: Run, task: Task, state: State, plan: Plan) -> None:
        self.run, self.task, self.state, self.plan = run, task, state, plan
        self.tokenizer = run.tokenizer()
        valid = run.heldout("valid")
        units = task.units(valid).get(task.unit, 0)
        tokens = sum(int((s.target_weight() > 0).sum()) for s in valid)
        self.bits_per_nat = tokens / max(units, 1) / math.log(2)
        self.sample = _sample_items(list(valid), VALIDATION_TOKENS, state.model.config.context)

    @property
    def selects_checkpoint(self) -> bool:
        """Whether scores on "valid" select the best checkpoint: only if the final score is
        measured on other items."""
        return bool(self.run.config["final_split"] != "valid")

    def is_due(self, step: int) -> bool:
        config = self.state.config
        return (
            step % config.eval_every == 0
            and step < config.steps
            or (self.selects_checkpoint and step == config.steps)
        )

    def score(self, step: int) -> Evaluated:
        """Scores a sample of the validation split and updates early stopping."""
        with averaged_weights(self.state.optimizers):
            scores = list(evaluate(self.state.model, self.tokenizer, self.sample))
        nats = sum(s.nll for s in scores) / max(1, sum(s.tokens for s in scores))
        bits, best = nats * self.bits_per_nat, False
        if self.selects_checkpoint:
            measured = {f"bits_per_{self.task.unit}": bits, "nats_per_token": nats}
            best = self.state.early_stopping.update(step, nats, measured, self.state.config)
        return Evaluated(step, nats, bits, best)

    def final(self) -> dict[str, Any]:
        """Scores the last weights on the final split. Where the budget is too short for all items,
        scores evenly spaced ones, and `part` is their fraction."""
        split = self.run.config["final_split"]
        store = self.run.heldout(split)
        chosen = range(len(store))
        part = self.plan.estimates.get("final_part", 1.0)
        if part < 1:
            count = max(1, int(part * len(store)))
            chosen = range(0, len(store), -(-len(store) // count))
        with averaged_weights(self.state.optimizers):
            scores = report(
                self.task,
                self.tokenizer,
                self.state.model,
                store if len(chosen) == len(store) else [store[i] for i in chosen],
                floor=self.run.config["floor"],
                run=str(self.run.path),
                step=self.state.step,
                split=split,
            )
        if self.selects_checkpoint:
            scores.update(self.state.early_stopping.summary(self.state.config))
        return {**scores, "part": len(chosen) / len(store)} if len(chosen) < len(store) else scores


def _sample_items(sequences: list[Sequence], tokens: int, context: int) -> list[Sequence]:
    """Evenly spaced items of about `tokens` ids in all. Items longer than the context are cut into
    windows first."""
    pieces = [
        (s, start)
        for s in sequences
        for start in (range(0, max(1, len(s) - 1), context) if len(s) > context + 1 else (0,))
    ]
    count = max(1, min(len(pieces), tokens // context))
    sample = []
    for s, start in pieces[:: -(-len(pieces) // count)]:
        cut = slice(start, start + context + 1)
        weight = None if s.weight is None else s.weight[cut]
        sample.append(Sequence(s.ids[cut], max(1, s.given - start), weight, s.side))
    return sample
