"""Held-out scores: of some tokens at intervals during training, of all at the end."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from ..data.sequence_store import Store
from ..model.sequence_model import SequenceModel
from ..protocols import Sequence
from ..runs.run import Run
from ..score.likelihood import evaluate
from ..score.report import report
from ..task import Task
from .budget import PROGRESS_TOKENS, Plan
from .early_stopping import bound_of
from .events import Evaluated
from .state import State

MIN_FINAL_TOKENS = 2048  # of a final score of a part of the held-out items
MIN_FINAL_ITEMS = 16
MAX_FINAL_EXCESS = 1.2  # times the tokens that there is time for; then long items are cut
MEASURED_TOKENS = 16 * PROGRESS_TOKENS  # the cost of the task's metrics at an evaluation, about
MIN_MEASURED_ITEMS = 16
MIN_PROGRESS_ITEMS = 64  # scored at each evaluation, if they have at most 4 * PROGRESS_TOKENS


class Validation:
    """Scores a training on the held-out items of its run."""

    def __init__(self, run: Run, task: Task, state: State, plan: Plan) -> None:
        self.run, self.task, self.state, self.plan = run, task, state, plan
        self.tokenizer = run.tokenizer()
        chosen = _evenly_chosen(list(run.heldout("valid")), state.model.config.context)
        self.progress = [piece for piece, _ in chosen]
        units = task.units(self._counted(*each) for each in chosen).get(task.unit, 0)
        tokens = sum(int((s.target_weight() > 0).sum()) for s in self.progress)
        bound = bound_of(state.config.until) if state.config.until else None
        known = task.measures(self.tokenizer)
        self.measured = self._few_items() if bound and bound.metric in known else []
        # a code of a codebook has no bits of a unit
        exact = self.tokenizer.lossless and units > 0
        self.bits_per_nat = tokens / units / math.log(2) if exact else None

    def _counted(self, piece: Sequence, is_whole: bool) -> Sequence:
        """A sequence with the units of the predicted ids of a piece."""
        if is_whole:
            return piece
        ids = np.concatenate(([self.tokenizer.begin], piece.ids[piece.given :]))
        return self.task.shortened(replace(piece, ids=ids), len(ids), self.tokenizer)

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
        """Scores some of the held-out tokens, with averaged weights if there are any. Of several
        processes the leading one does, and all take its result."""
        state = self.state
        with state.in_whole() as model:
            nats, error, measured = state.peers.spread(lambda: self._measured(model))
        best = False
        if self.selects:
            best = state.early_stopping.see(step, nats, measured, state.config)
        return Evaluated(step, nats, error, self.bits_per_nat, best)

    def _measured(self, model: SequenceModel) -> tuple[float, float | None, dict[str, float]]:
        """Nats per token, its standard error, and what early stopping looks at."""
        scores = list(evaluate(model, self.tokenizer, self.progress))
        nats, error = mean_and_error([s.nll for s in scores], [s.tokens for s in scores])
        measured = {"nats_per_token": nats}
        if self.selects and self.bits_per_nat is not None:
            measured[f"bits_per_{self.task.unit}"] = nats * self.bits_per_nat
        if self.selects and self.measured:
            measured |= self._measures(model)
        return nats, error, measured

    def _few_items(self) -> list[Sequence]:
        """Held-out items, evenly spread, whose metrics cost about MEASURED_TOKENS."""
        items = list(self.run.heldout("valid"))
        cost = self.task.model_metrics_tokens(items, None)
        count = max(MIN_MEASURED_ITEMS, len(items) * MEASURED_TOKENS // max(1, cost))
        return items[:: max(1, len(items) // count)]

    def _measures(self, model: SequenceModel) -> dict[str, float]:
        """The task's own metrics; infinite or 0, whichever is worse, where nothing is measured."""
        terms = self.task.terms(model, self.tokenizer, self.measured, None)
        found = {}
        for name, more in self.task.measures(self.tokenizer).items():
            value = terms.value(name)
            found[name] = (0.0 if more else math.inf) if value is None else value
        return found

    def final(self) -> dict[str, Any]:
        """The `report` of the final weights. If the budget is too short for all held-out items, it
        covers a fraction of them, `part`. Of several processes the leading one scores them."""
        with self.state.in_whole() as model:
            return self.state.peers.spread(lambda: self._final(model))

    def _final(self, model: SequenceModel) -> dict[str, Any]:
        split = self.run.config["final_split"]
        store = self.run.heldout(split)
        part = self.plan.about.get("final_part", 1.0)
        sequences: Store | list[Sequence] = store
        if part < 1:
            sequences, part = self._part_of(store, part)
        scores = report(
            self.task,
            self.tokenizer,
            model,
            sequences,
            floor=self.run.config["floor"],
            run=str(self.run.path),
            step=self.state.step,
            split=split,
        )
        if self.selects:
            scores.update(self.state.early_stopping.summary(self.state.config))
        return {**scores, "part": part} if part < 1 else scores

    def _part_of(self, store: Store, part: float) -> tuple[list[Sequence], float]:
        """About this part of the held-out tokens, evenly spread over items, and the part that it
        is. Few long items are cut."""
        count = min(len(store), max(MIN_FINAL_ITEMS, int(part * len(store))))
        chosen = [store[i * len(store) // count] for i in range(count)]
        total = sum(store.length(i) for i in range(len(store)))
        wanted = max(MIN_FINAL_TOKENS, part * total)
        if sum(map(len, chosen)) > MAX_FINAL_EXCESS * wanted:
            length = int(wanted / len(chosen)) + 1
            chosen = [self.task.shortened(s, length, self.tokenizer) for s in chosen]
        return chosen, min(1.0, sum(map(len, chosen)) / total)


def mean_and_error(nats: list[float], tokens: list[int]) -> tuple[float, float | None]:
    """Nats per token over items, and its standard error: of a ratio estimate (Cochran 1977, 6.3),
    None for fewer than two items."""
    total, count = sum(tokens), len(nats)
    mean = sum(nats) / max(1, total)
    if count < 2 or not total:
        return mean, None
    squares = sum((n - mean * t) ** 2 for n, t in zip(nats, tokens, strict=True))
    return mean, math.sqrt(squares * count / (count - 1)) / total


def _evenly_chosen(
    sequences: list[Sequence], context: int, tokens: int = PROGRESS_TOKENS
) -> list[tuple[Sequence, bool]]:
    """(piece, whether it is a whole item) of items of about `tokens` ids in all, at least
    MIN_PROGRESS_ITEMS if they are not much longer, evenly spread. The windows of an item longer
    than the context are pieces, each scored as an item."""
    pieces = [
        (s, start)
        for s in sequences
        for start in (range(0, max(1, len(s) - 1), context) if len(s) > context + 1 else (0,))
    ]
    few = min(MIN_PROGRESS_ITEMS, 4 * tokens // context)
    count = max(1, min(len(pieces), max(few, tokens // context)))
    some = []
    for s, start in pieces[:: -(-len(pieces) // count)]:
        cut = slice(start, start + context + 1)
        weight = None if s.weight is None else s.weight[cut]
        piece = Sequence(s.ids[cut], max(1, s.given - start), weight, s.side)
        some.append((piece, len(piece) == len(s)))
    return some
