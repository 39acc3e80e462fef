"""Columns of large tables: text in pyarrow arrays, of which cells become Python strings, and equal
cells are found, only where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from ...core.protocols import Ids
from ...tokenizers._scales import Values
from .table import HEAD, MISSING, Column

# of missing values, as pyarrow looks for them
MARKS = sorted(
    {
        "".join(letters)
        for mark in MISSING
        for letters in (
            product(*((c, c.upper()) for c in mark))
            if len(mark) < 5
            else (mark, mark.upper(), mark.capitalize())
        )
    }
)
MAX_HASHED = 64  # bytes of a cell
HASH_FACTOR = 0x9E3779B97F4A7C15
Plain = tuple[Values, tuple[str, ...]]  # numbers, NaN where missing, and the marks of missing ones


class ArrowCells(Sequence[str]):
    """The cells of a column in a pyarrow ChunkedArray of strings."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return [self.array[i].as_py() for i in range(len(self))[at]]
        return self.array[at].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.array), 65_536):
            yield from self.array[start : start + 65_536].to_pylist()

    def index(self, cell: str, *_: Any) -> int:
        from pyarrow import compute

        found: int = compute.index(self.array, cell).as_py()
        if found < 0:
            raise ValueError(f"{cell!r} is not among the cells")
        return found

    def plain(self) -> Plain | None:
        """See `ArrowColumn.plain`."""
        return _plain(self.array.chunks, len(self.array))


class ArrowColumn(Column):
    """A column of a large table, which holds one of: its text; its numbers, where all cells are
    plain ones or missing; its distinct cells with their codes. The others are made from these, or
    read again, when they are asked for."""

    def __init__(self, name: str, size: int, read: Callable[[], Any], head: list[str]) -> None:
        """size: rows; read: gives the text, a pyarrow ChunkedArray without white space around its
        cells; head: the first `HEAD` distinct cells, or all there are if encoded later."""
        self.name = name
        self.zone = None
        self.size = size
        self._read = read
        self._head = head
        self._text: Any = None
        self._pair: tuple[Ids, ArrowCells] | None = None
        self._numbers: Plain | None = None
        self._is_plain: bool | None = None  # None: not yet known

    def __len__(self) -> int:
        return self.size

    # -- filled by the reader ------------------------------------------------------------------

    def hold_text(self, text: Any) -> None:
        self._text = text

    def hold_pair(self, codes: Ids, cells: ArrowCells) -> None:
        self._pair, self._text = (codes, cells), None

    def hold_numbers(self, values: Values, marks: tuple[str, ...]) -> None:
        """See `plain`."""
        self._numbers, self._is_plain = (values, marks), True

    # -- cells ---------------------------------------------------------------------------------

    def keep_text(self) -> None:
        """Reads the text once, for several questions."""
        if self._pair is None:
            self.hold_text(self.text_array())

    def text_array(self) -> Any:
        """(N,) the cells as a pyarrow ChunkedArray."""
        return self._read() if self._text is None else self._text

    @property
    def codes(self) -> Ids:
        return self._encoded()[0]

    @property
    def cells(self) -> ArrowCells:
        return self._encoded()[1]

    def row(self, at: int) -> str:
        if self._pair is None and self._text is not None:
            return str(self._text[at].as_py())
        return super().row(at)

    def repeats(self) -> int:
        if self._pair is None and self._numbers is not None and len(self) > 1:
            steps = np.diff(self._numbers[0])
            if (steps > 0).all() or (steps < 0).all():  # then their cells are distinct too
                return 0
        return super().repeats()

    def head(self) -> Sequence[str]:
        return self._head if self._pair is None else self.cells[:HEAD]

    def _encoded(self) -> tuple[Ids, ArrowCells]:
        if self._pair is None:
            self.hold_pair(*encode(self.text_array()))
        assert self._pair is not None
        return self._pair

    # -- numbers -------------------------------------------------------------------------------

    def plain(self) -> Plain | None:
        """(numbers (N,), NaN where missing; the marks of missing ones in the order of their first
        rows). None where a cell is neither missing nor a plain, finite number."""
        if self._is_plain is None:
            if self._pair is None:
                self._numbers = _plain(self.text_array().chunks, self.size)
            elif (found := self.cells.plain()) is not None:
                self._numbers = found[0][self.codes], found[1]
            self._is_plain = self._numbers is not None
        return self._numbers

    def all_match(self, pattern: str) -> bool:
        """Whether all cells fit a regular expression (of RE2) as a whole."""
        return all(_match(chunk, pattern, all_=True) for chunk in self._arrays())

    def any_match(self, pattern: str) -> bool:
        return any(_match(chunk, pattern, all_=False) for chunk in self._arrays())

    def is_ascii(self) -> bool:
        from pyarrow import compute

        return all(
            compute.all(compute.string_is_ascii(chunk)).as_py() is not False
            for chunk in self._arrays()
        )

    def lengths(self) -> tuple[int, int]:
        """The least and the largest number of bytes in a cell."""
        from pyarrow import compute

        bounds = [compute.min_max(compute.binary_length(chunk)).as_py() for chunk in self._arrays()]
        return min(b["min"] for b in bounds), max(b["max"] for b in bounds)

    def _arrays(self) -> list[Any]:
        text = self.text_array() if self._pair is None else self.cells.array
        return list(text.chunks)

    def may_have_thousands(self) -> bool:
        """Whether cells such as 1.250 may be among plain numbers: thousands, or decimals."""
        if self._numbers is None:
            return True
        values = np.abs(self._numbers[0])
        with np.errstate(invalid="ignore"):
            few = values[(values >= 1) & (values < 1000)]
        return bool((np.round(few * 1000) / 1000 == few).any())


def encode(text: Any) -> tuple[Ids, ArrowCells]:
    """(codes, distinct cells in the order of their first rows) of a ChunkedArray of strings."""
    if _is_sorted(text) or _are_hashes_distinct(text):  # then all are distinct
        return np.arange(len(text), dtype=np.int32), ArrowCells(text)
    import pyarrow

    found = text.dictionary_encode().chunks  # of one dictionary
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in found])
    return codes, ArrowCells(pyarrow.chunked_array([found[0].dictionary]))


def _is_sorted(text: Any) -> bool:
    """Whether each cell comes after the one before, or each comes before it."""
    from pyarrow import compute

    ends = [chunk[-1] for chunk in text.chunks]
    begins = [chunk[0] for chunk in text.chunks[1:]]
    for order in (compute.less, compute.greater):
        if all(order(a, b).as_py() for a, b in zip(ends, begins, strict=False)) and all(
            order(chunk[:-1], chunk[1:]).true_count == len(chunk) - 1 for chunk in text.chunks
        ):
            return True
    return False


def _are_hashes_distinct(text: Any) -> bool:
    """Whether cells of one length have distinct hashes, which takes less time and memory than to
    encode them. False is likely if cells are equal, or differ in length."""
    from pyarrow import compute

    width = len(text[0].as_py().encode()) if len(text) else 0
    if not 0 < width <= MAX_HASHED:
        return False
    hashes, at = np.zeros(len(text), np.uint64), 0
    for chunk in text.chunks:
        bounds = compute.min_max(compute.binary_length(chunk)).as_py()
        if bounds["min"] != bounds["max"] or bounds["max"] != width:
            return False
        some = hashes[at : at + len(chunk)]
        for letters in as_bytes(chunk, width).T:
            some *= np.uint64(HASH_FACTOR)
            some += letters
        at += len(chunk)
    hashes.sort()
    return not (hashes[1:] == hashes[:-1]).any()


def as_bytes(array: Any, width: int) -> Any:
    """(N, width) the bytes of an array of strings of that length, N > 0."""
    kind = np.int64 if str(array.type) == "large_string" else np.int32
    _, offsets, data = array.buffers()
    first = int(np.frombuffer(offsets, kind, array.offset + 1)[-1])
    return np.frombuffer(data, np.uint8, len(array) * width, first).reshape(len(array), width)


def trimmed(chunks: list[Any]) -> Any:
    """A ChunkedArray of the chunks, which are taken from the list, without white space around."""
    import pyarrow
    from pyarrow import compute

    kind = chunks[0].type
    out = []
    while chunks:
        chunk = chunks.pop(0)
        cut = compute.utf8_trim_whitespace(chunk)
        # most tables have none: then the first array is kept, and the copy freed
        same = _bytes_in(cut) == _bytes_in(chunk)
        out.append(chunk if same else cut)
    return pyarrow.chunked_array(out, kind)


def _bytes_in(array: Any) -> int:
    from pyarrow import compute

    return int(compute.sum(compute.binary_length(array)).as_py() or 0)


def _match(array: Any, pattern: str, all_: bool) -> bool:
    from pyarrow import compute

    found = compute.match_substring_regex(array, f"^(?:{pattern})$").true_count
    return bool(found == len(array) if all_ else found)


def _plain(chunks: list[Any], size: int) -> Plain | None:
    import pyarrow
    from pyarrow import compute

    values, marks = np.empty(size), dict[str, None]()
    at = 0
    for chunk in chunks:
        missing = compute.is_in(chunk, pyarrow.array(MARKS, chunk.type))
        if missing.true_count:
            marks.update(dict.fromkeys(chunk.filter(missing).unique().to_pylist()))
            chunk = compute.if_else(missing, pyarrow.scalar(None, chunk.type), chunk)
        try:
            found = compute.cast(chunk, pyarrow.float64())
        except pyarrow.ArrowInvalid:
            return None
        part = found.to_numpy(zero_copy_only=False)
        if int(np.isfinite(part).sum()) != len(part) - found.null_count:
            return None
        values[at : at + len(part)] = part
        at += len(part)
    marks.pop("", None)
    return values, tuple(marks)
