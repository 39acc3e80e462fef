"""The columns of a large delimited text, block by block with pyarrow: the same as those that are
read row by row, or none where it is not certain that they are the same."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .arrow_columns import MARKS, ArrowColumn, encode, trimmed
from .encoding import BLOCK, Content
from .table import HEAD

BLOCK_ROWS = 2000  # in a block of a table with long rows, which may be of MAX_BLOCK bytes
MAX_BLOCK = 1 << 26
MARK = b"\xef\xbb\xbf"  # of UTF-8, which pyarrow would skip


class _Doubt(Exception):
    """The table must be read row by row."""


class _NotPlain(Exception):
    """A column of numbers holds a cell that is none."""


def columns_of(
    body: Content, delimiter: str, names: list[str], heading: bool
) -> list[ArrowColumn] | None:
    """The columns of `body`, a text in UTF-8 from its heading or first row on. None for a text with
    empty lines or lines inside cells, one in which a row has not one cell a name, and one in
    doubt: read row by row, it is read in the same way or refused with the reason."""
    import pyarrow

    text = _Text(body, delimiter, len(names), heading)
    try:
        kinds, heads = _kinds(text)
        try:
            return _columns(text, names, kinds, heads)
        except _NotPlain:
            kinds = [kind.replace("number", "text") for kind in kinds]
        return _columns(text, names, kinds, heads)
    except (_Doubt, pyarrow.ArrowInvalid, pyarrow.ArrowCapacityError):
        return None


@dataclass
class _Text:
    body: Content
    delimiter: str
    width: int
    heading: bool

    def blocks(self) -> Iterator[bytes]:
        """The text in blocks of whole lines, of which none is empty. _Doubt where one is, or ends
        in another way, or has a quote that is not as it should be: pyarrow does not refuse one
        without its end, or inside a cell."""
        line = self.body.head(BLOCK).find(b"\n")
        ended = False
        for block in self.body.blocks(min(max(BLOCK, BLOCK_ROWS * line), MAX_BLOCK)):
            lines = block.rstrip(b"\r\n")
            if (ended and lines) or lines.startswith((b"\n", b"\r\n", MARK)):
                raise _Doubt
            if b"\n\n" in lines or b"\n\r\n" in lines:
                raise _Doubt
            if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
                raise _Doubt
            ended = not lines or block.count(b"\n", len(lines)) > 1  # empty lines end a text
            if lines:
                yield block

    def parsed(self) -> Iterator[Callable[..., Any]]:
        """For each block: parse(types, null_values) -> a pyarrow table of the columns `types`.
        _Doubt as for `blocks`, and where a row has not `width` cells; _NotPlain where a cell is no
        number and should be one."""
        skip = int(self.heading)
        for block in self.blocks():
            quoted = b'"' in block
            if quoted and not _are_quotes_right(block, self.delimiter):
                raise _Doubt
            yield partial(self._parse, block, quoted, skip)
            skip = 0

    def _parse(
        self, block: bytes, quoted: bool, skip: int, types: dict[int, Any], missing: list[str]
    ) -> Any:
        import pyarrow
        from pyarrow import csv

        keys = [str(at) for at in range(self.width)]
        try:
            return csv.read_csv(
                pyarrow.BufferReader(block),
                csv.ReadOptions(
                    column_names=keys, skip_rows=skip, use_threads=False, block_size=len(block)
                ),
                csv.ParseOptions(delimiter=self.delimiter, quote_char='"' if quoted else False),
                csv.ConvertOptions(
                    column_types={keys[at]: kind for at, kind in types.items()},
                    include_columns=[keys[at] for at in types],
                    strings_can_be_null=False,
                    null_values=missing,
                ),
                memory_pool=pyarrow.system_memory_pool(),  # which gives back what is freed
            )
        except pyarrow.ArrowInvalid as error:
            raise (_NotPlain if "conversion error to double" in str(error) else _Doubt) from None

    def column(self, at: int) -> Any:
        """The text of a column as a ChunkedArray."""
        kind = self.text_type()
        return trimmed(
            [c for parse in self.parsed() for c in parse({at: kind}, []).column(0).chunks]
        )

    def text_type(self) -> Any:
        import pyarrow

        return pyarrow.string() if self.body.size() < 1 << 30 else pyarrow.large_string()


def _are_quotes_right(block: bytes, delimiter: str) -> bool:
    """Whether each quote begins or ends a cell, without the end of a line in it, or is written
    twice inside one."""
    return _are_quotes_simple(block, delimiter) or _are_quotes_matched(block, delimiter)


def _are_quotes_simple(block: bytes, delimiter: str) -> bool:
    """The same without quotes inside cells."""
    data = np.frombuffer(block, np.uint8)
    at = np.flatnonzero(data == ord('"'))
    if len(at) % 2:
        return False
    begins, ends = at[::2], at[1::2]
    edges = np.zeros(256, bool)
    edges[[ord(delimiter), ord("\n")]] = True
    if not edges[data[begins[begins > 0] - 1]].all():
        return False
    edges[ord("\r")] = True
    if not edges[data[ends[ends < len(data) - 1] + 1]].all():
        return False
    newlines = np.flatnonzero(data == ord("\n"))
    return bool((np.searchsorted(newlines, begins) == np.searchsorted(newlines, ends)).all())


def _are_quotes_matched(block: bytes, delimiter: str) -> bool:
    edge = re.escape(delimiter.encode())
    cell = rb'(?<![^%b\n])"(?:[^"\n]|"")*"(?=[%b\r\n]|\Z)' % (edge, edge)
    return b'"' not in re.sub(cell, b"", block)


def _kinds(text: _Text) -> tuple[list[str], list[list[str]]]:
    """("number", "text" or "code", the first distinct cells) of each column. Cells of which many
    are distinct are kept as numbers, or text; others are encoded when they are read."""
    import pyarrow
    from pyarrow import compute

    parse = next(text.parsed(), None)
    if parse is None:
        raise _Doubt
    rows = parse(dict.fromkeys(range(text.width), pyarrow.string()), [])
    kinds, heads = list[str](), list[list[str]]()
    for column in rows.columns:
        cells = trimmed(column.chunks)
        distinct = cells.unique()
        kind = "code"
        if len(distinct) >= max(HEAD, len(cells) / 2):
            try:
                missing = compute.is_in(distinct, pyarrow.array(MARKS))
                compute.cast(distinct.filter(compute.invert(missing)), pyarrow.float64())
                kind = "number"
            except pyarrow.ArrowInvalid:
                kind = "text"
        kinds.append(kind)
        heads.append(distinct[:HEAD].to_pylist())
    return kinds, heads


def _columns(
    text: _Text, names: list[str], kinds: list[str], heads: list[list[str]]
) -> list[ArrowColumn]:
    import pyarrow

    types = {
        "number": pyarrow.float64(),
        "text": text.text_type(),
        "code": pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
    }
    most = sum(block.count(b"\n") + 1 for block in text.body.blocks())
    makers = [_MAKERS[kind](at, most) for at, kind in enumerate(kinds)]
    wanted = {at: types[kind] for at, kind in enumerate(kinds)}
    size = sum(_add_block(makers, wanted, parse) for parse in text.parsed())
    columns = list[ArrowColumn]()
    while makers:
        at = len(columns)
        column = ArrowColumn(names[at], size, partial(text.column, at), heads[at])
        makers.pop(0).finish(column)
        columns.append(column)
    return columns


def _add_block(makers: list[_Maker], types: dict[int, Any], parse: Callable[..., Any]) -> int:
    """Adds a block to the columns of `types`: its number of rows. parse: see `_Text.parsed`. _Doubt
    for a row without any cell."""
    import pyarrow

    try:
        table = parse(types, [""])
        for maker, column in zip(makers, table.columns, strict=True):
            maker.check(column)
    except _NotPlain:
        table = parse(types, MARKS)
        for maker, column in zip(makers, table.columns, strict=True):
            maker.check(column)
            if isinstance(maker, _NumberMaker) and column.null_count:
                text = parse({maker.at: pyarrow.string()}, []).column(0)
                maker.add_marks(text.filter(column.is_null()))
    blank = np.ones(len(table), bool)
    for maker, column in zip(makers, table.columns, strict=True):
        empty = maker.add(column, bool(blank.any()))
        if empty is not None:
            blank &= empty
    if blank.any():
        raise _Doubt
    return len(table)


class _Maker(ABC):
    """Makes a column from the columns of blocks."""

    def __init__(self, at: int, most: int) -> None:
        """at: the index of the column; most: the largest number of rows."""
        self.at = at
        self.chunks = list[Any]()

    def check(self, column: Any) -> None:
        """_NotPlain where a cell is no number and should be one."""
        return

    @abstractmethod
    def add(self, column: Any, need_empty: bool) -> Any:
        """Adds the column of a block. Which of its rows (n,) have an empty cell, if needed."""

    @abstractmethod
    def finish(self, column: ArrowColumn) -> None:
        """Gives what was added to `column`."""


class _NumberMaker(_Maker):
    def __init__(self, at: int, most: int) -> None:
        super().__init__(at, most)
        self.values = np.empty(most)
        self.size = 0
        self.marks = dict[str, None]()

    def check(self, column: Any) -> None:
        if np.isfinite(column.to_numpy()).sum() != len(column) - column.null_count:
            raise _NotPlain

    def add_marks(self, missing: Any) -> None:
        """Adds cells that stand for missing numbers."""
        self.marks.update(dict.fromkeys(trimmed(missing.chunks).unique().to_pylist()))

    def add(self, column: Any, need_empty: bool) -> Any:
        part = self.values[self.size : self.size + len(column)]
        part[:] = column.to_numpy()
        self.size += len(column)
        return np.isnan(part) if need_empty else None

    def finish(self, column: ArrowColumn) -> None:
        self.marks.pop("", None)
        column.hold_numbers(self.values[: self.size], tuple(self.marks))


class _TextMaker(_Maker):
    def add(self, column: Any, need_empty: bool) -> Any:
        from pyarrow import compute

        text = trimmed(column.chunks)
        self.chunks += text.chunks
        return compute.equal(text, "").to_numpy() if need_empty else None

    def finish(self, column: ArrowColumn) -> None:
        import pyarrow

        column.hold_text(pyarrow.chunked_array(self.chunks))


class _CodeMaker(_Maker):
    def add(self, column: Any, need_empty: bool) -> Any:
        from pyarrow import compute

        self.chunks += column.chunks
        if not need_empty:
            return None
        empty = [
            compute.equal(compute.utf8_trim_whitespace(chunk.dictionary), "").to_numpy(False)[
                chunk.indices.to_numpy()
            ]
            for chunk in column.chunks
        ]
        return np.concatenate(empty)

    def finish(self, column: ArrowColumn) -> None:
        import pyarrow
        from pyarrow import compute

        whole = pyarrow.chunked_array(self.chunks).unify_dictionaries()
        self.chunks = []
        cells = compute.utf8_trim_whitespace(whole.chunk(0).dictionary)
        merged, distinct = encode(pyarrow.chunked_array([cells]))
        codes: Any = np.empty(len(whole), np.int32)
        at = 0
        for chunk in whole.chunks:
            part = chunk.indices.to_numpy()
            codes[at : at + len(part)] = merged[part] if len(distinct) < len(cells) else part
            at += len(part)
        column.hold_pair(codes, distinct)


_MAKERS: dict[str, type[_Maker]] = {"number": _NumberMaker, "text": _TextMaker, "code": _CodeMaker}
