"""Series from files: CSV wide or long, one series a row, .tsf (Monash), parquet and hub tables."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.data.compressed import unpacked
from ...core.data.scratch import shown
from ...core.data.source import Source
from ...core.data.tables import TableSource
from ...core.errors import DataError
from ...core.protocols import Ids
from ...tokenizers._covariates import Column as Covariate
from ...tokenizers._scales import Values
from .clock import Clock
from .collection import Series
from .delimited import read_table
from .encoding import Content, as_utf8
from .grid import Gridder, Group
from .id_columns import group_rows
from .inference import spaced
from .numbers import Numbers
from .reading import Columns, Reading, names_of
from .roles import Roles, calendar_columns, find_roles
from .side_columns import SideColumn
from .stamps import Times, read_times
from .table import Table, from_frame
from .time_columns import looks_named_as_time
from .transposed import is_heading, series_rows, times_of_heading
from .tsf import from_tsf, is_tsf


@dataclass
class Read:
    """Series, and how each file was read."""

    series: list[Series] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)


def read(source: Source, columns: Columns) -> Read:
    """Every series of the source. DataError where one cannot be read, or none has values."""
    if any(path.startswith("hf:") for path in source.paths):
        import pandas as pd

        rows = [
            row
            for part in source.parts()
            if isinstance(part, TableSource)
            for _, row in part.rows()
        ]
        table = from_frame(pd.DataFrame(rows), source.describe())
        return _checked(_from_table(table, columns), columns)
    files = source.files()
    out = Read()
    for number, (path, prefix) in enumerate(zip(files, _prefixes(files), strict=True)):
        try:
            found = _parse(Content.of(unpacked(path)), shown(path), columns)
        except DataError as error:
            if not (columns.skip_bad and len(files) > 1):
                raise
            name = shown(path)
            found = Read([], [Reading(name, dropped=[(name, str(error))])])
        if prefix:
            found.series = [replace(s, id=f"{prefix}/{s.id}", file=number) for s in found.series]
            for reading in found.readings:
                reading.dropped = [(f"{prefix}/{name}", why) for name, why in reading.dropped]
        out.series += found.series
        out.readings += found.readings
    return _checked(out, columns)


def parse(data: bytes, where: str, columns: Columns) -> Read:
    """The series in the bytes of one file; its format is detected from its content. `where` names
    the file in messages. DataError as for `read`."""
    return _checked(_parse(Content(data), where, columns), columns)


def _prefixes(files: list[Path]) -> list[str]:
    """A name for the series of each of several files: its stem, or its path where stems repeat."""
    if len(files) < 2:
        return [""] * len(files)
    stems = [path.name.split(".")[0] for path in files]
    if len(set(stems)) == len(stems):
        return stems
    folder = os.path.commonpath([path.parent.resolve() for path in files])
    paths = [path.resolve().relative_to(folder) for path in files]
    short = [str(path.parent / path.name.split(".")[0]) for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _checked(read: Read, columns: Columns) -> Read:
    """The series that can be used; the reading has the others. DataError where none remains."""
    reading = read.readings[-1] if read.readings else Reading("--data")
    kept, seen = [], set[str]()
    for one in read.series:
        known = int(np.isfinite(one.values).sum())
        if one.id in seen:
            raise DataError(f"series {one.id} appears twice; give each an id of its own")
        seen.add(one.id)
        if not known:
            reading.dropped.append((one.id, "no value in it"))
        elif known < columns.min_points:
            reading.dropped.append((one.id, f"fewer than --min-points {columns.min_points} values"))
        else:
            kept.append(one)
    if not kept:
        reasons = [f"{name}: {why}" for r in read.readings for name, why in r.dropped]
        why = f" ({reasons[0]})" if reasons else ""
        raise DataError(f"{reading.where}: no usable series{why}")
    read.series = kept
    return read


def _parse(content: Content, where: str, columns: Columns) -> Read:
    if content.head(4) == b"PAR1":
        import pandas as pd

        try:
            frame = pd.read_parquet(io.BytesIO(content.data()))
        except Exception as error:  # pyarrow raises exceptions of its own
            raise DataError(f"{where}: not readable as parquet ({error})") from error
        return _from_table(from_frame(frame, where), columns)
    content, encoding = as_utf8(content, where)
    if is_tsf(content):
        _refuse_sides(where, columns)
        series, notes = from_tsf(content.text(), where, columns)
        reading = Reading(where, encoding, layout="tsf", notes=notes)
        return Read(series, [reading])
    found = _from_table(read_table(content, where, is_heading), columns)
    found.readings[0].encoding = encoding
    return found


def read_known(path: Path, columns: Columns) -> dict[str, Series]:
    """The --known columns of a table, by the id of the series that they belong to; "" in a table
    without ids. The values of these series are missing."""
    wanted = replace(columns, target=None, past=None, future=True)
    try:
        found = _parse(Content.of(unpacked(path)), shown(path), wanted)
    except OSError as error:
        raise DataError(f"--known-data {path}: {error.strerror}") from None
    return {one.id: one for one in found.series}


# -- tables --------------------------------------------------------------------------------------


def _from_table(table: Table, columns: Columns) -> Read:
    """The series of a table: long (with ids), wide, or one series a row."""
    if not len(table.lines):
        raise DataError(f"{table.where}: no rows below its heading")
    reading = Reading(table.where, delimiter=table.delimiter, notes=table.notes)
    heading = None if columns.time else times_of_heading(table)
    if heading is not None:
        _refuse_sides(table.where, columns)
        return _transposed(table, columns, reading, heading)
    roles = find_roles(table, columns)
    reading.left_out = roles.left_out
    size = len(table.lines)
    reading.id = tuple(column.name for column in roles.ids)
    if roles.ids and roles.time is None and len(roles.ids) == 1:
        names = roles.ids[0]
        if not names.repeats() and (len(roles.targets) > 1 or size == 1):
            _refuse_sides(table.where, columns)
            return _one_series_a_row(table, roles, reading)
    groups = group_rows(roles.ids, size)
    blank = next((rows for name, rows in groups if roles.ids and not name), None)
    if blank is not None:
        raise DataError(
            f"{table.where}: row {table.lines[blank[0]]} has no id in {', '.join(reading.id)}"
        )
    times = None
    if roles.time is None and table.has_heading:
        hint = looks_named_as_time(table)
        reading.notes.append(
            "no column of times was found"
            + (f"; if {hint.name} holds them, write them as 2024-01-31" if hint else "")
        )
    if roles.time is not None:
        rows = [rows for _, rows in groups]
        times = read_times(
            table, roles.time, columns.dates, columns.zone, spaced(rows), _equal_steps(rows)
        )
        reading.time = roles.time_name
        reading.zone, reading.zone_from = times.zone, times.zone_from
        if times.stamps is not None and not columns.target and not times.stamps.hasnans:
            for column in calendar_columns(roles.targets, times.stamps):
                reading.left_out.append((column.name, "a part of the time"))
                roles.targets = [t for t in roles.targets if t[0] is not column]
    if columns.zone and (times is None or times.stamps is None):
        raise DataError(f"{table.where}: --zone: there are no times that could be in a time zone")
    reading.layout = "long" if roles.ids else "wide"
    reading.target = tuple(column.name for column, _ in roles.targets)
    for _, values in roles.targets:
        reading.marks |= set(values.marks)
    targets, sides = roles.targets, roles.sides
    reading.past, reading.known = (tuple(names_of(n)) for n in (columns.past, columns.known))
    del roles
    table = replace(table, columns=[])  # frees the text of ids and times
    series = list(_series(table, columns, groups, targets, sides, times, reading))
    return Read(series, [reading])


def _refuse_sides(where: str, columns: Columns) -> None:
    if columns.past or columns.known:
        raise DataError(f"{where}: --past, --known: a file with a series a row has no such columns")


def _equal_steps(groups: list[Ids]) -> Callable[[Values], bool]:
    def check(counts: Values) -> bool:
        for rows in groups:
            steps = np.diff(counts[rows])
            if len(steps) and not (steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)):
                return False
        return bool(np.isfinite(counts).all())

    return check


def _series(
    table: Table,
    columns: Columns,
    groups: list[tuple[str, Ids]],
    targets: list[tuple[Any, Numbers]],
    sides: list[SideColumn],
    times: Times | None,
    reading: Reading,
) -> Iterator[Series]:
    """The series of each group of rows and each column of values."""
    named = [
        Group(rows, f"{table.where}: series {name}" if name else table.where)
        for name, rows in groups
    ]
    grid = None
    if times is not None:
        grid = Gridder(times, table.lines, columns.freq, columns.resample)
        grid.find_common(named)
    beside = _Beside(sides, grid)
    for column, numbers in targets:
        for (name, _), group in zip(groups, named, strict=True):
            parts = (name, column.name if len(targets) > 1 or not name else "")
            label = "/".join(part for part in parts if part)
            values, clock = group.of(numbers.values), Clock(None, columns.freq)
            if grid is not None:
                try:
                    values, clock = grid.regular(group, values)
                except DataError as error:
                    if not columns.skip_bad:
                        raise
                    reading.dropped.append((label, str(error).removeprefix(f"{group.where}: ")))
                    continue
            yield Series(label, values, clock, beside(group))
    if grid is not None:
        reading.averaged, reading.filled = grid.averaged, grid.filled
    if grid is not None and grid.averaged:
        reading.notes.append(f"--resample averaged points that share a step: {grid.averaged:,}")
    if grid is not None and grid.filled:
        reading.notes.append(f"--resample marked steps without points as missing: {grid.filled:,}")


class _Beside:
    """The covariates of the series of a group of rows, which all columns of values share."""

    def __init__(self, sides: list[SideColumn], grid: Gridder | None) -> None:
        self.sides, self.grid = sides, grid
        self.found: dict[int, dict[str, Covariate]] = {}

    def __call__(self, group: Group) -> dict[str, Covariate]:
        def rows(values: Values) -> Values:
            own: Values = group.of(values)
            return own if self.grid is None else self.grid.regular(group, own)[0]

        if self.sides and id(group) not in self.found:
            self.found[id(group)] = {side.name: side.of(rows) for side in self.sides}
        return self.found.get(id(group), {})


def _one_series_a_row(table: Table, roles: Roles, reading: Reading) -> Read:
    """The M4 format: an id, then the values. Empty cells after the last value are not points."""
    columns = np.stack([numbers.values for _, numbers in roles.targets], axis=1)
    series = []
    for label, values in zip(roles.ids[0].text(), columns, strict=True):
        known = np.flatnonzero(np.isfinite(values))
        series.append(Series(label, values[: known[-1] + 1] if len(known) else values))
    reading.layout = "rows"
    return Read(series, [reading])


def _transposed(
    table: Table, columns: Columns, reading: Reading, heading: tuple[int, list[str]]
) -> Read:
    """Rows of series whose times are the heading, as years or dates."""
    first, cells = heading
    times, ids, matrix, left_out, marks = series_rows(table, columns, first, cells)
    reading.layout, reading.time = "rows", f"the heading ({cells[0]} to {cells[-1]})"
    reading.id = tuple(column.name for column in ids)
    reading.left_out, reading.marks = left_out, marks
    points = np.arange(len(cells))
    if times.stamps is not None and len(points) > 1 and (np.diff(times.stamps.asi8) < 0).all():
        points = points[::-1]
        reading.notes.append("the times of the heading descend: they were reversed")
    grid = Gridder(times, np.ones(len(cells), np.int64), columns.freq, columns.resample)
    grid.find_common([Group(points, table.where)])
    series = []
    for name, rows in group_rows(ids, len(table.lines)):
        if len(rows) > 1:
            raise DataError(
                f"{table.where}: row {table.lines[rows[1]]}: series {name} appears twice; name the "
                "columns that tell rows apart with --id A,B"
            )
        where = f"{table.where}: the heading"
        values, clock = grid.regular(Group(points, where), matrix[rows[0]][points])
        series.append(Series(name, values, clock))
    return Read(series, [reading])


def common_frequency(series: list[Series]) -> str | None:
    """The frequency of most series; None for counts and without times."""
    found: Counter[str] = Counter()
    for one in series:
        if one.clock.freq and one.clock.form != "count":
            found[one.clock.freq] += 1
    return found.most_common(1)[0][0] if found else None
