"""One run's scores: nats from `evaluate`, turned into the task's units, beside the floor."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import Any

from .evaluate import evaluate
from .model import SequenceModel
from .protocols import Sequence, Task, Tokenizer
from .store import Store

SCHEMA = 1


def report(
    task: Task,
    tokenizer: Tokenizer,
    model: SequenceModel,
    sequences: Collection[Sequence] | Store,
    *,
    protocol: str | None = None,
    stride: int | None = None,
    floor: Mapping[str, float] | None = None,
    **about: Any,
) -> dict[str, Any]:
    """The object that `eval --json` prints. `about`: run, step, split.

    `sequences` is read twice. nll is in nats over all items; bits per unit is null where the
    tokenizer is not lossless.
    """
    began = time.perf_counter()
    nll, tokens, units = 0.0, 0, dict[str, float]()
    for score in evaluate(model, tokenizer, sequences, stride):
        nll += score.nll
        tokens += score.tokens
        for name, value in task.units([score.sequence]).items():
            units[name] = units.get(name, 0) + value
    seconds = time.perf_counter() - began
    count = units.get(task.unit, 0)
    exact = tokenizer.lossless and count > 0
    context = model.config.context
    probed = dict(task.probe(model, tokenizer, sequences, protocol))
    beside = floor if floor is not None else probed.pop("floor", None)
    probed.pop("floor", None)
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
        **probed,
        "floor": None if beside is None else dict(beside),
        "tokens_per_second": tokens / seconds if seconds else None,
    }
