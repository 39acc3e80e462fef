"""Time series: probabilistic forecasts as sample paths, with the usual forecast metrics."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Collection as Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core import task
from ..core.config import SampleConfig
from ..core.data.source import Source
from ..core.errors import ConfigError, DataError, UsageError
from ..core.progress import tracked
from ..core.protocols import Dataset, Ids, Sequence
from ..core.task import DataWarning, Description, ignored
from ..core.terms import Terms
from ..tokenizers._scales import Values
from ..tokenizers.bins import BinsTokenizer, Window, parse
from ._series import linear
from ._series.baselines import floors
from ._series.cases import CHUNK, forecast_cases, forecast_cost
from ._series.clock import COUNT
from ._series.collection import Collection, Series, fingerprint, follow, halves, split
from ._series.covariates import fit_covariates, with_calendar, without_future
from ._series.doubts import doubts
from ._series.forecast_table import write_paths
from ._series.frequency import find_season, season_and_horizon
from ._series.illustration import illustration, labels
from ._series.options import (
    SeriesEvalOptions,
    SeriesOptions,
    SeriesSampleOptions,
    parse_quantiles,
    parse_weights,
)
from ._series.output import Forecast, escape_formula, write_values
from ._series.plot import fan, plot
from ._series.prompts import Prompt, prompts_of_file, prompts_of_heldout, with_future
from ._series.reader import Read, common_frequency, read
from ._series.reading import lines, names_of, record, summary
from ._series.scores import EVALUATION_PATHS, evaluated, terms
from ._series.training_rows import Windows
from ._series.window_plot import window_plot
from ._series.windows import (
    adjacent_windows,
    codes_of,
    season_side,
    side_of_codes,
    slide,
    training_windows,
)

NUMBER_OR_TIME = re.compile(
    r"-?\d*\.?\d+([eE][-+]?\d+)?|\d{4}[-/]\d{1,2}([-/]\d{1,2})?([T ][\d:.]+.*)?"
)
DEFAULT_HOLDOUT = 0.1  # the fraction of each series that is held out
SMALL_DATA_DROPOUT = 0.1  # where `Collection.is_small`
HISTORY_SEASONS = 8  # in the history of a window
MIN_HISTORY, MAX_HISTORY = 64, 512  # points of history by default
TRAINING_POINTS = 2000  # of history, to which slow baselines are fitted in training


class SeriesTask(task.Task):
    name = "series"
    about = "time series: forecasts with quantiles, from CSV, .tsf and parquet"
    unit = "point"
    default_tokenizer = "bins"
    Options = SeriesOptions
    SampleOptions = SeriesSampleOptions
    EvalOptions = SeriesEvalOptions
    options: SeriesOptions
    floor_unit = ""  # the name of a floor includes its metric
    headline = ("mase", "wql")
    slides = True
    draws_files = True
    lenient = {"resample": True}

    @classmethod
    def claims(cls, path: Path, head: bytes) -> float:
        """.tsf, or a table of mostly numbers."""
        if path.name.removesuffix(".gz").endswith(".tsf"):
            return 0.95
        if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
            return 0.0
        rows = head.decode("utf-8", "replace").splitlines()[1:21]
        cells = [cell.strip(' "') for row in rows for cell in row.replace(";", ",").split(",")]
        numbers = sum(NUMBER_OR_TIME.fullmatch(cell) is not None for cell in cells)
        return 0.8 if len(cells) > len(rows) and numbers > 0.4 * len(cells) else 0.0

    def default_source(self) -> Source:
        """Weekly CO2 at Mauna Loa, a data set of statsmodels, which is located but not imported."""
        spec = importlib.util.find_spec("statsmodels")
        folders = (spec.submodule_search_locations or []) if spec else []
        paths = [Path(folder) / "datasets" / "co2" / "co2.csv" for folder in folders]
        found = [path for path in paths if path.exists()]
        if not found:
            raise DataError("the CO2 record of statsmodels is not installed; give --data FILE")
        about = "weekly CO2 at Mauna Loa 1958-2001 (statsmodels)"
        return Source((str(found[0]),), about=about)

    # -- items ---------------------------------------------------------------------------------

    def items(self, source: Source) -> Collection:
        found = read(source, self.options.columns)
        known = names_of(self.options.known)
        found.series = [without_future(one, known) for one in found.series]
        if self.options.calendar:
            found.series = [with_calendar(one) for one in found.series]
        return self._collect(found, source.describe())

    def _collect(self, found: Read, about: str) -> Collection:
        options, series = self.options, [self._with_season(one) for one in found.series]
        freq = options.freq or common_frequency(series)
        known = season_and_horizon(freq)
        season = options.season or (known[0] if known else find_season([s.values for s in series]))
        horizon = options.horizon or (known[1] if known else 2 * season if season > 1 else 24)
        season_from = "--season" if options.season else "the frequency" if known else "the values"
        of_file = any(reading.layout == "tsf" for reading in found.readings)
        freq_from = "--freq" if options.freq else "the file" if of_file else "the times"
        facts = {
            "frequency": freq,
            "frequency_from": freq_from if freq else None,
            "season": season,
            "season_from": season_from if season > 1 else None,
            "seasons": sorted({one.season or season for one in series}),
            "horizon": horizon,
            "series": len(series),
            "points": sum(map(len, series)),
            "missing": sum(int(np.isnan(one.values).sum()) for one in series),
            "too_short_to_score": sum(len(one) <= 2 * horizon for one in series),
        }
        said = Description(
            (*lines(found.readings), summary(facts)), {**facts, "files": record(found.readings)}
        )
        return Collection(
            tuple(series), (0,) * len(series), season, horizon, fingerprint(series), about, said
        )

    def _weighted(self, train: Collection) -> Collection:
        """Training data with the weights of its files. ConfigError where there are not as many."""
        weights = parse_weights(self.options.weights)
        files = len(train.description.record["files"]) if train.description else 1
        if weights and len(weights) != files:
            raise ConfigError(
                f"--weights {self.options.weights}: {len(weights)} numbers for {files} files"
            )
        return replace(train, weights=weights)

    def _with_season(self, series: Series) -> Series:
        """The series with the season of its own frequency, unless --season holds for all."""
        known = None if series.clock.form == COUNT else season_and_horizon(series.clock.freq)
        return replace(series, season=0 if self.options.season or not known else known[0])

    def describe(self, items: Collection) -> Description | None:
        return items.description

    @classmethod
    def init_options(cls, options: SeriesOptions, tokenizer: BinsTokenizer) -> dict[str, object]:
        kept = {name: getattr(tokenizer, name) for name in ("season", "horizon", "history")}
        names: dict[str, list[str]] = {}
        for one in tokenizer.covariates.each:
            names.setdefault(one.kind, []).append(one.name)
        kept |= {kind: ",".join(names[kind]) for kind in ("past", "known") if kind in names}
        return {**kept, "calendar": "calendar" in names}

    def adapt(self, tokenizer: BinsTokenizer) -> BinsTokenizer:
        known = self.init_options(self.options, tokenizer)
        for name in ("past", "known", "calendar"):
            if getattr(self.options, name) != known.get(name):
                raise ConfigError(
                    f"--{name}: the run of --init has other covariates; leave --past, --known and "
                    "--calendar to it"
                )
        state, arrays = tokenizer.state()
        asked = {name: getattr(self.options, name) for name in ("season", "horizon", "history")}
        changed = {name: value for name, value in asked.items() if value}
        if changed.get("season", tokenizer.season) != tokenizer.season:
            arrays.pop("linear", None)  # its forecasts start from the last season
        return BinsTokenizer.from_state({**state, **changed}, arrays)

    def split(self, items: Collection, holdout: float | None) -> tuple[Collection, Collection]:
        return split(items, DEFAULT_HOLDOUT if holdout is None else holdout)

    def halves(self, held: Collection) -> tuple[Collection, Collection]:
        return halves(held)

    def follow(
        self, train: Collection, held: Collection, between: Collection | None = None
    ) -> Collection:
        held = replace(held, season=train.season, horizon=train.horizon)
        return follow(train, held, between)

    def history(self, items: Collection) -> int:
        """Points of history in a window: several seasons, as far as the longest series allows."""
        if self.options.history:
            return self.options.history
        season = max([items.season, *(one.season for one in items.series)])
        wanted = max(HISTORY_SEASONS * season, 2 * items.horizon, MIN_HISTORY)
        if wanted > MAX_HISTORY:
            wanted = max(MAX_HISTORY // season * season, min(2 * season, 2 * MAX_HISTORY))
        longest = max(len(one) for one in items.series)
        return max(1, min(wanted, longest - items.horizon))

    # -- ids -----------------------------------------------------------------------------------

    def fit_tokenizer(self, spec: str, train: Collection) -> BinsTokenizer:
        parse(spec)
        windows = Windows(self._weighted(train), None, self.history(train))
        sample = np.linspace(0, len(windows) - 1, min(len(windows), 2000)).astype(np.int64)
        values, history = windows.rows(sample)
        seasons = windows.seasons_of(sample)
        shape = train.season, windows.history
        found = BinsTokenizer.fit(spec, values, history, *shape, seasons=seasons)
        past, known = names_of(self.options.past), names_of(self.options.known)
        covariates = fit_covariates(train.series, past, known, self.options.calendar)
        coefficients = linear.fit(train, windows.history, train.season)
        state, arrays = found.state()
        if coefficients is not None:
            arrays["linear"] = coefficients
        return BinsTokenizer.from_state({**state, "covariates": covariates.state()}, arrays)

    def defaults(self, train: Collection, tokenizer: BinsTokenizer) -> dict[str, dict[str, object]]:
        """A batch has few windows, and the points within a window are correlated. So the learning
        rate and the momentum are lower, and weight decay is small. Small data sets are repeated
        often, which dropout keeps from overfitting."""
        return {
            "model": {"dropout": SMALL_DATA_DROPOUT if train.is_small else 0.0},
            "train": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
        }

    def longest(self, train: Collection, tokenizer: BinsTokenizer) -> int:
        return 1 + tokenizer.history + tokenizer.horizon

    def dataset(
        self,
        train: Collection,
        tokenizer: BinsTokenizer,
        context: int,
        tokens: int | None,
        seed: int,
        cache: Path,
    ) -> Dataset:
        history, horizon = tokenizer.history, tokenizer.horizon
        if context < history + horizon:
            raise UsageError(
                f"a context of {context} tokens is shorter than a window of {history} points of "
                f"history and {horizon} of horizon; use a shorter --history or --horizon, or a "
                f"--context of {history + horizon} (a run started with --init keeps its own)"
            )
        train = replace(self._weighted(train), horizon=horizon)
        return Windows(train, tokenizer, history, seed)

    def sequences(self, items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
        """Windows whose horizons cover the held-out points without overlap."""
        return adjacent_windows(items, tokenizer)

    def slide(
        self, sequences: Iterable[Sequence], tokenizer: BinsTokenizer, stride: int
    ) -> list[Sequence]:
        return slide(sequences, tokenizer, stride)

    # -- scores --------------------------------------------------------------------------------

    def floor(self, train: Collection, held: Collection) -> dict[str, float]:
        """No scores: baselines are scored on the windows of the model, by `window_floor`."""
        return {}

    def window_floor(
        self,
        read_train: Callable[[], Collection | None],
        windows: Iterable[Sequence],
        tokenizer: BinsTokenizer,
        protocol: str | None,
        quick: bool = False,
        note: Callable[[str], None] = ignored,
        evaluation: Any = None,
    ) -> dict[str, float]:
        train = read_train()
        if train is not None:
            train = replace(train, season=tokenizer.season, horizon=tokenizer.horizon)
        negative = self.options.allow_negative
        cases = forecast_cases(windows, protocol, tokenizer, negative)
        limit = (evaluation or SeriesEvalOptions()).baseline_seconds
        return floors(train, cases, tokenizer.season, tokenizer.history, quick, note, limit)

    def baselines(
        self,
        train: Collection,
        held: Collection,
        windows: Iterable[Sequence],
        tokenizer: BinsTokenizer,
        quick: bool,
    ) -> tuple[dict[str, float], bool]:
        """In training, baselines that are fitted to each series are left to `eval` if they would
        take more than about a second."""
        points = sum(tokenizer.history for window in windows if window.side["last"])
        quick = quick or points > TRAINING_POINTS
        return super().baselines(train, held, windows, tokenizer, quick)

    def units(self, sequences: Iterable[Sequence]) -> dict[str, float]:
        return {"point": sum(int((s.target_weight() > 0).sum()) for s in sequences)}

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        return forecast_cost(sequences, protocol, EVALUATION_PATHS)

    def model_metrics(
        self,
        model: Any,
        tokenizer: BinsTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: SeriesEvalOptions,
    ) -> dict[str, Any]:
        """Forecast metrics. Protocol `last`: the last window of each series, in its own units;
        `rolling`: all windows, z-scored by the statistics of the training part."""
        negative = self.options.allow_negative
        cases = forecast_cases(sequences, protocol, tokenizer, negative)
        return {**evaluated(model, tokenizer, cases, evaluation), "protocol": protocol or "last"}

    def measures(self, tokenizer: BinsTokenizer) -> dict[str, bool]:
        return dict.fromkeys(("mase", "wql", "crps"), False)

    def terms(
        self,
        model: Any,
        tokenizer: BinsTokenizer,
        sequences: Iterable[Sequence],
        protocol: str | None,
    ) -> Terms:
        negative = self.options.allow_negative
        cases = forecast_cases(sequences, protocol, tokenizer, negative)
        return terms(model, tokenizer, cases)

    # -- samples -------------------------------------------------------------------------------

    def draw(
        self,
        model: Any,
        tokenizer: BinsTokenizer,
        data: bytes | None,
        heldout: Iterable[Sequence],
        config: SampleConfig,
        sampling: SeriesSampleOptions,
        note: Callable[[str], None],
    ) -> list[Forecast]:
        """Forecasts of the series in `data`, or else of the run's held-out series."""
        horizon = sampling.horizon or config.length or tokenizer.horizon
        if data is not None:
            columns, covariates = self.options.columns, tokenizer.covariates
            prompts = prompts_of_file(data, columns, heldout, covariates, note)
            prompts = [replace(p, series=self._with_season(p.series)) for p in prompts]
        else:
            prompts = prompts_of_heldout(heldout)
        known = None if sampling.known_data is None else Path(sampling.known_data)
        prompts = with_future(prompts, tokenizer, horizon, known, self.options.columns, note)
        paths = self._paths(model, tokenizer, prompts, horizon, config, sampling, note)
        if not (self.options.allow_negative or sampling.allow_negative):
            below = [p.nonnegative and bool((paths[i] < 0).any()) for i, p in enumerate(prompts)]
            for index in np.flatnonzero(below):
                np.maximum(paths[index], 0, out=paths[index])
            if any(below):
                note(
                    f"{sum(below):,} series never were negative: their forecasts end at 0 "
                    "(--allow-negative lets them go below)"
                )
        quantiles = parse_quantiles(sampling.quantiles)
        return [
            Forecast(p.series.id, p.series.values, sampled, p.series.clock, p.first, quantiles)
            for p, sampled in zip(prompts, paths, strict=True)
        ]

    def _paths(
        self,
        model: Any,
        tokenizer: BinsTokenizer,
        prompts: list[Prompt],
        horizon: int,
        config: SampleConfig,
        sampling: SeriesSampleOptions,
        note: Callable[[str], None],
    ) -> Values:
        """(series, paths, horizon) sampled values. A forecast after a gap passes through it."""
        from ._series.forecast import forecast_values

        paths = np.empty((len(prompts), sampling.paths, horizon))
        by_gap: dict[int, list[tuple[int, Window]]] = {}
        alone = 0  # without a forecast of ridge regression
        for index, prompt in enumerate(prompts):
            season = prompt.series.season or tokenizer.season
            part, gap = prompt.history(tokenizer.history, season, horizon)
            name = f"{prompt.series.id}/{prompt.first}"  # the same paths as in `eval`
            window = prompt.window(part, {"id": name})
            by_gap.setdefault(gap, []).append((index, window))
            if sampling.ridge and tokenizer.linear is not None:
                found = linear.forecast(tokenizer.linear, window.values, tokenizer.season, 1)
                alone += found is None
        if alone:
            note(
                f"{alone:,} series have missing values or too short a history for --ridge: their "
                "forecasts are of the model alone"
            )
        parts = [
            (gap, group[start : start + CHUNK])
            for gap, group in by_gap.items()
            for start in range(0, len(group), CHUNK)
        ]
        for gap, group in tracked(parts, len(parts), f"groups of {CHUNK} forecasts"):
            windows = [window for _, window in group]
            sampled = forecast_values(
                model, tokenizer, windows, gap + horizon, sampling.paths, config, sampling.ridge
            )
            paths[[index for index, _ in group]] = sampled[:, :, gap:]
        return paths

    def write(
        self, items: list[Forecast], prompt: Any, sampling: SeriesSampleOptions, out: BinaryIO
    ) -> None:
        """CSV with id, time, mean and the quantiles."""
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["id", "time", "mean", *parse_quantiles(sampling.quantiles)])
        for item in items:
            for name, *cells in item.rows():
                table.writerow([escape_formula(name) if sampling.guard_formulas else name, *cells])
        out.write(text.getvalue().encode())

    def plot(self, items: list[Forecast], sampling: SeriesSampleOptions) -> None:
        if sampling.paths_out:
            write_paths(Path(sampling.paths_out), items, sampling.guard_formulas)
        if sampling.plot:
            plot(items, Path(sampling.plot))

    def preview(
        self, items: list[Forecast], prompt: Any, sampling: SeriesSampleOptions, width: int
    ) -> str | None:
        return "\n\n".join(fan(item, width) for item in items[:3])

    # -- what a person sees of ids -------------------------------------------------------------

    def to_read(
        self, data: bytes, tokenizer: BinsTokenizer, note: Callable[[str], None]
    ) -> Sequence:
        """The last points of the first series in a file, all of them history."""
        prompts = prompts_of_file(data, self.options.columns, (), tokenizer.covariates, note)
        if len(prompts) > 1:
            note(f"{len(prompts):,} series; shown: {prompts[0].series.id}")
        series = prompts[0].series
        part, gap = prompts[0].history(tokenizer.history, tokenizer.season, tokenizer.horizon)
        about = {"id": series.id, "first": prompts[0].first - gap, **series.clock.side()}
        return tokenizer.encode(prompts[0].window(part, about))

    def token_labels(self, ids: Ids, tokenizer: BinsTokenizer) -> list[str]:
        return labels(ids, tokenizer)

    def illustration(
        self, sequence: Sequence, tokenizer: BinsTokenizer, guesses: Ids, ids: Ids
    ) -> dict[str, Any]:
        return illustration(sequence, tokenizer)

    def show(self, sequence: Sequence, tokenizer: BinsTokenizer, width: int, colour: bool) -> str:
        """A plot of the decoded values over their bins, history and horizon apart."""
        names = labels(sequence.ids, tokenizer)
        return window_plot(sequence, names, tokenizer, width, colour)

    def comparison(self, tokenizer: BinsTokenizer) -> str:
        return "none"  # windows are cut from series: `data_warnings` compares those

    def examined(self, items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
        """Windows side by side."""
        return training_windows(items, tokenizer)

    def data_warnings(
        self, train: Collection, held: Mapping[str, Sized[Sequence]], tokenizer: BinsTokenizer
    ) -> Iterator[DataWarning]:
        return doubts(train, held)

    # -- tokenize and detokenize ---------------------------------------------------------------

    def tokenize(self, items: Collection, tokenizer: BinsTokenizer) -> Iterator[Sequence]:
        """Each series as one sequence in which every point is history."""
        for one in items.series:
            about = {"id": one.id, **one.clock.side(), **season_side(one)}
            codes = codes_of(one, tokenizer.covariates)
            about |= side_of_codes(codes, 0, len(one), 0, tokenizer.covariates)
            yield tokenizer.encode(Window(one.values, len(one), about))

    def write_decoded(
        self, decoded: Iterable[tuple[Window, Sequence]], tokenizer: BinsTokenizer, out: BinaryIO
    ) -> None:
        write_values(((window, sequence.side) for window, sequence in decoded), out)


Task = SeriesTask
