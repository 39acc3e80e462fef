"""The options of the series task in training and in sampling."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from .frequency import frequency_unit
from .reading import Columns
from .stamps import DAY_ORDERS
from .zones import tz


def _option(text: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class SeriesOptions:
    time: str | None = _option("Column of the times; of a date and a time of day: DATE,TIME.")
    target: str | None = _option("Columns of the values, separated by commas.")
    id: str | None = _option("Columns of the series ids, separated by commas, in long tables.")
    freq: str | None = _option("Time between points, as a pandas frequency: h, D, W, MS, 15min ...")
    zone: str | None = _option("Time zone of times without an offset, such as Europe/Berlin.")
    dates: str | None = field(
        default=None,
        metadata={"help": "Order of dates such as 3/4/2024.", "choices": tuple(DAY_ORDERS)},
    )
    decimal: str | None = field(
        default=None, metadata={"help": "Decimal mark of numbers: . or ,", "choices": (".", ",")}
    )
    season: int | None = _option("Points in a season, such as 24 for hourly data.")
    horizon: int | None = _option("Points that a window forecasts.")
    history: int | None = _option("Points of history before the horizon that the model sees.")
    resample: bool = _option("Sort times, average duplicates, mark gaps as missing.", False)
    skip_bad: bool = _option("Leave out series and files that cannot be read.", False)
    min_points: int = _option("Leave out series with fewer values.", 1)
    allow_negative: bool = _option("Let forecasts be negative where no value was.", False)

    def __post_init__(self) -> None:
        for name in ("season", "horizon", "history", "min_points"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.freq is not None:
            frequency_unit(self.freq)
        if self.zone is not None:
            tz(self.zone)

    @property
    def columns(self) -> Columns:
        names = ("time", "target", "id", "freq", "zone", "dates", "decimal", "resample",
                 "skip_bad", "min_points")  # fmt: skip
        return Columns(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class SeriesSampleOptions:
    horizon: int | None = _option("Points to forecast; default: the horizon of training.")
    paths: int = _option("Sample paths from which quantiles are computed.", 100)
    plot: str | None = field(
        default=None,
        metadata={"help": "Plot history and forecast to a file: .png, .svg or .pdf.", "file": True},
    )
    allow_negative: bool = _option("Let forecasts be negative where no value was.", False)
    guard_formulas: bool = _option(
        "Write ' before ids that a spreadsheet would take for a formula.", False
    )

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise ConfigError(f"--paths {self.paths}: must be at least 1")
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(f"--horizon {self.horizon}: must be at least 1")
        if self.plot is not None and Path(self.plot).suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--plot {self.plot}: must end in .png, .svg or .pdf")
