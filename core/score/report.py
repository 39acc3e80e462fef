"""The scores of a model as one JSON object: likelihood, the task's metrics, trivial baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..data.sequence_store import Store
from ..errors import TfmError
from ..model.sequence_model import SequenceModel
from ..progress import tracked
from ..protocols import Items, Sequence, Tokenizer
from ..task import Task, ignored
from .likelihood import evaluate

SCHEMA = 1
NOTE_SECONDS = 60.0  # a note announces task metrics that are estimated to take longer


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
    evaluation: Any = None,
    **about: Any,
) -> dict[str, Any]:
    """The object that `eval --json` prints.

    stride: of the windows, in units if the task slides its own (`Task.slides`), else in tokens;
    floor: scores of trivial baselines, computed if None, from the training items that `training()`
    reads; note: receives warnings; evaluation: flags of the task (`Task.EvalOptions`), None for
    their defaults; about: further fields (run, step, split).

    `sequences` is read twice: for the likelihood and for the task's metrics. nll is in nats over
    all items; bits per unit is None unless the tokenizer is lossless.
    """
    began = time.perf_counter()
    nll, tokens, ids, units = 0.0, 0, 0, dict[str, float]()
    token_stride, unit_stride = (None, stride) if task.slides else (stride, None)
    scored = evaluate(model, tokenizer, sequences, token_stride)
    for score in tracked(scored, len(sequences), "items"):
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
    if unit_stride is not None:
        windows = task.slide(sequences, tokenizer, unit_stride)
    if note and task.slides:
        expected = task.model_metrics_tokens(windows, protocol) * seconds / max(1, ids)
        if expected > NOTE_SECONDS:
            note(f"{len(windows):,} windows: about {round(expected / 60)} min")
    own = task.EvalOptions() if evaluation is None else evaluation
    model_metrics = task.model_metrics(model, tokenizer, windows, protocol, own)

    def read_train() -> Items | None:
        try:
            return training() if training else None
        except (TfmError, OSError) as error:
            if note:
                note(f"no baselines that need the training data: {error}")
            return None

    if floor is None:
        said = note or ignored
        floor = task.window_floor(
            read_train, windows, tokenizer, protocol, note=said, evaluation=own
        )
    for name, part in model_metrics.get("parts", {}).items():
        start = f"{name}."
        own = {k.removeprefix(start): v for k, v in (floor or {}).items() if k.startswith(start)}
        part["floor"] = own
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
        **({"stride": unit_stride} if unit_stride else {}),
        "floor": None if floor is None else dict(floor),
        "tokens_per_second": tokens / seconds if seconds else None,
    }
