"""The normalisation of windows of a series, and the robust statistics that it is computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..core.protocols import Ids

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scales:
    """The normalisation of B windows, each field (B,): scale is 0 where the history is constant;
    lag is the season, or 0 where values are binned directly; bucket is the level of seasonality."""

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

    def perturbed(self, size: Values, shift: Values) -> Scales:
        """Scales multiplied by exp(size) (B,), locations shifted by shift (B,) scales."""
        return replace(
            self,
            location=self.location + shift * self.scale,
            scale=self.scale * np.exp(size),
            lag_scale=self.lag_scale * np.exp(size),
        )

    def side(self, row: int) -> dict[str, Any]:
        """The normalisation of one window as side information."""
        return {
            "location": float(self.location[row]),
            "scale": float(self.scale[row]),
            "lag": int(self.lag[row]),
            "lag_scale": float(self.lag_scale[row]),
            "bucket": int(self.bucket[row]),
        }

    @staticmethod
    def joined(parts: Sequence[Scales]) -> Scales:
        """The windows of all parts, one after another."""
        names = ("location", "scale", "lag", "lag_scale", "bucket")
        whole = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return Scales(*whole)

    @staticmethod
    def of(sides: Iterable[Mapping[str, Any]]) -> Scales:
        """The normalisations from the side information of B windows."""
        rows = list(sides)

        def column(name: str, kind: Any) -> npt.NDArray[Any]:
            return np.array([side[name] for side in rows], kind)

        return Scales(
            column("location", np.float64),
            column("scale", np.float64),
            column("lag", np.int64),
            column("lag_scale", np.float64),
            column("bucket", np.int64),
        )


def robust_scale(values: Values) -> Values:
    """(B,) robust scales of (B, T): the range of the middle 80 %, divided by that of a standard
    normal distribution. Where it is 0 (mostly one value): the mean distance from the median."""
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


def recent_level(past: Values, season: int) -> Values:
    """(B,) of (B, T): the mean of the last `season` known values without a tenth at each end."""
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
