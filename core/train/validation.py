"""Held-out scores: of some tokens at intervals during training, of all at the end."""

from __future__ import annotations

import math
from typing import Any

from ..protocols import Sequence
from ..runs.run import Run
from ..score.likelihood import evaluate
from ..score.report import report
from ..task import Task
from .average import in_use
from .budget import Plan
from .events import Evaluated
from .state import State

PROGRESS_TOKENS = 16384  # scored at each evaluation while training


class Validation:
    """Scores a training on the held-out items of its run."""

    def __init__(self, run: Run, task: Task, state: State, plan: Plan) -> None:
        self.run, self.task, self.state, self.plan = run, task, state, plan
        self.tokenizer = run.tokenizer()
        valid = run.heldout("valid")
        units = task.units(valid).get(task.unit, 0)
        tokens = sum(int((s.target_weight() > 0).sum()) for s in valid)
        self.bits_per_nat = tokens / max(units, 1) / math.log(2)
        self.progress = _evenly_chosen(list(valid), PROGRESS_TOKENS, state.model.config.context)

    @property
    def selects(self) -> bool:
        """Whether evaluations may select a checkpoint or end the training: only if the final score
        is of other items."""
        return bool(self.run.config["final_split"] != "valid")

    def is_due(self, step: int) -> bool:
        config = self.state.config
        return (
            step % config.eval_every == 0
            and step < config.steps
            or (self.selects and step == config.steps)
        )

    def score(self, step: int) -> Evaluated:
        """Scores some of the held-out tokens, with averaged weights if there are any."""
        with in_use(self.state.optimizers):
            scores = list(evaluate(self.state.model, self.tokenizer, self.progress))
        nats = sum(s.nll for s in scores) / max(1, sum(s.tokens for s in scores))
        bits, best = nats * self.bits_per_nat, False
        if self.selects:
            measured = {f"bits_per_{self.task.unit}": bits, "nats_per_token": nats}
            best = self.state.early_stopping.see(step, nats, measured, self.state.config)
        return Evaluated(step, nats, bits, best)

    def final(self) -> dict[str, Any]:
        """The `report` of the final weights. If the budget is too short for all held-out items, it
        covers a fraction of them, `part`."""
        split = self.run.config["final_split"]
        store = self.run.heldout(split)
        chosen = range(len(store))
        part = self.plan.about.get("final_part", 1.0)
        if part < 1:
            count = max(1, int(part * len(store)))
            chosen = range(0, len(store), -(-len(store) // count))
        with in_use(self.state.optimizers):
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
        if self.selects:
            scores.update(self.state.early_stopping.summary(self.state.config))
        return {**scores, "part": len(chosen) / len(store)} if len(chosen) < len(store) else scores


def _evenly_chosen(sequences: list[Sequence], tokens: int, context: int) -> list[Sequence]:
    """Items of about `tokens` ids in all, evenly spread. An item longer than the context counts as
    windows, each scored as an item."""
    pieces = [
        (s, start)
        for s in sequences
        for start in (range(0, max(1, len(s) - 1), context) if len(s) > context + 1 else (0,))
    ]
    count = max(1, min(len(pieces), tokens // context))
    some = []
    for s, start in pieces[:: -(-len(pieces) // count)]:
        cut = slice(start, start + context + 1)
        weight = None if s.weight is None else s.weight[cut]
        some.append(Sequence(s.ids[cut], max(1, s.given - start), weight, s.side))
    return some
