"""The options of the series task in training and in sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import ConfigError
from .frequency import frequency_unit
from .metrics import QUANTILES
from .reading import Columns, names_of
from .stamps import DAY_ORDERS
from .zones import tz

DEFAULT_QUANTILES = ",".join(map(str, QUANTILES))
TABLE_SUFFIXES = (".csv", ".parquet")
RIDGE = "Move each forecast this part of the way to that of ridge regression, 0 to 1."


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
    weights: str | None = _option("Shares of the training windows from each file, such as 2,1,1.")
    past: str | None = _option("Columns known until the forecast begins, separated by commas.")
    known: str | None = _option("Columns also known of the future: prices, holidays ...")
    calendar: bool = _option(
        "Let the model read the hour, weekday, month ... of each point.", False
    )

    def __post_init__(self) -> None:
        named: dict[str, str] = {}
        for flag in ("time", "id", "target", "past", "known"):
            for name in names_of(getattr(self, flag)):
                if named.setdefault(name, flag) != flag and flag in ("past", "known"):
                    raise ConfigError(f"--{named[name]}, --{flag}: {name} is named in both")
        for name in ("season", "horizon", "history", "min_points"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        parse_weights(self.weights)
        if self.freq is not None:
            frequency_unit(self.freq)
        if self.zone is not None:
            tz(self.zone)

    @property
    def columns(self) -> Columns:
        names = ("time", "target", "id", "freq", "zone", "dates", "decimal", "resample",
                 "skip_bad", "min_points", "past", "known")  # fmt: skip
        return Columns(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class SeriesSampleOptions:
    horizon: int | None = _option("Points to forecast; default: the horizon of training.")
    known_data: str | None = _option("A table with the --known columns of the points to forecast.")
    paths: int = _option("Sample paths from which quantiles are computed.", 100)
    quantiles: str = _option("Quantiles to write, as 0.025,0.5,0.975.", DEFAULT_QUANTILES)
    paths_out: str | None = field(
        default=None,
        metadata={
            "help": "Write the sample paths as well, a column each: .csv, .parquet.",
            "file": True,
        },
    )
    ridge: float = _option(RIDGE, 0.0)
    plot: str | None = field(
        default=None,
        metadata={"help": "Plot history and forecast to a file: .png, .svg or .pdf.", "file": True},
    )
    allow_negative: bool = _option("Let forecasts be negative where no value was.", False)
    guard_formulas: bool = _option(
        "Write ' before ids that a spreadsheet would take for a formula.", False
    )

    def __post_init__(self) -> None:
        _check_paths(self.paths)
        _check_ridge(self.ridge)
        if self.horizon is not None and self.horizon < 1:
            raise ConfigError(f"--horizon {self.horizon}: must be at least 1")
        _check_suffix("--plot", self.plot, (".png", ".svg", ".pdf"))
        _check_suffix("--paths-out", self.paths_out, TABLE_SUFFIXES)
        parse_quantiles(self.quantiles)


@dataclass(frozen=True)
class SeriesEvalOptions:
    by: str | None = field(
        default=None,
        metadata={
            "help": "Also print the scores of each series, or of each step ahead.",
            "choices": ("series", "step"),
        },
    )
    forecasts: str | None = field(
        default=None,
        metadata={
            "help": "Write the forecasts with the actual values: .csv, .parquet.",
            "file": True,
        },
    )
    paths: int = _option("Sample paths of each forecast.", 100)
    ridge: float = _option(RIDGE, 0.0)
    baseline_seconds: float = _option("Time limit of each slow baseline; 0: none of them.", 10.0)
    quantiles: str = _option("Quantiles in --forecasts, as 0.025,0.5,0.975.", DEFAULT_QUANTILES)
    guard_formulas: bool = _option(
        "Write ' before ids that a spreadsheet would take for a formula.", False
    )

    def __post_init__(self) -> None:
        _check_paths(self.paths)
        _check_ridge(self.ridge)
        if not self.baseline_seconds >= 0:
            raise ConfigError(f"--baseline-seconds {self.baseline_seconds}: must be at least 0")
        _check_suffix("--forecasts", self.forecasts, TABLE_SUFFIXES)
        parse_quantiles(self.quantiles)


def _check_paths(paths: int) -> None:
    if paths < 1:
        raise ConfigError(f"--paths {paths}: must be at least 1")


def _check_ridge(ridge: float) -> None:
    if not 0 <= ridge <= 1:
        raise ConfigError(f"--ridge {ridge}: must be 0 to 1")


def _check_suffix(flag: str, name: str | None, known: tuple[str, ...]) -> None:
    if name is not None and Path(name).suffix not in known:
        raise ConfigError(f"{flag} {name}: must end in {', '.join(known[:-1])} or {known[-1]}")


def parse_quantiles(text: str) -> dict[str, float]:
    """Each quantile by its name in `text`, in order. ConfigError if one is not above 0 and below 1,
    or is named twice."""
    found: dict[str, float] = {}
    for name in (part.strip() for part in text.split(",")):
        try:
            value = float(name)
        except ValueError:
            value = math.nan
        if not 0 < value < 1:
            raise ConfigError(f"--quantiles {text}: {name!r} is not a number between 0 and 1")
        if value in found.values():
            raise ConfigError(f"--quantiles {text}: {name} is named twice")
        found[name] = value
    return found


def parse_weights(text: str | None) -> tuple[float, ...]:
    """The numbers in --weights. ConfigError if one is not 0 or more, or all are 0."""
    try:
        weights = tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError:
        weights = (math.nan,)
    if not all(0 <= weight < math.inf for weight in weights) or (weights and not any(weights)):
        raise ConfigError(f"--weights {text}: must be numbers such as 2,1,1, some above 0")
    return weights
