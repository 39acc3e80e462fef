"""Sample paths of many series in batches, each history encoded under several normalisations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...core.config import SampleConfig
from ...core.decode.forks import continue_all
from ...core.errors import UsageError
from ...core.model.sequence_model import SequenceModel
from ...core.protocols import Ids, Sequence
from ...tokenizers._scales import Scales, Values
from ...tokenizers.bins import BinsTokenizer, Window
from . import linear
from .training_rows import JITTER

UNFILTERED = SampleConfig()
HISTORY_VIEWS = 10
GOLDEN_RATIO = 0.6180339887498949  # its fractional part: multiples of it spread evenly modulo 1


def forecast_values(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Window],
    horizon: int,
    paths: int,
    config: SampleConfig = UNFILTERED,
    ridge: float = 0.0,
) -> Values:
    """(N, paths, horizon) sampled values that follow N histories (windows without a future). The
    normalisation of a history decides its bins but carries no information about the series. So each
    history is encoded several times (views), with normalisations perturbed as in training, and the
    paths are divided among the views. The errors of the views differ, so that their mixture
    forecasts better than each of them. Greedy decoding uses a single, unperturbed view.

    ridge: the paths of a history are moved together, their mean by this part of its difference to
    the forecast of ridge regression, where that has one."""
    if ridge:
        check_regression(tokenizer, horizon, ridge)
    count = 1 if config.greedy else min(HISTORY_VIEWS, paths)
    views = [view for history in histories for view in encode_views(tokenizer, history, count)]
    sampled = sample_paths(model, tokenizer, views, horizon, -(-paths // count), config)
    shape = len(histories), count, -1, horizon
    mixed = sampled.reshape(shape).swapaxes(1, 2)  # (N, paths a view, views, horizon): interleaved
    values = mixed.reshape(len(histories), -1, horizon)[:, :paths]
    return combined(values, tokenizer, histories, ridge) if ridge else values


def check_regression(tokenizer: BinsTokenizer, horizon: int, ridge: float) -> None:
    """UsageError where the tokenizer has no ridge regression of this horizon."""
    if tokenizer.linear is None:
        raise UsageError(
            f"--ridge {ridge}: the run has no ridge regression: its series were too short for one, "
            "--init changed the season or the window, or an older tfm trained it"
        )
    if horizon > tokenizer.horizon:
        raise UsageError(
            f"--ridge {ridge}: the ridge regression forecasts {tokenizer.horizon} points, not "
            f"{horizon}; ask for fewer, or leave out --ridge"
        )


def combined(
    values: Values, tokenizer: BinsTokenizer, histories: list[Window], ridge: float
) -> Values:
    """Sampled values (N, paths, horizon), moved as `forecast_values` says."""
    moved = values.copy()
    for paths, history in zip(moved, histories, strict=True):
        found = linear.forecast(tokenizer.linear, history.values, tokenizer.season, values.shape[2])
        if found is not None:
            paths += ridge * (found - paths.mean(0))
    return moved


def encode_views(tokenizer: BinsTokenizer, history: Window, count: int) -> list[Sequence]:
    """`count` encodings of a history whose perturbations are spread evenly over the range used in
    training. A single view is not perturbed."""
    at = (np.arange(count) + 0.5).astype(np.float64)
    size, shift = 2 * at / count - 1, 2 * (at * GOLDEN_RATIO % 1) - 1
    values = np.repeat(np.asarray(history.values, np.float64)[None], count, 0)
    seasons = np.full(count, history.about.get("season", tokenizer.season))
    scales = tokenizer.scales(values, np.full(count, len(history.values)), seasons)
    if count > 1:
        scales = scales.perturbed(JITTER * size, JITTER * shift)
    ids = tokenizer.encode_rows(values, scales)
    name = history.about.get("id", "")
    return [
        Sequence(
            row,
            len(row),
            None,
            {
                **{k: v for k, v in history.about.items() if k in ("covariates", "season")},
                **scales.side(number),
                "id": f"{name}/{number}",
                "history": len(history.values),
            },
        )
        for number, row in enumerate(ids)
    ]


def sample_paths(
    model: SequenceModel,
    tokenizer: BinsTokenizer,
    histories: list[Sequence],
    horizon: int,
    paths: int,
    config: SampleConfig = UNFILTERED,
) -> Values:
    """(N, paths, horizon) sampled values that follow N histories (sequences of the begin token and
    the history's ids only). The uniform random numbers of a step are stratified over the paths of a
    series (Latin hypercube sampling, McKay et al. 1979): each path remains an unbiased sample, and
    the quantiles of a hundred paths vary as little as those of many more independent ones. A
    horizon longer than the tokenizer's is sampled in parts, each path continuing from its own
    values."""
    part = min(horizon, tokenizer.horizon)
    out = np.empty((len(histories), paths, part))

    features = None
    if tokenizer.features:
        features = [tokenizer.feature_rows(len(s) + part, s.side) for s in histories]
    prompts, names = [s.ids for s in histories], [s.side.get("id", "") for s in histories]
    legal = np.array([tokenizer.support(len(s), s.side) for s in histories], np.int64)
    for some, ids, within in continue_all(
        model, prompts, names, paths, part, legal, config, features
    ):
        out[some] = _decoded(tokenizer, [histories[index] for index in some], ids, within)
    if part == horizon:
        return out

    longer = []
    for sequence, sampled in zip(histories, out, strict=True):
        past = tokenizer.decode(sequence.ids, sequence.side).values
        for number, path in enumerate(sampled):
            values = np.concatenate((past, path))[-tokenizer.history :]
            about = {"id": f"{sequence.side.get('id', '')}/{number}/{horizon}"}
            about |= {k: v for k, v in sequence.side.items() if k == "season"}
            about |= _later_covariates(sequence, len(past) + part - len(values), part, tokenizer)
            longer.append(tokenizer.encode(Window(values, len(values), about)))
    rest = sample_paths(model, tokenizer, longer, horizon - part, 1, config)
    return np.concatenate((out, rest.reshape(len(histories), paths, -1)), axis=2)


def _later_covariates(
    sequence: Sequence, start: int, part: int, tokenizer: BinsTokenizer
) -> dict[str, Any]:
    """The side information of a window that starts `start` points later, and whose history has
    `part` points without past covariates."""
    found = {}
    for one in tokenizer.covariates.each:
        codes = sequence.side.get("covariates", {}).get(one.name, [])
        if one.kind == "past":
            codes = [*codes[: sequence.side["history"]], *[None] * part]
        found[one.name] = codes[start:]
    return {"covariates": found} if found else {}


def _decoded(
    tokenizer: BinsTokenizer, histories: list[Sequence], sampled: Ids, within: Values
) -> Values:
    """(N, paths, horizon) values of the ids that follow N histories. within: the position of each
    value in its bin, 0 to 1."""
    count, paths, horizon = sampled.shape
    values = np.empty((count, paths, horizon))
    lengths = np.array(list(map(len, histories)))
    for length in np.unique(lengths):
        group = np.flatnonzero(lengths == length)
        past = np.stack([histories[i].ids for i in group]).repeat(paths, 0)
        ids = np.concatenate((past, sampled[group].reshape(-1, horizon)), axis=1)
        inside = np.full((len(ids), ids.shape[1] - 1), 0.5)
        inside[:, -horizon:] = within[group].reshape(-1, horizon)
        scales = Scales.of([histories[i].side for i in group for _ in range(paths)])
        decoded = tokenizer.decode_rows(ids, scales, inside)[:, -horizon:]
        values[group] = decoded.reshape(len(group), paths, horizon)
    return values
