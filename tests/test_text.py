"""Text and bytes as items: nothing is lost, doubled or cut in two between a file and what is
scored, and the floors are what other tools say they are."""

from __future__ import annotations

import argparse
import ast
import bz2
import gzip
import lzma
import math
import typing
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfm.core.data.source import Source
from tfm.core.errors import ConfigError, DataError
from tfm.core.runs.run import Run
from tfm.tasks._text import python_docs
from tfm.tasks._text.baselines import compressors, ngram
from tfm.tasks._text.running import RunningOptions
from tfm.tasks._text.spans import PIECE_BYTES, Spans
from tfm.tasks.byte import ByteTask
from tfm.tasks.text import MAX_VARIANTS, TextOptions, TextTask

SHAKESPEARE = Path(__file__).parent.parent.parent / "shared/data/text/tinyshakespeare.txt"

# few characters of all widths, so that cuts meet them often
texts = st.text(st.sampled_from("ab \n\r\u00e9\u6771\U0001f600")) | st.text()
contents = st.one_of(
    st.binary(), texts.map(str.encode), st.lists(st.integers(0x70, 0xFF)).map(bytes)
)
folders = st.lists(contents, min_size=1, max_size=4)
holdouts = st.none() | st.floats(0.01, 0.9)
anything = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(folder: Path, files: list[bytes]) -> Source:
    """The files, under names in their order."""
    for old in folder.glob("*"):
        old.unlink()
    for number, data in enumerate(files):
        (folder / f"{number}.txt").write_bytes(data)
    return Source((str(folder),))


def content(items: Spans) -> list[bytes]:
    return [items.read(index) for index in range(len(items.spans))]


def split(task: Any, source: Source, holdout: float | None) -> tuple[Spans, Spans]:
    """Both sides of a split; what is too little to be split is refused, and not looked at."""
    try:
        return task.split(task.items(source), holdout)
    except DataError:
        assume(False)
        raise


# -- a running text ------------------------------------------------------------------------------


@given(files=folders, holdout=holdouts)
@anything
def test_the_two_sides_are_the_files(
    tmp_path: Path, files: list[bytes], holdout: float | None
) -> None:
    train, held = split(ByteTask(RunningOptions()), written(tmp_path, files), holdout)
    assert b"".join(content(train)) + b"".join(content(held)) == b"".join(files)
    assert train.size >= 2 and held.size >= 1


@given(files=st.lists(texts.map(str.encode), min_size=1, max_size=4), holdout=holdouts)
@anything
def test_no_character_is_cut(tmp_path: Path, files: list[bytes], holdout: float | None) -> None:
    for side in split(TextTask(TextOptions()), written(tmp_path, files), holdout):
        for data in content(side):
            data.decode()


@given(files=folders, holdout=holdouts)
@anything
def test_every_held_out_byte_is_scored_once(
    tmp_path: Path, files: list[bytes], holdout: float | None
) -> None:
    task = ByteTask(RunningOptions())
    train, held = split(task, written(tmp_path, files), holdout)
    tokenizer = task.fit_tokenizer("byte", train)
    sequences = list(task.sequences(held, tokenizer))
    assert sum(s.side["byte"] for s in sequences) == held.size
    assert b"".join(tokenizer.decode(s.ids, s.side) for s in sequences) == b"".join(content(held))
    assert all(s.given == 1 and s.ids[0] == tokenizer.begin for s in sequences)
    assert sum(int(s.target_weight().sum()) for s in sequences) == held.size


@given(data=contents.filter(len), size=st.integers(1, 40))
@anything
def test_pieces_of_any_size_are_the_whole(tmp_path: Path, data: bytes, size: int) -> None:
    items = ByteTask(RunningOptions()).items(written(tmp_path, [data, data]))
    pieces = list(items.pieces(size))
    assert b"".join(items.stream.read(start, stop) for start, stop, _ in pieces) == data + data
    assert all(start < stop for start, stop, _ in pieces)
    assert [start for start, _, first in pieces if first] == [0, len(data)]


@pytest.mark.parametrize("unit", ["\U0001f600", "a line\n", "x", "\u6771\u4eac "])
def test_a_long_text_is_scored_in_pieces_of_whole_characters(tmp_path: Path, unit: str) -> None:
    text = unit * (3 * PIECE_BYTES // len(unit.encode()) + 1)
    task = TextTask(TextOptions())
    train, held = task.split(task.items(written(tmp_path, [text.encode()])), 0.5)
    tokenizer = task.fit_tokenizer("char", train)
    sequences = list(task.sequences(held, tokenizer))
    assert len(sequences) >= 2
    assert "".join(tokenizer.decode(s.ids, {}) for s in sequences).encode() == content(held)[0]
    assert sum(s.side["char"] for s in sequences) == len(content(held)[0].decode())
    if "\n" in unit:
        ends = [s.ids[-1] for s in sequences]
        assert all(tokenizer.pieces[id] == b"\n" for id in ends), "cut where a line ends"


def test_a_sample_is_evenly_spread(tmp_path: Path) -> None:
    data = b"".join(b"%07d\n" % n for n in range(20 * PIECE_BYTES // 8))
    items = ByteTask(RunningOptions()).items(written(tmp_path, [data]))
    whole = list(items.pieces(PIECE_BYTES))
    assert items.sample(items.size) == whole
    some = items.sample(3 * PIECE_BYTES)
    assert len(some) == 3 and set(some) <= set(whole)
    assert some[0] == whole[0] and some[-1] == whole[-1]


def test_a_sample_of_many_small_items_holds_as_much(tmp_path: Path) -> None:
    """By bytes, not by pieces: of a thousand notes as of one book."""
    items = ByteTask(RunningOptions()).items(
        written(tmp_path, [b"%04d\n" % n * 20 for n in range(999)])
    )
    for size in (1, 500, 20_000, items.size // 2, items.size):
        found = sum(stop - start for start, stop, _ in items.sample(size))
        assert size <= found <= 1.3 * size + 200


def test_many_small_files_are_all_trained_on(tmp_path: Path) -> None:
    task = ByteTask(RunningOptions())
    items = task.items(written(tmp_path, [b"%04d\n" % n * 20 for n in range(999)]))
    tokenizer = task.fit_tokenizer("byte", items)
    data = task.dataset(items, tokenizer, 32, 10_000, 0, tmp_path / "cache")
    assert 10_000 <= len(data.stream) < 20_000 + 2 * PIECE_BYTES
    whole = task.dataset(items, tokenizer, 32, 10 * items.size, 0, tmp_path / "cache")
    assert len(whole.stream) == items.size + 999, "a begin token a file"


def test_words_are_counted_as_word_perplexities_count_them(tmp_path: Path) -> None:
    task = TextTask(TextOptions())
    items = task.items(written(tmp_path, [b"one two\nthree\n\n"]))
    sequences = list(task.sequences(items, task.fit_tokenizer("byte", items)))
    assert task.units(sequences) == {"byte": 15, "char": 15, "word": 3 + 3}


# -- items ---------------------------------------------------------------------------------------


@given(lines=st.lists(st.text(st.sampled_from("ab\u00e9 \t")), max_size=12), data=st.data())
@anything
def test_items_are_lines(tmp_path: Path, lines: list[str], data: st.DataObject) -> None:
    end = data.draw(st.sampled_from(["\n", "\r\n"]))
    last = data.draw(st.sampled_from(["", end]))
    file = (end.join(lines) + last).encode()
    wanted = [line.encode() for line in lines if line]
    task = TextTask(TextOptions(each="line"))
    source = written(tmp_path, [file, file])
    if not wanted:
        with pytest.raises(DataError):
            task.items(source)
        return
    assert content(task.items(source)) == wanted + wanted


@given(lines=st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=40), holdout=holdouts)
@anything
def test_equal_lines_stay_on_one_side(
    tmp_path: Path, lines: list[str], holdout: float | None
) -> None:
    assume(len(set(lines)) > 1)
    task = TextTask(TextOptions(each="line"))
    items = task.items(written(tmp_path, ["\n".join(lines).encode()]))
    train, held = map(content, task.split(items, holdout))
    assert train and held
    assert not set(train) & set(held)
    assert Counter(train) + Counter(held) == Counter(line.encode() for line in lines)


def test_equal_lines_alone_cannot_be_split(tmp_path: Path) -> None:
    task = TextTask(TextOptions(each="line"))
    with pytest.raises(DataError, match="--valid"):
        task.split(task.items(written(tmp_path, [b"a\n" * 9])), None)


@given(files=st.lists(texts.map(str.encode), min_size=1, max_size=5))
@anything
def test_items_are_files(tmp_path: Path, files: list[bytes]) -> None:
    source = written(tmp_path, files)
    assume(any(files))
    task = TextTask(TextOptions(each="file"))
    items = task.items(source)
    assert content(items) == [data for data in files if data]
    tokenizer = task.fit_tokenizer("byte", items)
    for sequence, data in zip(task.sequences(items, tokenizer), content(items), strict=True):
        assert sequence.ids.tolist() == [tokenizer.begin, *data, tokenizer.end]


@given(data=st.binary(min_size=1))
@anything
def test_what_is_no_text_is_told_by_file_and_byte(tmp_path: Path, data: bytes) -> None:
    source = written(tmp_path, [b"good\n", data])
    task = TextTask(TextOptions())
    items = task.items(source)
    tokenizer = task.fit_tokenizer("byte", items)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(DataError, match=rf"1\.txt: not UTF-8 text at byte {error.start};"):
            list(task.sequences(items, tokenizer))
    else:
        assert len(list(task.sequences(items, tokenizer))) == 2


@pytest.mark.parametrize("spec", ["byte", "char", "bpe:300"])
def test_bytes_that_are_no_text_are_counted_as_they_are(tmp_path: Path, spec: str) -> None:
    """With --errors replace each is an id of its own, as it is where other data is scored."""
    data = np.random.default_rng(0).integers(128, 256, 3000, np.uint8).tobytes() + "é\n".encode()
    source = written(tmp_path, [data])
    strict, replaced = TextTask(TextOptions()), TextTask(TextOptions(errors="replace"))
    items = replaced.items(source)
    tokenizer = replaced.fit_tokenizer(spec, items)
    (sequence,) = replaced.sequences(items, tokenizer)
    assert tokenizer.decode_bytes(sequence.ids) == data and sequence.side["byte"] == len(data)
    ids = replaced.dataset(items, tokenizer, 16, None, 0, tmp_path / "cache").stream
    assert tokenizer.decode_bytes(ids.astype(np.int64)) == data
    with pytest.raises(DataError, match="not UTF-8 text"):
        list(strict.sequences(items, tokenizer))
    scored = strict.conform(items, tokenizer, lambda text: None)
    (other,) = strict.sequences(scored, tokenizer)
    assert other.ids.tolist() == sequence.ids.tolist()
    assert strict.prompt(data, tokenizer, None).ids.tolist() == sequence.ids.tolist()


def test_a_piece_of_a_text_has_its_own_units(tfm: Tfm, tmp_path: Path) -> None:
    """Bits per byte while training are of the bytes that are scored: half of this text has other
    bytes per token than the rest."""
    from tfm.core.train.validation import Validation, _evenly_chosen

    (tmp_path / "a.txt").write_text("the same words again " * 400 + "q1w2e3r4t5z6 " * 300)
    run = tfm(
        *("train", "a.txt", "--holdout", 0.8, "--tokenizer", "bpe:300", "--size", "nano"),
        *("--steps", 1, "--context", 16, "-q"),
    ).text.strip()
    opened = Run(tfm.folder / run)
    model, tokenizer = opened.load_model(), opened.tokenizer()
    state: Any = SimpleNamespace(model=model, optimizers=[], config=opened.train_config())
    found = Validation(opened, opened.task(), state, None)  # type: ignore[arg-type]
    assert len(found.progress) > 50, "windows of one text"
    ids = np.concatenate([piece.ids[piece.given :] for piece in found.progress])
    size = len(tokenizer.decode_bytes(ids))
    assert found.bits_per_nat == pytest.approx(len(ids) / size / np.log(2))
    few = _evenly_chosen(list(opened.heldout("valid")), 16, 500)
    part = [Validation._counted(found, *each) for each in few]
    assert sum(s.side["byte"] for s in part) == sum(
        len(tokenizer.decode_bytes(piece.ids[piece.given :])) for piece, _ in few
    )


def test_a_vocabulary_that_is_not_reached_is_said(tmp_path: Path) -> None:
    task = TextTask(TextOptions())
    items = task.items(written(tmp_path, [b"one two three\n" * 20]))
    tokenizer = task.fit_tokenizer("bpe:5000", items)
    said = task.about_tokenizer("bpe:5000", tokenizer)
    assert said is not None and f"{len(tokenizer.pieces):,} tokens" in said
    assert task.about_tokenizer("bpe", tokenizer) is None
    assert task.about_tokenizer(f"bpe:{len(tokenizer.pieces)}", tokenizer) is None


# -- floors --------------------------------------------------------------------------------------


@given(data=st.binary(min_size=1, max_size=2000))
@settings(deadline=None, max_examples=30)
def test_compressors_are_those_of_the_standard_library(data: bytes) -> None:
    floors = compressors(data)
    assert floors["gzip"] * len(data) / 8 == pytest.approx(len(gzip.compress(data, 9, mtime=0)))
    assert floors["bz2"] * len(data) / 8 == pytest.approx(len(bz2.compress(data, 9)))
    best = len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))
    assert floors["xz"] * len(data) / 8 == pytest.approx(best)


def witten_bell(train: bytes, held: bytes, order: int) -> float:
    """The same n-gram from tables of what followed what, byte by byte."""
    followers: list[dict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(order + 1)]
    padded = bytes(order) + train
    for at in range(order, len(padded)):
        for k in range(order + 1):
            followers[k][padded[at - k : at]][padded[at]] += 1
    padded, bits = bytes(order) + held, 0.0
    for at in range(order, len(padded)):
        p = 1 / 256
        for k in range(order + 1):
            seen = followers[k].get(padded[at - k : at])
            if seen is not None:
                p = (seen[padded[at]] + len(seen) * p) / (sum(seen.values()) + len(seen))
        bits -= math.log2(p)
    return bits / len(held)


few_bytes = st.lists(st.sampled_from([0, 1, 97, 98, 255]), min_size=1, max_size=80).map(bytes)


@given(train=few_bytes | st.binary(), held=few_bytes, order=st.integers(0, 4))
@settings(deadline=None)
def test_the_ngram_is_witten_bell(train: bytes, held: bytes, order: int) -> None:
    assert ngram(train, held, order) == pytest.approx(witten_bell(train, held, order), rel=1e-9)


def test_floors_of_tiny_shakespeare() -> None:
    """Figures measured by other programs on the last tenth."""
    if not SHAKESPEARE.exists():
        pytest.skip("tinyshakespeare.txt is not here")
    task = TextTask(TextOptions())
    train, held = task.split(task.items(Source((str(SHAKESPEARE),))), 0.1)
    assert held.size == 111_539
    floors = task.floor(train, held)
    wanted = {"gzip": 3.190, "bz2": 2.635, "xz": 2.947, "ngram": 2.408}
    assert floors == {name: pytest.approx(bits, abs=0.002) for name, bits in wanted.items()}


# -- read again and again --------------------------------------------------------------------------


def ways_of(
    folder: Path,
    tokens: int | None,
    each: str = "stream",
    rate: float = 0.2,
    cache: str = "cache",
    context: int = 16,
) -> tuple[Any, list[np.ndarray], str]:
    """(tokenizer, the ids of each item or of each time that a text is read, the training text)."""
    (folder / "a.txt").write_text(TEXT, newline="")
    task = TextTask(TextOptions(each=each, bpe_dropout=rate))
    train, _ = task.split(task.items(Source((str(folder / "a.txt"),))), 0.2)
    tokenizer = task.fit_tokenizer("bpe:300", train)
    data = task.dataset(train, tokenizer, context, tokens, 0, folder / cache)
    text = "\n".join(item.decode() for item in content(train))
    if each == "line":
        return tokenizer, [data.store[i].ids[1:-1] for i in range(len(data.store))], text
    starts = np.flatnonzero(data.stream == tokenizer.begin)
    return tokenizer, np.split(np.asarray(data.stream), starts)[1:], text


TEXT = "".join(
    f"the {n}th of them was there, {'other' * (n % 3)} than the rest\n" for n in range(99)
)


def test_a_text_read_often_is_cut_in_another_way_every_other_time(tmp_path: Path) -> None:
    tokenizer, (once,), text = ways_of(tmp_path, None)
    plain = once[1:]
    np.testing.assert_array_equal(plain, tokenizer.tokens(text))
    _, seldom, _ = ways_of(tmp_path, 23 * len(plain))
    assert len(seldom) == 1
    _, ways, _ = ways_of(tmp_path, 26 * len(plain))
    assert len(ways) == 26
    assert all(tokenizer.decode(ids[1:], {}) == text for ids in ways)
    assert all(np.array_equal(ids[1:], plain) for ids in ways[::2])
    varied = {ids.tobytes() for ids in ways[1::2]}
    assert len(varied) == 13 and plain.tobytes() not in varied
    _, again, _ = ways_of(tmp_path, 26 * len(plain), cache="other")
    assert all(map(np.array_equal, ways, again)), "a function of what was asked, nothing else"
    _, off, _ = ways_of(tmp_path, 26 * len(plain), rate=0.0)
    assert len(off) == 1
    _, most, _ = ways_of(tmp_path, 1000 * len(plain))
    assert len(most) == MAX_VARIANTS
    _, short, _ = ways_of(tmp_path, 26 * len(plain), context=len(plain) + 2)
    assert len(short) == 1, "no window holds the same place twice"


def test_lines_read_often_are_cut_in_other_ways_too(tmp_path: Path) -> None:
    tokenizer, once, text = ways_of(tmp_path, None, "line")
    _, ways, _ = ways_of(tmp_path, 26 * sum(len(ids) + 2 for ids in once), "line")
    passes = len(ways) // len(once)
    assert passes in (26, 27, 28) and len(ways) == passes * len(once)
    for number in range(passes):
        here = ways[number * len(once) : (number + 1) * len(once)]
        assert [tokenizer.decode(ids, {}) for ids in here] == text.split("\n")
        same = all(np.array_equal(a, b) for a, b in zip(here, once, strict=True))
        assert same == (number % 2 == 0)


# -- a budget of seconds -------------------------------------------------------------------------


def test_docstrings_are_found_as_by_walking_the_whole_tree() -> None:
    for module in (ast, argparse, typing):
        tree = ast.parse(Path(module.__file__).read_bytes())
        walked = [node for node in ast.walk(tree) if isinstance(node, python_docs.WITH_DOCSTRING)]
        assert list(python_docs.definitions(tree)) == walked


def test_the_default_text_is_the_same_from_a_process_of_its_own(tmp_path: Path) -> None:
    process = python_docs.start_writing(tmp_path / "early.txt")
    python_docs.write(tmp_path / "now.txt")
    assert process is not None and process.wait() == 0
    text = (tmp_path / "now.txt").read_text(encoding="utf-8")
    assert (tmp_path / "early.txt").read_text(encoding="utf-8") == text and len(text) > 10**6


@pytest.mark.parametrize("spec", ["byte", "char", "bpe:300"])
def test_the_beginning_of_a_text_counts_its_own_units(tmp_path: Path, spec: str) -> None:
    """As a text of those bytes alone, up to a character that is cut."""
    text = "naïve wörds, ﬁnal £ signs\n" * 40
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    task = TextTask(TextOptions())
    items = task.items(Source((str(tmp_path / "a.txt"),)))
    tokenizer = task.fit_tokenizer(spec, items)
    (whole,) = task.sequences(items, tokenizer)
    for length in (2, 17, 100, len(whole)):
        part = task.shortened(whole, length, tokenizer)
        data = tokenizer.decode_bytes(part.ids)
        assert len(part) == length and text.encode().startswith(data)
        read = data.decode("utf-8", "ignore")
        words = len(read.split()) + read.count("\n")
        assert part.side == {"byte": len(data), "char": len(read), "word": words}
    assert task.shortened(whole, len(whole), tokenizer).side == whole.side


def test_bpe_dropout_needs_merges(tmp_path: Path) -> None:
    """Where it is asked for: a run of an older version has it in its config with any tokenizer."""
    (tmp_path / "a.txt").write_text("some text of some words\n" * 40)
    task = TextTask(TextOptions(bpe_dropout=0.1))
    items = task.items(Source((str(tmp_path / "a.txt"),)))
    with pytest.raises(ConfigError, match="--bpe-dropout 0.1: needs a BPE tokenizer"):
        task.fit_tokenizer("byte", items)
    plain = TextTask(TextOptions()).fit_tokenizer("byte", items)
    with pytest.raises(ConfigError, match="needs a BPE tokenizer"):
        task.adapt(plain)
    assert len(task.dataset(items, plain, 16, None, 0, tmp_path / "cache"))
    assert task.fit_tokenizer("bpe:300", items)
