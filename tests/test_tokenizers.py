"""The laws of tokenizers: what is encoded can be decoded, whatever it says, and a tokenizer that
was written down is the same tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Tfm
from hypothesis import given, settings
from hypothesis import strategies as st

from tfm.core.errors import DataError
from tfm.core.laws import check_tokenizer
from tfm.tokenizers.bins import BinsTokenizer, Window
from tfm.tokenizers.bpe import PIECE_CHARS, BpeTokenizer
from tfm.tokenizers.byte import SingleByteTokenizer
from tfm.tokenizers.char import CharTokenizer
from tfm.tokenizers.integers import IntegerTokenizer
from tfm.tokenizers.mixed import MixedTokenizer
from tfm.tokenizers.patches import Form, PatchTokenizer, Picture

TEXTS = ["the cat sat on the mat\n", "naïve café, 東京, \U0001f600!\n", "  1 + 1 = 2\n"] * 20
SPECIAL = ["<|endoftext|>", "<s>", "</s>", "[PAD]", "<|im_start|>", "<unk>"]

# all of Unicode, and the spellings that tokenizers have plans for
words = st.one_of(st.text(), st.sampled_from([*SPECIAL, " ", "\n", "\r\n", "\x00", "\ufffd", "ab"]))
strings = st.lists(words, max_size=8).map("".join)


def ready_made(**settings: Any) -> Any:
    """A `tokenizer.json` as others make them: byte-level BPE and special tokens."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=settings.get("add_prefix_space", False)
    )
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if settings.get("all_bytes", True) else []
    inner.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=300, show_progress=False, special_tokens=SPECIAL, initial_alphabet=alphabet
        ),
    )
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, inner.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    inner.enable_truncation(4)
    inner.enable_padding(length=8, pad_token="[PAD]")
    return inner


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ready") / "tokenizer.json"
    ready_made().save(str(path))
    return path


BPE = BpeTokenizer.fit(TEXTS, 300)
MAKERS: dict[str, Callable[[Path, bool], Any]] = {
    "byte": lambda _, ends: SingleByteTokenizer(ends, text=True),
    "char": lambda _, ends: CharTokenizer.fit(TEXTS, ends),
    "bpe": lambda _, ends: BpeTokenizer.fit(TEXTS, 300, ends),
    "hf": lambda ready, ends: BpeTokenizer.load(str(ready), ends),
}


@pytest.fixture(
    scope="module", params=[(name, e) for name in MAKERS for e in (False, True)], ids=str
)
def tokenizer(request: pytest.FixtureRequest, ready: Path) -> Any:
    """Every tokenizer of text, of items without and with an end."""
    name, ends = request.param
    return MAKERS[name](ready, ends)


@given(text=strings)
@settings(deadline=None, max_examples=100)
def test_laws_of_text(tokenizer: Any, text: str) -> None:
    check_tokenizer(tokenizer, [text])


@given(data=st.binary(), ends=st.booleans())
def test_laws_of_bytes(data: bytes, ends: bool) -> None:
    tokenizer = SingleByteTokenizer(ends)
    check_tokenizer(tokenizer, [data])
    assert len(tokenizer.encode(data)) == len(data) + 1 + ends


@given(numbers=st.lists(st.integers(0, 11)), ends=st.booleans())
def test_laws_of_integers(numbers: list[int], ends: bool) -> None:
    check_tokenizer(IntegerTokenizer(12, ends), [" ".join(map(str, numbers))])


DRAW = np.random.default_rng(0)
FORMS = {
    "grey": (Form(4, 6, levels=256), (1, 1)),
    "patches": (Form(4, 6, channels=3, levels=2), (2, 2)),
    "channels": (Form(4, 6, channels=3, levels=256), (1, 1)),
}


@pytest.mark.parametrize("position", ["none", "first", "last"])
@pytest.mark.parametrize("kind", FORMS)
def test_laws_of_pictures(kind: str, position: str) -> None:
    form, patch = FORMS[kind]
    labels = () if position == "none" else ("cat", "dog")
    tokenizer = PatchTokenizer(form, patch, labels, position)
    for label in labels or (None,):
        pixels = DRAW.integers(0, form.levels, (4, 6, form.channels)).astype(np.uint8)
        check_tokenizer(tokenizer, [Picture(pixels, label)])


@pytest.mark.parametrize("spec", ["bins", "bins:50", "bins:uniform:30", "bins:chronos"])
def test_laws_of_series(spec: str) -> None:
    values = DRAW.normal(size=(20, 40)).cumsum(1)
    values[3:5, 7] = np.nan
    tokenizer = BinsTokenizer.fit(spec, values, np.full(20, 30), 4, 30)
    check_tokenizer(tokenizer, [Window(row, 30) for row in values[:6]])


def test_laws_of_a_mixture() -> None:
    parts = {"a": CharTokenizer.fit(TEXTS), "b": SingleByteTokenizer(True)}
    check_tokenizer(MixedTokenizer(parts), [("a", "the cat")])
    b = MixedTokenizer(dict(reversed(parts.items())))
    check_tokenizer(b, [("b", b"any\xff")])


@given(text=strings)
@settings(deadline=None)
def test_an_item_begins_and_ends_where_it_should(tokenizer: Any, text: str) -> None:
    sequence = tokenizer.encode(text)
    inside = sequence.ids[1 : -1 if tokenizer.ends else None]
    assert sequence.given == 1 and sequence.ids[0] == tokenizer.begin
    assert (inside == tokenizer.tokens(text)).all()
    assert (inside < tokenizer.end).all(), "begin and end are never parsed out of text"
    if tokenizer.ends:
        assert sequence.ids[-1] == tokenizer.end


def test_only_the_begin_token_is_never_drawn(tokenizer: Any) -> None:
    assert tokenizer.support(10, {}) == (0, tokenizer.begin)
    assert tokenizer.begin == tokenizer.vocab_size - 1
    assert tokenizer.ends == (tokenizer.end < tokenizer.begin), "an end, where there is one, is"


def merged(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """A word cut by merges, the first in order wherever it is (Sennrich et al. 2016, algorithm
    1): slow and plain."""
    parts = list(word)
    for pair in merges:
        at = 0
        while at + 1 < len(parts):
            if (parts[at], parts[at + 1]) == pair:
                parts[at : at + 2] = ["".join(pair)]
            at += 1
    return parts


@given(text=strings, seed=st.integers(0, 99), rate=st.sampled_from((0.0, 0.1, 0.5, 1.0)))
@settings(deadline=None, max_examples=50)
def test_a_text_is_cut_otherwise_without_some_merges(text: str, seed: int, rate: float) -> None:
    whole = BPE
    out = np.random.default_rng(seed).random(whole.merge_count) < rate
    other = whole.without(out)
    assert (other.vocab_size, other.begin) == (whole.vocab_size, whole.begin)
    ids = other.tokens(text)
    assert other.decode(ids, {}) == text == whole.decode(ids, {})
    merges = [tuple(pair) for pair in json.loads(whole.inner.to_str())["model"]["merges"]]
    left = [pair for pair, skipped in zip(merges, out, strict=True) if not skipped]
    words = whole.inner.pre_tokenizer.pre_tokenize_str(text)
    names = [part for word, _ in words for part in merged(word, left)]
    assert [whole.inner.id_to_token(id) for id in ids.tolist()] == names


@pytest.mark.parametrize("spelled", SPECIAL)
def test_a_special_token_in_text_is_text(ready: Path, spelled: str) -> None:
    tokenizer = BpeTokenizer.load(str(ready))
    special = tokenizer.inner.token_to_id(spelled)
    ids = tokenizer.tokens(f"a {spelled} b").tolist()
    assert special is not None and special not in ids
    assert len(ids) > len(spelled) // 2, "neither cut nor padded, spelled out"


def test_a_character_not_seen_in_training_is_spelled_in_bytes() -> None:
    tokenizer = CharTokenizer.fit(["abc"])
    assert tokenizer.vocab_size == 256 + 3 + 1
    assert tokenizer.tokens("cé").tolist() == [258, 0xC3, 0xA9]


UNITS = {
    "one letter": "a",
    "spaces": " ",
    "cut at a wide character": "x" * (PIECE_CHARS - 1) + "\U0001f600\n",
}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_a_million_characters_without_a_break(ready: Path, kind: str, unit: str) -> None:
    tokenizer = MAKERS[kind](ready, False)
    text = unit * (1_000_000 // len(unit))
    assert tokenizer.decode(tokenizer.tokens(text), {}) == text


def test_a_long_text_is_cut_without_loss(tokenizer: Any) -> None:
    draw = np.random.default_rng(0)
    points = np.concatenate((draw.integers(32, 0x3000, 40_000), draw.choice([10, 32], 9_000)))
    text = "".join(map(chr, draw.permutation(points)))
    ids = tokenizer.tokens(text)
    assert tokenizer.decode(ids, {}) == text
    assert b"".join(tokenizer.decode_bytes(ids[i : i + 99]) for i in range(0, len(ids), 99)) == (
        text.encode()
    )


def test_what_a_ready_tokenizer_loses_is_not_called_lossless() -> None:
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    assert BpeTokenizer(ready_made().to_str()).lossless
    lower = ready_made()
    lower.normalizer = normalizers.Lowercase()
    spaced = ready_made()
    spaced.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    greedy = ready_made()
    greedy.add_tokens([AddedToken("cat", lstrip=True, rstrip=True)])
    losers = {
        "lower case": lower,
        "spaces dropped": spaced,
        "a token that swallows spaces": greedy,
        "a space added": ready_made(add_prefix_space=True),
        "bytes without a token": ready_made(all_bytes=False),
    }
    for name, inner in losers.items():
        tokenizer = BpeTokenizer(inner.to_str())
        text = "the cat sat \u00ff\U0001f648 ON"
        assert tokenizer.decode(tokenizer.tokens(text), {}) != text, f"{name}: loses nothing here"
        assert not tokenizer.lossless, name


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": 1}')
    with pytest.raises(DataError, match="not a tokenizer.json"):
        BpeTokenizer.load(str(tmp_path))


# -- any bytes -----------------------------------------------------------------------------------


@given(data=st.binary(max_size=200) | strings.map(str.encode))
@settings(max_examples=60)
@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_any_bytes_have_ids(kind: str, data: bytes) -> None:
    tokenizer = {
        "byte": lambda: SingleByteTokenizer(text=True),
        "char": lambda: CharTokenizer.fit(TEXTS),
        "bpe": lambda: BpeTokenizer.fit(TEXTS, 300),
    }[kind]()
    ids = tokenizer.ids_of_bytes(data)
    assert tokenizer.decode_bytes(ids) == data
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    assert ids.tolist() == tokenizer.tokens(text).tolist()


# -- tokenizers of other makers ------------------------------------------------------------------


def of_words(kind: str, unknown: bool) -> str:
    """The JSON of a tokenizer that knows `the` and `fox`, with or without an unknown token."""
    import tokenizers
    from tokenizers import models, pre_tokenizers

    words = {"the": 0, "fox": 1, "[UNK]": 2}
    token = {"unk_token": "[UNK]"} if unknown else {}
    vocabulary = {word: id for word, id in words.items() if unknown or word != "[UNK]"}
    model = {
        "WordLevel": lambda: models.WordLevel(vocabulary, **token),
        "WordPiece": lambda: models.WordPiece(vocabulary, **token),
        "Unigram": lambda: models.Unigram(
            [(word, -1.0) for word in vocabulary], unk_id=2 if unknown else None
        ),
    }[kind]()
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return str(inner.to_str())


@pytest.mark.parametrize("unknown", [True, False])
@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_words_that_are_not_known(kind: str, unknown: bool) -> None:
    tokenizer = BpeTokenizer(of_words(kind, unknown))
    assert not tokenizer.lossless
    if unknown or kind != "Unigram":  # which wants to know every letter
        assert tokenizer.tokens("the fox").tolist() == [0, 1]
    if unknown:
        assert 2 in tokenizer.tokens("the cat").tolist()
    else:
        with pytest.raises(DataError, match="no token for a part of the text"):
            tokenizer.tokens("the cat")
    with pytest.raises(DataError, match="do not stand for arbitrary bytes"):
        tokenizer.ids_of_bytes(b"the")


def test_a_run_with_a_tokenizer_of_words(tfm: Tfm) -> None:
    """Its likelihood is of no exact number of bytes, so that bits per byte are null."""
    (tfm.folder / "known.json").write_text(of_words("WordLevel", True))
    (tfm.folder / "strict.json").write_text(of_words("WordLevel", False))
    (tfm.folder / "a.txt").write_text("the quick fox and the fox\n" * 60)
    train = ("train", "a.txt", "--size", "nano", "--steps", 1, "-q", "--json")
    scores = tfm(*train, "--tokenizer", "known.json").json()
    assert scores["bits_per_byte"] is None and scores["nll"] > 0
    assert "no token for a part" in tfm.error(*train, "--tokenizer", "strict.json")
    done = tfm("score", stdin=b"the fox\n\xff\n", code=2)
    assert len(done.lines()) == 1 and "standard input, line 2: " in done.err
    assert "arbitrary bytes" in tfm.error("compress", "a.txt")


def test_the_hub_is_found_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tfm.core.data import hub

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "")
    hub._reachable.cache_clear()
    try:
        assert hub.look_for(str(tmp_path)) and not os.environ["HF_HUB_OFFLINE"], "a folder here"
        assert not hub.look_for("nobody/nothing") and os.environ["HF_HUB_OFFLINE"] == "1"
    finally:
        hub._reachable.cache_clear()


def test_dropout_of_a_tokenizer_is_off() -> None:
    """BPE-dropout inside a tokenizer.json would give a text other ids each time."""
    spec = json.loads(BpeTokenizer.fit(TEXTS, 300).inner.to_str())
    plain = BpeTokenizer(json.dumps(spec))
    spec["model"]["dropout"] = 0.9
    dropping = BpeTokenizer(json.dumps(spec))
    text = "".join(TEXTS)
    assert dropping.tokens(text).tolist() == plain.tokens(text).tolist()


# -- text without spaces -------------------------------------------------------------------------


def test_merges_are_learned_from_words_of_bounded_length() -> None:
    from tfm.tokenizers.bpe import LONG_WORDS_CHARS, WORD_CHARS, _bounded

    texts = ["some words, " * 9, "x" * 100, "12" * 50 + "a" * 40 + " " * 50, "naïve" * 20 + " end"]
    for text in texts:
        pieces = list(_bounded([text]))
        assert "".join(pieces) == text, "nothing is lost of little text"
        assert all(len(word) <= WORD_CHARS or " " in word for word in "|".join(pieces).split("|"))
    many = list(_bounded(["ACGT" * (LONG_WORDS_CHARS // 2), " the end"]))
    assert sum(map(len, many)) == LONG_WORDS_CHARS + len(" the end")


def test_a_signal_ends_the_learning_of_merges() -> None:
    import os
    import signal
    import threading
    import time

    class Stop(Exception):
        pass

    def stop(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGINT, stop)
    try:
        digits = "".join(map(str, np.random.default_rng(0).integers(0, 10, 500_000)))
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        began = time.monotonic()
        with pytest.raises(Stop):
            for _ in range(50):
                BpeTokenizer.fit([digits], 4000)
        assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGINT, before)
        timer.cancel()
