"""Quantise the values of a series into bins, normalised by a location and a scale of the history.

A value is binned either directly, as (x - location) / scale, or, where the season explains most of
the variation, as its scaled difference to the value one season earlier. Location and scales are
robust statistics of the window's history, so that a series with a large offset and small variation
uses as many bins as any other. Scaling by the mean lacks this property; `chronos` provides it for
comparison (Ansari et al. 2024, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core import protocols
from ..core.errors import ConfigError
from ..core.protocols import Floats, Ids, Sequence, Support
from ._covariates import Covariates
from ._scales import Scales, Values, recent_level, robust_scale

MISSING_ID = 0  # the id of a missing value
SEASONALITY_BUCKETS = 8  # levels of how much the season explains, told by the begin token
BEGIN_TOKENS = 2 * SEASONALITY_BUCKETS  # ids 1 ... 16: a level for values, or for differences
FIRST_BIN_ID = 1 + BEGIN_TOKENS  # the id of the lowest bin
MAX_DIFFERENCE_RATIO = 0.1  # seasonal differences smaller than this part of the scale are coded
MIN_RELATIVE_SCALE = 1e-11  # of the largest value: a smaller scale would be lost in rounding
MIN_SCALE = 1e-300  # a smaller scale would be a denormal number
MAX_BIN_SCALES = 50.0  # bins reach at most this many scales from the location


@dataclass(frozen=True)
class Window:
    """A part of one series. values (T,), NaN where missing; the first `history` values are known,
    the others are to be forecast. `about`: additional side information."""

    values: Values
    history: int
    about: dict[str, Any] = field(default_factory=dict)


class BinsTokenizer(protocols.Tokenizer):
    """Ids: a begin token, then one id per value. In units of the scale, `edges` (bins + 1,) are the
    borders of the bins and `centres` (bins,) their decoded values; the outermost bins include all
    values beyond. `history` and `horizon` are numbers of points in the windows it was fitted on.
    The side information has the codes of `covariates` in a window, by name. `linear` (history,
    horizon): the coefficients of a linear forecast of the windows, if there is one."""

    axes = 1
    lossless = False
    begin = 0

    def __init__(
        self,
        edges: Values,
        centres: Values,
        season: int,
        history: int,
        horizon: int,
        coding: str = "auto",
        mean: bool = False,
        covariates: Covariates | None = None,
        linear: Values | None = None,
    ) -> None:
        self.history, self.horizon = history, horizon
        self.edges, self.centres, self.season = edges, centres, season
        self.coding, self.mean = coding, mean  # coding: auto, values, differences
        self.covariates = covariates or Covariates()
        fits = linear is not None and linear.shape == (history, horizon)
        self.linear = linear if fits else None
        self.features = self.covariates.features
        self.vocab_size = FIRST_BIN_ID + len(centres)
        self.ordered: tuple[tuple[int, int], ...] = ((FIRST_BIN_ID, self.vocab_size),)
        self.zero = int(np.searchsorted(edges[1:-1], 0.0, side="right"))

    # -- normalisation -----------------------------------------------------------------------

    def scales(self, values: Values, history: Ids, seasons: Ids | None = None) -> Scales:
        """The normalisation from the first `history` (B,) of values (B, T). seasons (B,): None if
        that of the tokenizer is the season of all."""
        if seasons is None:
            return self._scales(values, history, self.season)
        parts = [(season, np.flatnonzero(seasons == season)) for season in np.unique(seasons)]
        each = [self._scales(values[at], history[at], int(season)) for season, at in parts]
        order = np.concatenate([at for _, at in parts]).argsort()
        return Scales.joined(each).rows(order)

    def _scales(self, values: Values, history: Ids, season: int) -> Scales:
        batch, length = values.shape
        past = np.where(np.arange(length) < history[:, None], values, np.nan)
        zeros = np.zeros(batch, np.int64)
        known = np.isfinite(past)
        count = known.sum(1)
        size = np.abs(np.where(known, past, 0.0))
        if self.mean:
            scale = (size / np.maximum(count, 1)[:, None]).sum(1)
            scale = np.where(scale > 0, scale, 1.0)
            return Scales(np.zeros(batch), scale, zeros, np.zeros(batch), zeros)

        tiny = np.maximum(MIN_RELATIVE_SCALE * size.max(1), MIN_SCALE)
        scale = robust_scale(past)
        constant = scale == 0
        scale = np.where(constant, 0.0, np.maximum(scale, tiny))
        steps = past[:, season:] - past[:, :-season]
        around_0 = np.concatenate((steps, -steps), axis=1)  # so that drift counts
        lag_scale = robust_scale(around_0)
        lag_scale = np.where(constant, 0.0, np.maximum(lag_scale, np.maximum(1e-4 * scale, tiny)))
        ratio = np.divide(lag_scale, scale, out=np.ones(batch), where=~constant)
        long_enough = count > 2 * season  # to estimate seasonal differences
        explained = (
            ratio < MAX_DIFFERENCE_RATIO if self.coding == "auto" else self.coding != "values"
        )
        use_differences = long_enough & ~constant & explained
        bucket = np.clip(np.round(np.log2(np.maximum(ratio, 1e-9)) + 6), 0, SEASONALITY_BUCKETS - 2)
        bucket = np.where(long_enough & ~constant, bucket, SEASONALITY_BUCKETS - 1).astype(np.int64)
        lag = np.where(use_differences, season, 0)
        location = recent_level(past, season)
        same = np.where(known, past, -np.inf).max(1, initial=-np.inf)  # exactly, unlike a mean
        location = np.where(constant, np.where(count > 0, same, 0.0), location)
        return Scales(location, scale, lag, lag_scale, bucket)

    # -- ids -----------------------------------------------------------------------------------

    def encode_rows(self, values: Values, scales: Scales) -> Ids:
        """(B, 1 + T) ids of values (B, T)."""
        ids = np.zeros((len(values), 1 + values.shape[1]), np.int64)
        ids[:, 0] = 1 + scales.bucket + SEASONALITY_BUCKETS * (scales.lag > 0)
        for lag in np.unique(scales.lag):
            rows = np.flatnonzero(scales.lag == lag)
            ids[rows, 1:] = self._encode(values[rows], scales.rows(rows), int(lag))
        return ids

    def _encode(self, values: Values, scales: Scales, lag: int) -> Ids:
        """Each value relative to decoded ones, so that quantisation errors do not accumulate."""
        ids = np.zeros(values.shape, np.int64)
        for at, base, scale, known in iterate_seasons(values.shape, scales, lag):
            now = values[:, at]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                steps = np.where(scale > 0, (now - base) / scale, 0.0)
            bins = np.searchsorted(self.edges[1:-1], steps, side="right")
            missing = np.isnan(now)
            ids[:, at] = np.where(missing, MISSING_ID, bins + FIRST_BIN_ID)
            known[:] = np.where(missing, known, finite_sum(base, self.centres[bins], scale))
        return ids

    def decode_rows(self, ids: Ids, scales: Scales, within: Values | None = None) -> Values:
        """(B, T) values of ids (B, 1 + T), NaN where missing. within (B, T): the position of each
        value in its bin, 0 to 1; None for the centre of the bin."""
        values = np.empty((len(ids), ids.shape[1] - 1))
        for lag in np.unique(scales.lag):
            rows = np.flatnonzero(scales.lag == lag)
            values[rows] = self._decode(
                ids[rows, 1:], scales.rows(rows), int(lag), None if within is None else within[rows]
            )
        return values

    def _decode(self, ids: Ids, scales: Scales, lag: int, within: Values | None) -> Values:
        values = np.empty(ids.shape)
        for at, base, scale, known in iterate_seasons(ids.shape, scales, lag):
            missing = ids[:, at] < FIRST_BIN_ID
            bins = np.maximum(ids[:, at] - FIRST_BIN_ID, 0)
            decoded = finite_sum(base, self.centres[bins], scale)
            known[:] = np.where(missing, known, decoded)
            if within is not None:
                low, high = self.edges[bins], self.edges[bins + 1]
                decoded = finite_sum(base, low + within[:, at] * (high - low), scale)
            values[:, at] = np.where(missing, np.nan, decoded)
        return values

    # -- single windows ------------------------------------------------------------------------

    def encode(self, item: Window, like: Sequence | None = None) -> Sequence:
        """The begin token and the history are given; a missing value has weight 0."""
        values = np.asarray(item.values, np.float64)[None]
        if like is None:
            season = item.about.get("season", self.season)
            scales = self._scales(values, np.array([item.history]), season)
        else:
            scales = Scales.of([like.side])
        ids = self.encode_rows(values, scales)[0]
        weight = (ids != MISSING_ID).astype(np.float32)
        side = {**item.about, "history": item.history, **scales.side(0)}
        return Sequence(ids, 1 + item.history, weight, side)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Window:
        return Window(self.decode_rows(ids[None], Scales.of([side]))[0], side["history"])

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """Every bin; only the bin of the constant where the history is constant."""
        if side.get("scale", 1.0) == 0:
            return FIRST_BIN_ID + self.zero, FIRST_BIN_ID + self.zero + 1
        return FIRST_BIN_ID, self.vocab_size

    def feature_rows(self, length: int, side: Mapping[str, Any]) -> Floats:
        points = max(0, length - 1)
        codes = {}
        for one in self.covariates.each:
            known = np.array(side.get("covariates", {}).get(one.name, ()), np.float64)[:points]
            codes[one.name] = np.pad(known, (0, points - len(known)), constant_values=np.nan)[None]
        (rows,) = self.covariates.rows(codes, np.array([side["history"]]))
        return np.asarray(rows, np.float32)

    # -- fitting -------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls,
        spec: str,
        windows: Values,
        known: Ids,
        season: int,
        history: int,
        coding: str = "auto",
        seasons: Ids | None = None,
    ) -> BinsTokenizer:
        """Bins from windows (B, T), of which the first `known` (B,) points, at most `history`, are
        history; seasons: as in `scales`. spec: bins, bins:N, bins:quantile[:N], bins:uniform[:N] or
        bins:chronos."""
        kind, count = parse(spec)
        shape = season, history, windows.shape[1] - history
        if kind == "chronos":
            centres = np.linspace(-15.0, 15.0, 4093)
            return cls(borders(centres), centres, *shape, coding="values", mean=True)
        fine = np.linspace(-MAX_BIN_SCALES, MAX_BIN_SCALES, 40001)
        fine_tokenizer = cls(borders(fine), fine, *shape, coding)
        scales = fine_tokenizer.scales(windows, known, seasons)
        ids = fine_tokenizer.encode_rows(windows, scales)[:, 1:]
        steps = np.sort(fine[ids[ids >= FIRST_BIN_ID] - FIRST_BIN_ID])
        reach = 4.0
        if len(steps):
            reach = float(np.clip(1.25 * np.quantile(np.abs(steps), 0.9995), 4.0, MAX_BIN_SCALES))
        if kind == "uniform" or not len(steps):
            centres = np.linspace(-reach, reach, count)
            return cls(borders(centres), centres, *shape, coding)
        # half of the bins follow the quantiles of the values, the other half is evenly spaced
        grid = np.linspace(-reach, reach, 20001)
        below = np.searchsorted(steps, grid, side="right") / len(steps)
        mass = 0.5 * (below - below[0]) / max(below[-1] - below[0], 1e-9)
        mass += 0.5 * (grid + reach) / (2 * reach)
        edges = np.interp(np.linspace(0, mass[-1], count + 1), mass, grid)
        return cls(edges, (edges[1:] + edges[:-1]) / 2, *shape, coding)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        names = ("season", "history", "horizon", "coding", "mean")
        facts = {name: getattr(self, name) for name in names}
        arrays = {"edges": self.edges, "centres": self.centres}
        if self.linear is not None:
            arrays["linear"] = self.linear
        return {**facts, "covariates": self.covariates.state()}, arrays

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> BinsTokenizer:
        listed = state["covariates"] if "covariates" in state else ()  # older runs have none
        covariates = Covariates.from_state(listed)
        more = {"covariates": covariates, "linear": arrays.get("linear")}
        return cls(arrays["edges"], arrays["centres"], **{**state, **more})


def parse(spec: str) -> tuple[str, int]:
    """(spacing, number of bins) of a `--tokenizer` value. ConfigError lists the known values."""
    _, *parts = spec.split(":")
    kind = parts.pop(0) if parts and not parts[0].isdigit() else "quantile"
    count = int(parts.pop(0)) if parts and parts[0].isdigit() and kind != "chronos" else 1023
    known = spec.split(":")[0] == "bins" and kind in ("quantile", "uniform", "chronos")
    if parts or not known or not 3 <= count <= 60000:
        raise ConfigError(
            f"--tokenizer {spec}: known: bins, bins:N, bins:quantile:N, bins:uniform:N "
            "(3 to 60000 bins), bins:chronos"
        )
    return kind, count


def iterate_seasons(
    shape: tuple[int, ...], scales: Scales, lag: int
) -> Iterator[tuple[slice, Values, Values, Values]]:
    """For each season in turn: (its columns, base, scale, known), the last three (B, columns). The
    caller writes the decoded values of the season into `known`, except where they are missing. The
    base is the last known value of the same phase, or the location where there is none."""
    batch, length = shape
    width = lag or max(length, 1)
    known = np.full((batch, width), np.nan)
    for start in range(0, length, width):
        at = slice(start, min(start + width, length))
        here = known[:, : at.stop - start]
        first = np.isnan(here)
        base = np.where(first, scales.location[:, None], here)
        yield at, base, np.where(first, scales.scale[:, None], scales.lag_scale[:, None]), here


def finite_sum(base: Values, steps: Values, scale: Values) -> Values:
    """base + steps * scale; the largest float where that overflows, and NaN where base is."""
    with np.errstate(over="ignore"):
        found = base + steps * scale
    largest = np.finfo(np.float64).max
    return np.clip(found, -largest, largest)


def borders(centres: Values) -> Values:
    """The edges midway between centres; the outermost are as far beyond the outermost centres."""
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(([2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]))


Tokenizer = BinsTokenizer
