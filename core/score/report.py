"""One run's scores: nats from `evaluate`, turned into the task's units, beside the floor."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..data.sequence_store import Store
from ..errors import TfmError
from ..model.sequence_model import SequenceModel
from ..protocols import Items, Sequence, Tokenizer
from ..task import Task
from .likelihood import evaluate

SCHEMA = 1
LONG = 60.0  # seconds that are announced


def report(
    task: Task,
    tokenizer: Tokenizer,
    model: SequenceModel,
    sequences: Collection[Sequence] | Store,
    *,
    protocol: str | None = None,
    stride: int | None = None,
    floor: Mapping[str, float] | None = None,
    training: Callable[[], Items] | None = None,
    note: Callable[[str], None] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """The object that `eval --json` prints. `about`: run, step, split; `training()`: what the run
    was trained on, for trivial answers that learn; `note` hears what takes long.

    `sequences` is read twice: for the likelihood, and for the task's own metrics, whose windows are
    `stride` apart where the task slides them. nll is in nats over all items; bits per unit is null
    where the tokenizer is not lossless.
    """
    began = time.perf_counter()
    nll, tokens, ids, units = 0.0, 0, 0, dict[str, float]()
    tokens_apart, units_apart = (None, stride) if task.slides else (stride, None)
    for score in evaluate(model, tokenizer, sequences, tokens_apart):
        nll += score.nll
        tokens += score.tokens
        ids += len(score.sequence)
        for name, value in task.units([score.sequence]).items():
            units[name] = units.get(name, 0) + value
    seconds = time.perf_counter() - began
    count = units.get(task.unit, 0)
    exact = tokenizer.lossless and count > 0
    context = model.config.context
    windows: Collection[Sequence] | Store = sequences
    if units_apart is not None:
        windows = task.slide(sequences, tokenizer, units_apart)
    if note and task.slides:
        wait = task.model_metrics_tokens(windows, protocol) * seconds / max(1, ids)
        if wait > LONG:
            note(f"{len(windows):,} windows: about {wait / 60:.0f} minutes")
    model_metrics = task.model_metrics(model, tokenizer, windows, protocol)

    def read_train() -> Items | None:
        try:
            return training() if training else None
        except (TfmError, OSError) as error:
            if note:
                note(f"no learned baselines: {error}")
            return None

    if floor is None:
        floor = task.window_floor(read_train, windows, tokenizer, protocol)
    return {
        "schema": SCHEMA,
        "task": task.name,
        **about,
        "unit": task.unit,
        "units": count,
        "tokens": tokens,
        "nll": nll,
        f"bits_per_{task.unit}": nll / math.log(2) / count if exact else None,
        "protocol": protocol or ("blockwise" if stride in (None, context) else f"sliding-{stride}"),
        **task.metrics(nll, tokens, units, tokenizer.lossless),
        **model_metrics,
        **({"stride": units_apart} if units_apart else {}),
        "floor": None if floor is None else dict(floor),
        "tokens_per_second": tokens / seconds if seconds else None,
    }
