"""Arithmetic coding: what goes in comes out, and costs what the model says."""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm
from helpers import prose, small_model
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.cli import kernels
from tfm.cli.compress import Header
from tfm.core.decode.native_model import NativeModel
from tfm.core.errors import DamagedError
from tfm.core.protocols import Sequence
from tfm.core.score import arithmetic_coding
from tfm.core.score.likelihood import evaluate
from tfm.core.score.range_coder import Decoder, Encoder
from tfm.tokenizers.bpe import BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer

BYTES: Any = SingleByteTokenizer()


# -- the range coder -----------------------------------------------------------------------------

SYMBOLS = st.lists(
    st.tuples(st.lists(st.integers(1, 1 << 20), min_size=1, max_size=9), st.integers(0, 8)),
    max_size=200,
)


@given(SYMBOLS)
def test_ranges_come_back_and_cost_their_information(symbols: Any) -> None:
    tables = [np.concatenate(([0], np.cumsum(counts))).tolist() for counts, _ in symbols]
    chosen = [at % len(counts) for counts, at in symbols]
    encoder, bits = Encoder(), 0.0
    for table, at in zip(tables, chosen, strict=True):
        encoder.encode(table[at], table[at + 1], table[-1])
        bits -= math.log2((table[at + 1] - table[at]) / table[-1])
    data = encoder.finish()
    assert len(data) <= bits / 8 + 10
    decoder = Decoder(data)
    for table, at in zip(tables, chosen, strict=True):
        count = decoder.target(table[-1])
        assert table[at] <= count < table[at + 1]
        decoder.take(table[at], table[at + 1], table[-1])


def test_a_long_run_of_the_first_symbol_ends_no_earlier_than_its_bytes() -> None:
    """It adds nothing to the low end of the range: what is written ends in zeros."""
    encoder = Encoder()
    for _ in range(1000):
        encoder.encode(0, 1, 256)
    data = encoder.finish()
    decoder = Decoder(data)
    for _ in range(1000):
        assert decoder.target(256) == 0
        decoder.take(0, 1, 256)
    assert decoder.position <= len(data) + 8, "or it would be taken for damage"


def test_a_carry_runs_through_waiting_bytes() -> None:
    """Symbols at the very top of a fine range keep 255s waiting; one more makes them roll over."""
    top = (1 << 24) - 1
    for last in (0, top // 2, top):
        steps = [(top, top + 1, top + 1)] * 40 + [(last, last + 1, top + 1)]
        encoder = Encoder()
        for step in steps:
            encoder.encode(*step)
        decoder = Decoder(encoder.finish())
        for start, end, total in steps:
            assert start <= decoder.target(total) < end
            decoder.take(start, end, total)


# -- through a model -----------------------------------------------------------------------------


MODEL = small_model(vocab_size=BYTES.vocab_size, context=24)


def there_and_back(data: bytes, model: Any = MODEL) -> bytes:
    """The coded bytes; that they come back is asserted."""
    sequence = arithmetic_coding.item(BYTES, data)
    support = BYTES.support(len(data), {})
    coded = arithmetic_coding.encode(model, support, sequence)
    ids = arithmetic_coding.decode(model, support, sequence.ids[:1], len(data), coded)
    assert BYTES.decode_bytes(ids) == data
    return coded


@pytest.fixture(scope="module")
def native() -> NativeModel:
    library = kernels.compiled()
    if library is None:
        pytest.skip("no C compiler here")
    return NativeModel(MODEL, library, "float32")


def test_the_code_in_c_codes_the_same_whatever_the_threads(
    native: NativeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And as short as torch; many rows, so that windows begin anew for all of them."""
    monkeypatch.setattr(arithmetic_coding, "MIN_SEGMENT_IDS", 50)
    data = prose(1500).encode()
    before, coded = torch.get_num_threads(), []
    fractions: list[float] = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            coded.append(there_and_back(data, native))
    finally:
        torch.set_num_threads(before)
    assert coded[0] == coded[1] == coded[2]
    assert abs(len(coded[0]) - len(there_and_back(data))) <= 2
    sequence = arithmetic_coding.item(BYTES, data)
    support = BYTES.support(len(data), {})
    arithmetic_coding.encode(native, support, sequence, fractions.append)
    assert fractions == sorted(fractions) and fractions[-1] == 1


def test_files_of_the_first_format_are_restored_by_torch(
    run: Path, tfm: Tfm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They name no code, which was torch then."""
    import zlib

    (tfm.folder / "a").write_bytes(b"the quick brown fox")
    tfm("compress", run, "a", "-q", env={"CC": "no-such-compiler", "XDG_CACHE_HOME": "c"})
    data = (tfm.folder / "a.tfm").read_bytes()
    names_end = 6 + data[5]
    names = data[6:names_end].rpartition(b" ")
    assert names[2] == b"torch"
    body = b"tfm\x1a\x01" + bytes([len(names[0])]) + names[0] + data[names_end : names_end + 26]
    old = body + struct.pack("<I", zlib.crc32(body)) + data[names_end + 30 :]
    (tfm.folder / "old.tfm").write_bytes(old)
    tfm("decompress", run, "old.tfm", "-q")
    assert (tfm.folder / "old").read_bytes() == b"the quick brown fox"


@given(st.binary(max_size=80))
@settings(max_examples=25)
def test_any_bytes_come_back(data: bytes) -> None:
    there_and_back(data)


@pytest.mark.parametrize("size", [23, 24, 25, 36, 37])
def test_the_ends_of_windows_come_back(size: int) -> None:
    there_and_back(bytes(range(size)))


def test_many_rows_come_back_and_cost_what_evaluate_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic_coding, "MIN_SEGMENT_IDS", 100)
    data = prose(1500).encode()
    coded = there_and_back(data)
    parts = arithmetic_coding.segments(arithmetic_coding.item(BYTES, data))
    assert len(parts) > 10 and sum(len(part) - 1 for part in parts) == len(data)
    scores = evaluate(MODEL, BYTES, parts, stride=arithmetic_coding.stride(MODEL.config.context))
    nats = sum(float(score.nats.sum()) for score in scores)
    assert nats / math.log(2) / 8 - 1 <= len(coded) <= 1.01 * nats / math.log(2) / 8 + 16


def test_bytes_without_a_meaning_have_ids_of_subwords() -> None:
    tokenizer = BpeTokenizer.fit([prose(3000)], 300)
    for data in (b"the quick \xff\xfe fox", b"\x80", "é".encode()[:1] + b"\n", bytes(range(256))):
        assert tokenizer.decode_bytes(tokenizer.ids_of_bytes(data)) == data


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    for seed, name in enumerate(("run", "other")):
        Tfm(folder)(
            *("train", "--task", "byte", "--data", text, "--size", "nano", "--steps", 4, "-q"),
            *("--seed", seed, "--run", name),
        )
    return folder / "run"


def test_a_file_comes_back(run: Path, tfm: Tfm) -> None:
    data = prose(1200, seed=3).encode() + bytes(range(256))
    source = tfm.folder / "file.txt"
    source.write_bytes(data)
    said = tfm("compress", run, "file.txt", "--json").json()
    packed = tfm.folder / "file.txt.tfm"
    assert said["compressed"] == packed.stat().st_size and said["bytes"] == len(data)
    scores = tfm("eval", run, "--data", "file.txt", "--as-coded", "--json").json()
    cost = scores["nll"] / math.log(2) / 8
    assert cost <= packed.stat().st_size <= 1.01 * cost + 128

    assert "--force" in tfm.error("decompress", run, "file.txt.tfm")
    source.unlink()
    assert tfm("decompress", run, "file.txt.tfm", "--json").json()["bytes"] == len(data)
    assert source.read_bytes() == data

    coded = packed.read_bytes()
    assert tfm("decompress", run, "-", stdin=coded).out == data
    other = tfm.error("decompress", run.parent / "other", "-", stdin=coded)
    assert "weights" in other
    broken = bytearray(coded)
    broken[len(coded) // 2] ^= 4
    assert "damaged" in tfm.error("decompress", run, "-", stdin=bytes(broken), code=3)
    assert "damaged" in tfm.error("decompress", run, "-", stdin=coded[:-40], code=3)
    assert "follows" in tfm.error("decompress", run, "-", stdin=coded + b"more\n", code=3)
    assert "damaged" in tfm.error("decompress", run, "-", stdin=coded[:20], code=3)
    header = coded.index(b"cpu") + 20
    for at in (7, 20, header, header + 6):  # names, the count of ids
        broken = bytearray(coded)
        broken[at] ^= 64
        with pytest.raises(DamagedError, match="its header is damaged"):
            Header.unpack(bytes(broken), "x")
    assert "not made by" in tfm.error("decompress", run, "-", stdin=b"something else")


def test_nothing_comes_back_as_nothing(run: Path, tfm: Tfm) -> None:
    packed = tfm("compress", run, "-", stdin=b"").out
    assert 0 < len(packed) <= 128
    assert tfm("decompress", run, "-", stdin=packed).out == b""


def test_what_cannot_be_compressed_is_said(run: Path, tfm: Tfm) -> None:
    (tfm.folder / "a").write_bytes(b"abc")
    assert "No such file" in tfm.error("compress", run, "missing")
    full = tfm.error("compress", run, "a", "-o", "/dev/full", code=1)
    assert "/dev/full: cannot be written (No space left" in full
    assert "one file" in tfm.error("compress")
    assert "-o" in tfm.error("decompress", run, "a")
    assert sorted(p.name for p in tfm.folder.iterdir()) == ["a"]


def test_a_damaged_stream_of_ids_is_told() -> None:
    sequence = arithmetic_coding.item(BYTES, prose(100).encode())
    support = BYTES.support(len(sequence), {})
    coded = arithmetic_coding.encode(MODEL, support, sequence)
    with pytest.raises(DamagedError):
        arithmetic_coding.decode(MODEL, support, sequence.ids[:1], 8 * len(sequence), coded)


def test_segments_are_even() -> None:
    for count in (
        0,
        1,
        arithmetic_coding.MIN_SEGMENT_IDS * 3 + 5,
        arithmetic_coding.MIN_SEGMENT_IDS * arithmetic_coding.MAX_SEGMENTS * 2 + 1,
    ):
        lengths = arithmetic_coding.segment_sizes(count)
        assert sum(lengths) == count and max(lengths) - min(lengths) <= 1
        assert (
            lengths == sorted(lengths, reverse=True)
            and len(lengths) <= arithmetic_coding.MAX_SEGMENTS
        )
    whole = Sequence(np.arange(10), 2, None, {"byte": 8})
    assert [part.ids.tolist() for part in arithmetic_coding.segments(whole)] == [list(range(10))]
