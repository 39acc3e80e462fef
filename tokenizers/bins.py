"""Values to bins, after a location and a scale that the history part of a window alone decides.

A value is binned as it stands, (x - location) / scale, or, where the season explains most of the
movement, as its difference to the value one season before. Both scales are robust and local, so a
large offset with a small movement uses as many bins as any other series: the weakness of scaling
by the mean, which `chronos` keeps for comparison (Ansari et al. 2024, section 3.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.errors import ConfigError
from ..core.protocols import Ids, Sequence, Support

Values = npt.NDArray[np.float64]

MISSING_ID = 0  # the id of a missing value
SEASONALITY_BUCKETS = 8  # how much of the series the season explains, in the begin token
BEGIN_TOKENS = 2 * SEASONALITY_BUCKETS  # ids 1 ... 16: buckets for values, then for differences
FIRST_BIN_ID = 1 + BEGIN_TOKENS  # of the lowest bin
MAX_DIFFERENCE_RATIO = 0.1  # seasonal differences smaller than this part of the scale are encoded
MIN_RELATIVE_SCALE = 1e-11  # of the largest value; a smaller scale is lost in rounding
MIN_SCALE = 1e-300  # a smaller scale is a denormal number
MAX_BIN_SCALES = 50.0  # bins reach at most this many scales from the location


@dataclass(frozen=True)
class Window:
    """A stretch of one series. values (T,): NaN where missing; `history`: how many leading ones
    are known; the others are to be forecast. `about`: what goes along in the side information."""

    values: Values
    history: int
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scales:
    """How B windows are normalised, each (B,): scale 0 where the history is constant; lag 0 where
    values are binned as they stand."""

    location: Values
    scale: Values
    lag: Ids
    lag_scale: Values
    bucket: Ids

    def rows(self, which: npt.NDArray[Any]) -> Scales:
        return Scales(
            self.location[which],
            self.scale[which],
            self.lag[which],
            self.lag_scale[which],
            self.bucket[which],
        )

    def moved(self, size: Values, shift: Values) -> Scales:
        """Wider by exp(size) (B,), moved by shift (B,) scales."""
        return replace(
            self,
            location=self.location + shift * self.scale,
            scale=self.scale * np.exp(size),
            lag_scale=self.lag_scale * np.exp(size),
        )

    def side(self, row: int) -> dict[str, Any]:
        return {
            "location": float(self.location[row]),
            "scale": float(self.scale[row]),
            "lag": int(self.lag[row]),
            "lag_scale": float(self.lag_scale[row]),
            "bucket": int(self.bucket[row]),
        }

    @staticmethod
    def of(sides: Iterable[Mapping[str, Any]]) -> Scales:
        kept = list(sides)

        def column(name: str, kind: Any) -> npt.NDArray[Any]:
            return np.array([side[name] for side in kept], kind)

        return Scales(
            column("location", np.float64),
            column("scale", np.float64),
            column("lag", np.int64),
            column("lag_scale", np.float64),
            column("bucket", np.int64),
        )


class BinsTokenizer:
    """ids: begin, then one a value. `edges` (bins + 1,) are the bins' borders in scales,
    `centres` (bins,) what a bin decodes to; what lies beyond falls in the outermost.
    `history` and `horizon` are the points of the windows that it was fitted on."""

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
    ) -> None:
        self.history, self.horizon = history, horizon
        self.edges, self.centres, self.season = edges, centres, season
        self.coding, self.mean = coding, mean  # coding: auto, values, differences
        self.vocab_size = FIRST_BIN_ID + len(centres)
        self.ordered = FIRST_BIN_ID, self.vocab_size
        self.zero = int(np.searchsorted(edges[1:-1], 0.0, side="right"))

    # -- how a window is normalised ----------------------------------------------------------

    def scales(self, values: Values, history: Ids) -> Scales:
        """From the first `history` (B,) of values (B, T)."""
        batch, length = values.shape
        past = np.where(np.arange(length) < history[:, None], values, np.nan)
        none = np.zeros(batch, np.int64)
        known = np.isfinite(past)
        count = known.sum(1)
        size = np.abs(np.where(known, past, 0.0))
        if self.mean:
            scale = (size / np.maximum(count, 1)[:, None]).sum(1)
            scale = np.where(scale > 0, scale, 1.0)
            return Scales(np.zeros(batch), scale, none, np.zeros(batch), none)

        finest = np.maximum(MIN_RELATIVE_SCALE * size.max(1), MIN_SCALE)
        scale = spread(past)
        constant = scale == 0
        scale = np.where(constant, 0.0, np.maximum(scale, finest))
        steps = past[:, self.season :] - past[:, : -self.season]
        lag_scale = spread(np.concatenate((steps, -steps), axis=1))  # around 0: drift counts
        lag_scale = np.where(constant, 0.0, np.maximum(lag_scale, np.maximum(1e-4 * scale, finest)))
        ratio = np.divide(lag_scale, scale, out=np.ones(batch), where=~constant)
        seasons = count > 2 * self.season  # enough to know a seasonal difference from
        regular = (
            seasons
            & ~constant
            & (
                (ratio < MAX_DIFFERENCE_RATIO)
                if self.coding == "auto"
                else np.full(batch, self.coding != "values")
            )
        )
        bucket = np.clip(np.round(np.log2(np.maximum(ratio, 1e-9)) + 6), 0, SEASONALITY_BUCKETS - 2)
        bucket = np.where(seasons & ~constant, bucket, SEASONALITY_BUCKETS - 1).astype(np.int64)
        lag = np.where(regular, self.season, 0)
        location = recent(past, self.season)
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
        """Each value against what its predecessor decodes to, so that errors do not add up."""
        ids = np.zeros(values.shape, np.int64)
        for at, base, scale, known in seasons(values.shape, scales, lag):
            now = values[:, at]
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                steps = np.where(scale > 0, (now - base) / scale, 0.0)
            bins = np.searchsorted(self.edges[1:-1], steps, side="right")
            missing = np.isnan(now)
            ids[:, at] = np.where(missing, MISSING_ID, bins + FIRST_BIN_ID)
            known[:] = np.where(missing, known, base + self.centres[bins] * scale)
        return ids

    def decode_rows(self, ids: Ids, scales: Scales, within: Values | None = None) -> Values:
        """(B, T) values of ids (B, 1 + T), NaN where missing. within (B, T): where in its bin each
        value lies, 0 to 1; none for its centre."""
        values = np.empty((len(ids), ids.shape[1] - 1))
        for lag in np.unique(scales.lag):
            rows = np.flatnonzero(scales.lag == lag)
            values[rows] = self._decode(
                ids[rows, 1:], scales.rows(rows), int(lag), None if within is None else within[rows]
            )
        return values

    def _decode(self, ids: Ids, scales: Scales, lag: int, within: Values | None) -> Values:
        values = np.empty(ids.shape)
        for at, base, scale, known in seasons(ids.shape, scales, lag):
            missing = ids[:, at] < FIRST_BIN_ID
            bins = np.maximum(ids[:, at] - FIRST_BIN_ID, 0)
            decoded = base + self.centres[bins] * scale
            known[:] = np.where(missing, known, decoded)
            if within is not None:
                low, high = self.edges[bins], self.edges[bins + 1]
                decoded = base + (low + within[:, at] * (high - low)) * scale
            values[:, at] = np.where(missing, np.nan, decoded)
        return values

    # -- a window at a time --------------------------------------------------------------------

    def encode(self, item: Window, like: Sequence | None = None) -> Sequence:
        """given: the begin id and the history; weight 0 where a value is missing."""
        values = np.asarray(item.values, np.float64)[None]
        if like is None:
            scales = self.scales(values, np.array([item.history]))
        else:
            scales = Scales.of([like.side])
        ids = self.encode_rows(values, scales)[0]
        weight = (ids != MISSING_ID).astype(np.float32)
        side = {**item.about, "history": item.history, **scales.side(0)}
        return Sequence(ids, 1 + item.history, weight, side)

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> Window:
        return Window(self.decode_rows(ids[None], Scales.of([side]))[0], side["history"])

    def support(self, length: int, side: Mapping[str, Any]) -> Support:
        """Every bin; the one of the constant alone where the history is constant."""
        if side.get("scale", 1.0) == 0:
            return FIRST_BIN_ID + self.zero, FIRST_BIN_ID + self.zero + 1
        return FIRST_BIN_ID, self.vocab_size

    def positions(self, length: int, side: Mapping[str, Any]) -> Ids | None:
        return None

    # -- fitting -------------------------------------------------------------------------------

    @classmethod
    def fit(
        cls, spec: str, windows: Values, known: Ids, season: int, history: int, coding: str = "auto"
    ) -> BinsTokenizer:
        """bins, bins:N, bins:quantile[:N], bins:uniform[:N], bins:chronos; windows (B, T) of
        which `known` (B,) points are history, at most `history`, show how far values reach."""
        kind, count = parse(spec)
        shape = season, history, windows.shape[1] - history
        if kind == "chronos":
            centres = np.linspace(-15.0, 15.0, 4093)
            return cls(borders(centres), centres, *shape, coding="values", mean=True)
        fine = np.linspace(-MAX_BIN_SCALES, MAX_BIN_SCALES, 40001)
        ruler = cls(borders(fine), fine, *shape, coding)
        scales = ruler.scales(windows, known)
        ids = ruler.encode_rows(windows, scales)[:, 1:]
        steps = np.sort(fine[ids[ids >= FIRST_BIN_ID] - FIRST_BIN_ID])
        reach = 4.0
        if len(steps):
            reach = float(np.clip(1.25 * np.quantile(np.abs(steps), 0.9995), 4.0, MAX_BIN_SCALES))
        if kind == "uniform" or not len(steps):
            centres = np.linspace(-reach, reach, count)
            return cls(borders(centres), centres, *shape, coding)
        # half of the bins follow the values' quantiles, half lie evenly: fine where values are
        grid = np.linspace(-reach, reach, 20001)
        below = np.searchsorted(steps, grid, side="right") / len(steps)
        mass = 0.5 * (below - below[0]) / max(below[-1] - below[0], 1e-9)
        mass += 0.5 * (grid + reach) / (2 * reach)
        edges = np.interp(np.linspace(0, mass[-1], count + 1), mass, grid)
        return cls(edges, (edges[1:] + edges[:-1]) / 2, *shape, coding)

    def state(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        names = ("season", "history", "horizon", "coding", "mean")
        return {name: getattr(self, name) for name in names}, {
            "edges": self.edges,
            "centres": self.centres,
        }

    @classmethod
    def from_state(
        cls, state: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]
    ) -> BinsTokenizer:
        return cls(arrays["edges"], arrays["centres"], **state)


def parse(spec: str) -> tuple[str, int]:
    """(spacing, number of bins) of a `--tokenizer` value. ConfigError says what there is."""
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


def seasons(
    shape: tuple[int, ...], scales: Scales, lag: int
) -> Iterator[tuple[slice, Values, Values, Values]]:
    """One season after another: (its columns, base, scale, known). `known` is written by the
    caller: the decoded values of this season, kept from before where missing. The base is what
    was known of the same phase, or the location where nothing was."""
    batch, length = shape
    width = lag or max(length, 1)
    known = np.full((batch, width), np.nan)
    for start in range(0, length, width):
        at = slice(start, min(start + width, length))
        here = known[:, : at.stop - start]
        first = np.isnan(here)
        base = np.where(first, scales.location[:, None], here)
        yield at, base, np.where(first, scales.scale[:, None], scales.lag_scale[:, None]), here


def borders(centres: Values) -> Values:
    """The edges half way between centres, the outermost as far out again."""
    inner = (centres[1:] + centres[:-1]) / 2
    return np.concatenate(([2 * centres[0] - inner[0]], inner, [2 * centres[-1] - inner[-1]]))


def spread(values: Values) -> Values:
    """(B,) of (B, T): the range of the middle 80 %, as a normal distribution's deviation; the
    mean distance from the median where that is 0, as of a series of mostly one value."""
    values = np.concatenate((values, np.full((len(values), 1), np.nan)), axis=1)
    ordered = np.sort(values, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(1)

    def quantile(part: float) -> Values:
        at = np.round(part * np.maximum(count - 1, 0)).astype(np.int64)
        found: Values = np.nan_to_num(ordered[np.arange(len(ordered)), at])
        return found

    wide = (quantile(0.9) - quantile(0.1)) / 2.563
    away = np.abs(np.nan_to_num(ordered - quantile(0.5)[:, None]))
    mean: Values = (away / np.maximum(count, 1)[:, None]).sum(1)
    out: Values = np.where(wide > 0, wide, mean)
    return out


def recent(past: Values, season: int) -> Values:
    """(B,) of (B, T): the mean of the last season's known values, without the tenth at each end."""
    known = np.isfinite(past)
    from_end = np.cumsum(known[:, ::-1], axis=1)[:, ::-1]  # known values from here on
    last = np.sort(np.where(known & (from_end <= season), past, np.nan), axis=1)[:, :season]
    count = np.isfinite(last).sum(1)
    cut = count // 10
    at = np.arange(last.shape[1])
    middle = (at >= cut[:, None]) & (at < (count - cut)[:, None])
    kept = np.where(middle, last / np.maximum(count - 2 * cut, 1)[:, None], 0.0)
    mean: Values = kept.sum(1)
    return mean


Tokenizer = BinsTokenizer
