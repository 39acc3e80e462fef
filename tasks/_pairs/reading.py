"""Pairs of a source and a target: read from tables, tab-separated lines or two parallel files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...core.data.compressed import plain_name, unpacked
from ...core.data.keyed_random import held_out, key, mix
from ...core.data.scratch import shown
from ...core.data.source import Source
from ...core.data.tables import TableSource, as_text
from ...core.errors import DataError, UsageError

COLUMNS = ("source", "target")  # the columns of a table, unless options name others


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts in memory. skipped: rows without a source or a target."""

    sources: list[str]
    targets: list[str]
    about: str
    skipped: int = 0

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]], about: str, skipped: int = 0) -> Pairs:
        some = list(pairs)
        return cls([source for source, _ in some], [target for _, target in some], about, skipped)

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return zip(self.sources, self.targets, strict=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for source, target in self:
            digest.update(f"{source}\0{target}\0".encode())
        return digest.hexdigest()

    @functools.cached_property
    def size(self) -> int:
        """Bytes of all targets."""
        return sum(len(target.encode()) for target in self.targets)

    def chosen(self, which: npt.NDArray[np.bool_]) -> Pairs:
        """The pairs for which `which` (N,) is true."""
        kept = np.flatnonzero(which).tolist()
        return Pairs(
            [self.sources[n] for n in kept],
            [self.targets[n] for n in kept],
            f"{len(kept):,} of {len(self):,} pairs",
        )

    def split(self, fraction: float, purpose: str) -> tuple[Pairs, Pairs]:
        """(the rest, about `fraction` of the pairs) by a hash of the source, so that pairs of one
        source stay together. DataError if all sources are equal."""
        numbers = [hashlib.blake2b(s.encode(), digest_size=8).digest() for s in self.sources]
        hashes = np.frombuffer(b"".join(numbers), "<u8")
        random = mix(hashes, key("pairs", purpose)) / 2.0**64
        held = held_out(random, fraction)
        if not held.any():
            raise DataError(
                f"--data {self.about}: one source, need at least 2 that differ so that one is held "
                "out; use --valid"
            )
        return self.chosen(~held), self.chosen(held)


def read_pairs(source: Source, names: tuple[str | None, str | None]) -> Pairs:
    """All pairs of the data. names: the columns of source and target; None: `source`, `target`, or
    the only two. DataError for data that are no pairs."""
    parts = [_tab_separated(part) for part in source.parts()]
    if len(parts) == 2 and all(isinstance(part, Path) and not _has_tabs(part) for part in parts):
        if names != (None, None):
            raise UsageError("--source, --target: for columns; two parallel files have none")
        files = [part for part in parts if isinstance(part, Path)]
        found: list[tuple[str | None, str | None]] = [*_parallel(files[0], files[1])]
    else:
        found = [pair for part in parts for pair in _pairs_of(part, names)]
    whole = [(s, t) for s, t in found if s is not None and t is not None]
    if not whole:
        raise DataError(f"--data {source.describe()}: no pairs in it")
    return Pairs.of(whole, source.describe(), len(found) - len(whole))


def _tab_separated(part: Path | TableSource) -> Path | TableSource:
    """A .tsv file as the lines that it is: its quotes mean nothing."""
    if isinstance(part, TableSource) and isinstance(part.path, Path):
        if Path(plain_name(part.path)).suffix == ".tsv":
            return part.path
    return part


def _pairs_of(
    part: Path | TableSource, names: tuple[str | None, str | None]
) -> Iterator[tuple[str | None, str | None]]:
    rows = part.rows(literal=True) if isinstance(part, TableSource) else None
    where = part.name if isinstance(part, TableSource) else shown(part)
    if isinstance(part, Path):
        yield from _tab_lines(part, where, names)
        return
    chosen: tuple[str, str] | None = None
    for number, row in rows or ():
        if chosen is None:
            chosen = _columns(list(row), names, where)
        source, target = (
            None if row.get(c) is None else as_text(row[c], f"{where}, row {number}").decode()
            for c in chosen
        )
        yield source, target


def _columns(found: list[str], names: tuple[str | None, str | None], where: str) -> tuple[str, str]:
    """The columns of source and target among those `found`."""
    wanted = tuple(name or usual for name, usual in zip(names, COLUMNS, strict=True))
    if names == (None, None) and len(found) == 2 and set(found) != set(COLUMNS):
        wanted = tuple(found)
    for flag, column in zip(COLUMNS, wanted, strict=True):
        if column not in found:
            raise DataError(
                f"--data {where}: no column {column!r}; choose one with --{flag}: "
                f"{', '.join(found)}"
            )
    return wanted[0], wanted[1]


def _tab_lines(
    path: Path, where: str, names: tuple[str | None, str | None]
) -> Iterator[tuple[str, str]]:
    """Lines of two cells; or, after a heading with the wanted columns, of more."""
    wanted = [name or usual for name, usual in zip(names, COLUMNS, strict=True)]
    at, count = (0, 1), 2
    for number, line in enumerate(_lines(path, where), 1):
        cells = line.split("\t")
        if number == 1 and all(column in cells for column in wanted):
            at, count = (cells.index(wanted[0]), cells.index(wanted[1])), len(cells)
            continue
        if number == 1 and names != (None, None):
            _columns(cells, names, where)
        if not line:
            continue
        if len(cells) != count:
            raise DataError(
                f"--data {where}, line {number}: {len(cells)} cells, need {count}: source, tab, "
                "target (or name two parallel files, sources first)"
            )
        yield cells[at[0]], cells[at[1]]


def _parallel(one: Path, other: Path) -> Iterator[tuple[str, str]]:
    """The lines of two files, each a source and its target. DataError for unequal numbers."""
    sources, targets = (list(_lines(path, shown(path))) for path in (one, other))
    if len(sources) != len(targets):
        raise DataError(
            f"--data {shown(one)} has {len(sources):,} lines, {shown(other)} {len(targets):,}: "
            "parallel files need as many"
        )
    yield from zip(sources, targets, strict=True)


def _has_tabs(path: Path) -> bool:
    return "\t" in next(_lines(path, shown(path)), "")


def _lines(path: Path, where: str) -> Iterator[str]:
    """The lines of a file, without their ends. DataError for bytes that are not UTF-8."""
    with unpacked(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"--data {where}, line {number}: not UTF-8 text ({error.reason})"
                ) from None
            yield text.removesuffix("\n").removesuffix("\r")
