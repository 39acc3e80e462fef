"""Decoding in C: it equals the model in torch, and logits do not depend on other rows, to the last
bit. The compiled library: damaged files, failing compilers, unwritable cache folders."""

import os
import stat
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tfm, Trained
from helpers import DECODERS, LOGIT_ERROR, FakeTokenizer, draw_rows, random_prompt, small_model

from tfm.core.config import SampleConfig
from tfm.core.decode.batch_decoder import for_decoding
from tfm.core.decode.native_model import MAX_QUERIES, NativeModel, supports
from tfm.core.decode.native_slots import NativeSlots
from tfm.core.decode.quantized_linear import DTYPES
from tfm.core.decode.sampling import generate
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops import native_library

PLAIN = FakeTokenizer()
NATIVE = {name: fields for name, fields in DECODERS.items() if name != "attention-rnn"}
OTHERS: dict[str, dict[str, Any]] = {
    "grouped": dict(kv_heads=2, softcap=3.0),
    "as imported": dict(
        kv_heads=2, qk_norm=False, qkv_bias=True, ffn="swiglu", rope_scaling="llama3:8,1,4,16"
    ),
    "tied, sinusoidal": dict(tied=True, positions="sinusoidal", ffn="relu"),
    "no norms, biases": dict(norm="none", bias=True, qk_norm=False, positions="none"),
    "odd widths": dict(width=40, ffn_width=50, ffn="swiglu"),
    "post-norm": dict(norm_position="post", positions="learned", norm="layernorm"),
    "two axes": dict(axes=2, ffn="gelu"),
    "sandwich": dict(norm_position="sandwich", ffn="geglu"),
    "window": dict(window=5, ffn="glu"),
    "wide window": dict(window=30, ffn="bilinear"),
    "alibi": dict(positions="alibi", kv_heads=2, window=21, ffn="reglu"),
    "no feed-forward": dict(ffn="none", residual=False),
    **{
        f"residual {mixer}": dict(mixers=mixer, bias=True, positions="none")
        for mixer in ("rnn", "gru", "lstm", "conv")
    },
    "sandwich lstm": dict(mixers="lstm", norm_position="sandwich", norm="layernorm"),
    "post-norm gru": dict(mixers="gru", norm_position="post", norm="layernorm", bias=True),
    "odd lstm": dict(
        mixers="lstm", positions="none", width=44, ffn="none", residual=False, norm="none"
    ),
    "odd sinusoids": dict(width=33, heads=3, positions="sinusoidal"),
    "hybrid": dict(mixers="attention,lstm,conv,gru", layers=4, kernel=4),
}


def stepped(rows: NativeSlots, row: int, ids: Any, begin: int, positions: Any = None) -> Any:
    """(T - begin + 1, V) logits after each id from index begin - 1 on: ids[:begin] are prefilled,
    the others fed one by one."""

    def positions_of(part: slice) -> Any:
        return None if positions is None else positions[part]

    rows.assign(row, rows.prefill(ids[:begin], positions_of(slice(begin)), 1))
    out = [rows.logits()[row].clone()]
    for t in range(begin, len(ids)):
        rows.feed(np.array([row]), ids[[t]], np.full(rows.rows, t), positions_of(slice(t, t + 1)))
        out.append(rows.logits()[row].clone())
    return torch.stack(out)


@pytest.mark.parametrize("name", [*NATIVE, *OTHERS])
@torch.no_grad()
def test_logits_are_those_of_the_model(name: str, library: CDLL) -> None:
    model = small_model(**{**dict(heads=4, context=40), **{**NATIVE, **OTHERS}[name]})
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 23, 40)
    positions = draw.integers(0, 40, (40, 2)) if name == "two axes" else None
    places = None if positions is None else torch.from_numpy(positions)[None]
    plain = model.logits(model(torch.from_numpy(ids)[None], places))[0]
    found = stepped(
        NativeSlots(NativeModel(model, library, "float32"), 3, 40), 1, ids, 35, positions
    )
    assert float((found - plain[34:]).abs().max()) <= 1e-5 * max(1, float(plain.std()))


@pytest.mark.parametrize("dtype", DTYPES)
@torch.no_grad()
def test_weights_in_fewer_bits(dtype: str, library: CDLL) -> None:
    model = small_model(width=96, heads=2, context=40)
    ids = np.random.default_rng(1).integers(0, 23, 40)
    plain = model.logits(model(torch.from_numpy(ids)[None]))[0]
    native = NativeModel(model, library, dtype)
    found = stepped(NativeSlots(native, 1, 40), 0, ids, 1)
    assert float((found - plain).square().mean().sqrt()) <= LOGIT_ERROR[dtype] * float(plain.std())


@pytest.mark.parametrize(
    ("dtype", "mixers"),
    [*((dtype, "attention") for dtype in DTYPES), ("float32", "lstm,conv"), ("float16", "gru,rnn")],
)
def test_company_pieces_and_threads_change_not_a_bit(
    dtype: str, mixers: str, library: CDLL
) -> None:
    """The logits after a prompt are bit-identical whether it is prefilled at once or id by id, with
    up to nine rows, on one thread or three."""
    model = small_model(width=96, heads=2, context=70, mixers=mixers)
    native = NativeModel(model, library, dtype)
    native.multiply_adds_per_token = 1 << 40  # makes every step use several threads
    ids = np.random.default_rng(2).integers(0, 23, (9, 60))
    alone = NativeSlots(native, 1, 70)
    expected = [stepped(alone, 0, each, 40) for each in ids]
    assert torch.equal(stepped(alone, 0, ids[0], 1)[39:], expected[0])
    rows = NativeSlots(native, 9, 70)
    for threads, count in ((1, 9), (3, 9), (3, 4)):
        rows.threads, rows._thread_choosers = threads, {}
        rows._buffers[4] = torch.zeros(threads, MAX_QUERIES, rows._model.cache_positions)
        rows._model.scores = rows._buffers[4].data_ptr()
        fed = np.arange(count)
        for row in fed:
            rows.assign(row, rows.prefill(ids[row, :40], None, 1))
        for t in range(40, 60):
            rows.feed(fed, ids[:count, t], np.full(9, t), None)
            for row in fed:
                assert torch.equal(rows.logits()[row], expected[row][t - 39])


@pytest.mark.parametrize("arch", NATIVE)
def test_it_draws_what_generate_draws(arch: str, library: CDLL) -> None:
    """With prompts shorter and longer than the context, sliding windows, filters, and more prompts
    than rows."""
    model = small_model(**{**NATIVE[arch], "kv_heads": 1})
    prompts = [random_prompt(n, length) for n, length in enumerate((1, 3, 9, 12, 40))]
    for options in ({}, {"greedy": True}, {"top_p": 0.8, "temperature": 0.7}):
        native: Any = NativeModel(model, library, "float32")
        together = draw_rows(native, prompts, list("abcde"), **options)  # type: ignore[arg-type]
        for one, record, draw in zip(prompts, "abcde", together, strict=True):
            config = SampleConfig(length=len(draw), **options)  # type: ignore[arg-type]
            alone = list(generate(model, PLAIN, one, config, record=record))
            assert [id for id, _ in draw] == [step.ids[0] for step in alone]
            logprobs = [step.logprobs[0] for step in alone]
            np.testing.assert_allclose([p for _, p in draw], logprobs, atol=1e-4)


def test_neighbours_change_not_a_bit_of_what_is_drawn(library: CDLL) -> None:
    for tokenizer in (PLAIN, FakeTokenizer(axes=2)):
        native: Any = NativeModel(small_model(axes=tokenizer.axes), library, "float16")
        prompts = [random_prompt(n, 1 + 3 * n % 5) for n in range(9)]
        arguments: dict[str, Any] = dict(length=7, tokenizer=tokenizer)
        whole = draw_rows(native, prompts, list("abcdefghi"), **arguments)
        for chosen in ([4], [8, 2], [7, 1, 0, 5, 3]):
            records = ["abcdefghi"[n] for n in chosen]
            some = draw_rows(native, [prompts[n] for n in chosen], records, **arguments)
            for number, draw in zip(chosen, some, strict=True):
                shared = min(len(draw), len(whole[number]))
                assert draw[:shared] == whole[number][:shared] and shared


def test_what_it_does_not_know_is_left_to_torch(library: CDLL) -> None:
    model = small_model()
    ready, dtype = for_decoding(model, 1, None, library)
    assert isinstance(ready, NativeModel) and dtype == "float32", "a narrow model is not rounded"
    assert for_decoding(small_model(width=128), 32, None, library)[1] == "float16"
    assert not supports(small_model().double())
    other, _ = for_decoding(small_model().double(), 1, None, library)
    assert isinstance(other, SequenceModel)
    model.blocks[0].ffn = torch.nn.Identity()  # a layer that C does not know
    assert not supports(model)
    assert isinstance(for_decoding(small_model(), 1)[0], SequenceModel), "no library"


# -- the library ---------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path) -> str:
    """A compiler script that logs its calls; it fails while its folder has a file `broken`."""
    script = tmp_path / "fake-cc"
    script.write_text(
        f'#!/bin/sh\ncd "{tmp_path}"\n[ "$1" = --version ] && exec echo fake 1.0\n'
        'echo "$@" >> calls\n[ -e broken ] && { echo no such thing >&2; exit 1; }\n'
        'while [ "$1" != -o ]; do shift; done\necho library > "$2"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    if os.name != "posix":
        pytest.skip("a compiler that is a shell script")
    return str(script)


def calls(fake: str) -> int:
    return len((Path(fake).parent / "calls").read_text().splitlines())


def test_a_library_is_made_once_and_again_where_it_is_damaged(fake: str, tmp_path: Path) -> None:
    folder = tmp_path / "native"
    made = native_library._build(folder, [fake])
    assert made is not None and made.read_text() == "library\n"
    assert native_library._build(folder, [fake]) == made and calls(fake) == 1
    for damage in (b"", b"lib", b"Library\n", b"library\n\0"):
        made.write_bytes(damage)
        assert native_library._build(folder, [fake]) == made
        assert made.read_text() == "library\n", "never loaded as it was"
    assert calls(fake) == 5 and sorted(path.name for path in folder.iterdir()) == [made.name]
    assert native_library._build(folder, [fake, "-g"]) != made, "another command, another library"


def test_a_compiler_that_fails_is_not_asked_again(fake: str, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    folder = tmp_path / "native"
    assert native_library._build(folder, [fake]) is None
    assert calls(fake) == 2, "with and without threads"
    assert native_library._build(folder, [fake]) is None and calls(fake) == 2
    (kept,) = folder.iterdir()
    assert kept.suffix == ".failed" and kept.read_text() == "no such thing\n"
    os.utime(kept, (0, 0))
    (tmp_path / "broken").unlink()
    assert native_library._build(folder, [fake]) is not None, "long after, it is"


def test_no_compiler_and_no_room_are_no_error(fake: str, tmp_path: Path) -> None:
    assert native_library.library(tmp_path, "no-such-compiler-here") is None
    assert native_library.library(tmp_path, "") is None
    (tmp_path / "file").touch()
    assert native_library.library(tmp_path / "file", fake) is None, "a folder that cannot be made"
    assert native_library.library(tmp_path, fake) is None, "what it made is no library"


def test_sample_is_the_same_without_a_compiler(tfm: Tfm, trained: Trained, library: CDLL) -> None:
    arguments = ("sample", trained.path, "-p", "the", "--length", 40, "--dtype", "float32")
    with_one = tfm(*arguments)
    without = tfm(*arguments, env={"CC": "no-such-compiler-here"})
    assert without.out == with_one.out and without.err == with_one.err == ""
