"""Laws of the patch tokenizer: exact ones give every picture back, learned ones their own ids, and
the ids of all pictures of a size share out the whole probability."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from helpers import small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfm.core.decode.sampling import generate
from tfm.core.errors import DataError
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.score.likelihood import evaluate
from tfm.tokenizers.patches import MAX_IDS, Form, PatchTokenizer, Picture, exact_ids

PATCHES = [(1, 1), (2, 2), (4, 2), (1, 3), (3, 2)]
LABELS = ("cat", "dog", "7")


@st.composite
def exact(draw: st.DrawFn) -> tuple[PatchTokenizer, Picture]:
    """A tokenizer and a picture for it: any size, channels, levels, and place of the label."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    levels = draw(st.sampled_from([2, 3, 4, 16, 17, 64, 256]))
    channels = draw(st.sampled_from([1, 3, 4]))
    form = Form(height, width, channels, levels, levels)
    few = [p for p in PATCHES if exact_ids(form, p, joint=False) <= MAX_IDS]
    place = draw(st.sampled_from(["none", "first", "last"]))
    labels = LABELS if place != "none" else ()
    tokenizer = PatchTokenizer(form, draw(st.sampled_from(few)), labels, place)
    pixels = draw(arrays(np.uint8, (height, width, channels), elements=st.integers(0, levels - 1)))
    return tokenizer, Picture(pixels, draw(st.sampled_from(LABELS)) if labels else None)


def legal(tokenizer: PatchTokenizer, sequence: Sequence) -> bool:
    """Whether every id is one that its position allows."""
    support = tokenizer.support(len(sequence), sequence.side)
    ranges = np.broadcast_to(np.array(support), (len(sequence), 2))[1:]
    return bool(((ranges[:, 0] <= sequence.ids[1:]) & (sequence.ids[1:] < ranges[:, 1])).all())


def restored(tokenizer: PatchTokenizer) -> PatchTokenizer:
    return PatchTokenizer.from_state(*tokenizer.state())


@given(exact())
@settings(deadline=None, max_examples=300)
def test_exact_patches_give_the_picture_back(case: tuple[PatchTokenizer, Picture]) -> None:
    tokenizer, picture = case
    sequence = tokenizer.encode(picture)
    back = restored(tokenizer).decode(sequence.ids, sequence.side)
    assert (back.pixels == picture.pixels).all() and back.label == picture.label
    assert len(sequence) == tokenizer.length(*picture.pixels.shape[:2])
    assert sequence.ids.max() < tokenizer.vocab_size and legal(tokenizer, sequence)


@given(exact())
@settings(deadline=None)
def test_every_id_stands_alone(case: tuple[PatchTokenizer, Picture]) -> None:
    tokenizer, picture = case
    sequence = tokenizer.encode(picture)
    places = tokenizer.positions(len(sequence), sequence.side)
    assert places.shape == (len(sequence), tokenizer.axes)
    assert len({tuple(place) for place in places.tolist()}) == len(sequence)


@given(exact(), st.integers(0, 5))
@settings(deadline=None)
def test_nothing_is_legal_behind_the_end(case: tuple[PatchTokenizer, Picture], more: int) -> None:
    tokenizer, picture = case
    sequence = tokenizer.encode(picture)
    support = tokenizer.support(len(sequence) + 1 + more, sequence.side)
    assert isinstance(support, np.ndarray) and (support[len(sequence) :] == 0).all()
    assert len(tokenizer.positions(len(sequence) + 1 + more, sequence.side)) == len(support)


def test_binary_patches_are_their_pixels_as_bits() -> None:
    tokenizer = PatchTokenizer(Form(2, 4, 1, 2, 2), (2, 2))
    pixels = np.array([[1, 0, 0, 0], [0, 1, 1, 1]], np.uint8)[..., None]
    assert tokenizer.encode(Picture(pixels)).ids.tolist() == [16, 0b1001, 0b1100]
    assert tokenizer.vocab_size == 17


def test_rows_come_before_columns() -> None:
    tokenizer = PatchTokenizer(Form(2, 3, 1, 17, 17))
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    assert tokenizer.encode(Picture(pixels)).ids.tolist() == [17, 0, 1, 2, 3, 4, 5]
    places = tokenizer.positions(7, tokenizer.side(2, 3)).tolist()
    assert places == [[0, 0], [1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]


@functools.cache
def learned(channels: int, size: int = 6, place: str = "none") -> PatchTokenizer:
    random = np.random.default_rng(0)
    form = Form(size, size, channels)
    pixels = random.integers(0, 256, (40, size, size, channels)).astype(np.uint8)
    labels = LABELS if place != "none" else ()
    return PatchTokenizer.fit(pixels, form, (2, 2), 16, 2, labels, place)


@pytest.mark.parametrize("channels", [1, 3])
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 7), width=st.integers(1, 7))
@settings(deadline=None, max_examples=50)
def test_learned_ids_come_back(channels: int, seed: int, height: int, width: int) -> None:
    tokenizer = learned(channels)
    side = tokenizer.side(height, width)
    support = tokenizer.support(1 + tokenizer.length(height, width), side)[1:-1]  # type: ignore[index]
    random = np.random.default_rng(seed)
    ids = np.concatenate(([tokenizer.begin], random.integers(support[:, 0], support[:, 1])))
    sequence = Sequence(ids, side=side)
    again = restored(tokenizer).encode(tokenizer.decode(ids, side), like=sequence)
    assert again.ids.tolist() == ids.tolist()


def test_a_second_stage_is_closer() -> None:
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)
    errors = []
    for stages in (1, 2, 3):
        tokenizer = PatchTokenizer.fit(pixels, Form(8, 8), (2, 2), 32, stages)
        errors.append(sum(tokenizer.encode(Picture(p)).side["error"] for p in pixels))
    assert errors[0] > errors[1] > errors[2] > 0


def test_few_different_patches_are_learned_whole() -> None:
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    pixels[1] = 200
    tokenizer = PatchTokenizer.fit(pixels, Form(4, 4, 3), (4, 4), 512, 3)
    assert [len(book) for book in tokenizer.codebooks] == [2]
    assert tokenizer.encode(Picture(pixels[1])).side["error"] == 0


def test_an_unknown_label_is_named() -> None:
    tokenizer = PatchTokenizer(Form(1, 1, 1, 2, 2), labels=LABELS, label_position="first")
    with pytest.raises(DataError, match="label cow: not one of .*cat, dog"):
        tokenizer.encode(Picture(np.zeros((1, 1, 1), np.uint8), "cow"))


# -- under a model -------------------------------------------------------------------------------


def model_for(tokenizer: PatchTokenizer, length: int) -> SequenceModel:
    return small_model(vocab_size=tokenizer.vocab_size, axes=2, context=length - 1)


def all_binary(height: int, width: int) -> list[np.ndarray]:
    bits = itertools.product((0, 1), repeat=height * width)
    return [np.array(b, np.uint8).reshape(height, width, 1) for b in bits]


@pytest.mark.parametrize(
    "size, patch", [((4, 3), (2, 1)), ((3, 3), (1, 1)), ((3, 4), (4, 2)), ((3, 4), (2, 3))]
)
def test_probabilities_of_all_binary_pictures_sum_to_one(
    size: tuple[int, int], patch: tuple[int, int]
) -> None:
    """Patches that reach over the edge have fewer ids there."""
    tokenizer = PatchTokenizer(Form(*size, 1, 2, 2), patch)
    model = model_for(tokenizer, tokenizer.length(*size))
    sequences = (tokenizer.encode(Picture(pixels)) for pixels in all_binary(*size))
    nll = [score.nll for score in evaluate(model, tokenizer, sequences)]
    assert abs(np.exp(-np.array(nll)).sum() - 1) < 1e-5
    assert np.std(nll) > 0.1  # a model that is not uniform


@pytest.mark.parametrize("place", ["first", "last"])
def test_pictures_with_labels_sum_to_one(place: str) -> None:
    tokenizer = PatchTokenizer(Form(3, 3, 1, 2, 2), (2, 2), LABELS, place)
    model = model_for(tokenizer, tokenizer.length(3, 3))
    pictures = [Picture(p, label) for p in all_binary(3, 3) for label in LABELS]
    nll = [s.nll for s in evaluate(model, tokenizer, map(tokenizer.encode, pictures))]
    assert abs(np.exp(-np.array(nll)).sum() - 1) < 1e-5


@pytest.mark.parametrize("place", ["none", "first", "last"])
@pytest.mark.parametrize("kind", ["exact", "edges", "channels", "learned"])
def test_every_sample_decodes(kind: str, place: str) -> None:
    from tfm.core.config import SampleConfig

    labels = LABELS if place != "none" else ()
    tokenizer = {
        "exact": PatchTokenizer(Form(5, 4, 1, 17, 17), (1, 1), labels, place),
        "edges": PatchTokenizer(Form(5, 3, 1, 2, 2), (4, 2), labels, place),
        "channels": PatchTokenizer(Form(2, 3, 3), (1, 1), labels, place),
        "learned": learned(3, place=place),
    }[kind]
    form = tokenizer.form
    length = tokenizer.length(form.height, form.width)
    side = tokenizer.side(form.height, form.width)
    prompt = Sequence(np.array([tokenizer.begin]), side=side)
    steps = list(
        generate(model_for(tokenizer, length), tokenizer, prompt, SampleConfig(length=999), 3)
    )
    assert len(steps) == length - 1  # it ends by itself
    for draw in range(3):
        ids = np.array([tokenizer.begin, *(step.ids[draw] for step in steps)])
        picture = tokenizer.decode(ids, side)
        assert picture.pixels.shape == (form.height, form.width, form.channels)
        assert (picture.label in LABELS) == bool(labels)
        assert tokenizer.encode(picture, like=Sequence(ids, side=side)).ids.tolist() == ids.tolist()
