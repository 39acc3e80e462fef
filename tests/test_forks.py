"""Many continuations of a prompt that share its cache: in torch and in C they equal the whole model
on each of them, whatever the lengths of the prompts in the batch."""

from ctypes import CDLL
from typing import Any

import numpy as np
import pytest
import torch
from helpers import LOGIT_ERROR, small_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_native import OTHERS

from tfm.core.config import SampleConfig
from tfm.core.decode.forks import (
    Forks,
    NativeForks,
    TorchForks,
    continue_all,
    hypercubes,
    native_model,
)
from tfm.core.decode.sampling import sample_ids_and_fractions
from tfm.core.ops import native_calls

SHARED = ("grouped", "tied, sinusoidal", "no norms, biases", "odd widths", "post-norm", "sandwich")
WITH_FEATURES = {
    "features": dict(features=3),
    "features, sinusoidal": dict(features=1, positions="sinusoidal"),
}
ALIKE, RAGGED = (20, 20, 20), (1, 15, 16, 17, 33, 40)
STEPS = 19  # over the end of a vector of any width


def logits_of(forks: Forks, rows: int) -> torch.Tensor:
    """The next-id logits of each row, as `sample` reads them."""
    if isinstance(forks, NativeForks):
        return forks.logits[:, :23]
    assert isinstance(forks, TorchForks)
    found = forks.model.logits(forks.hidden)
    return found.repeat_interleave(rows // len(found), 0)


@pytest.mark.parametrize("times", (1, 3, 7))
@pytest.mark.parametrize("name", ("transformer", *SHARED, *WITH_FEATURES))
@pytest.mark.parametrize("native", (None, "float32", "bfloat16"))
def test_each_continuation_is_what_the_whole_model_says(
    native: str | None, name: str, times: int, kernels_in_c: None
) -> None:
    """In torch, and in C with weights of either dtype."""
    fields: dict[str, Any] = {
        "context": 64,
        "layers": 2,
        "heads": 2,
        **OTHERS.get(name, WITH_FEATURES.get(name, {})),
    }
    model = small_model(**fields).eval()
    draw = np.random.default_rng(0)
    prompts = [draw.integers(0, 23, length) for length in (RAGGED if native else ALIKE)]
    features = None
    if model.features is not None:
        shapes = [(len(prompt) + STEPS + 1, model.config.features) for prompt in prompts]
        features = [draw.normal(size=shape).astype(np.float32) for shape in shapes]
    rows = len(prompts) * times
    forks: Forks
    if native:
        compiled = native_model(model, native)
        assert compiled is not None
        forks = NativeForks(model, compiled, prompts, times, STEPS + 1, features)
    else:
        forks = TorchForks(model, prompts, times, STEPS + 1, features)
    fed = draw.integers(0, 23, (rows, STEPS))
    whole = [np.concatenate((prompts[row // times], fed[row])) for row in range(rows)]
    wanted = []
    for row, ids in enumerate(whole):
        beside = None
        if features is not None:
            beside = torch.from_numpy(features[row // times][None, : len(ids)])
        with torch.no_grad():
            hidden = model(torch.from_numpy(ids)[None], features=beside)
            wanted.append(model.logits(hidden)[0])
    found, true = [], []
    for step in range(STEPS + 1):
        found += logits_of(forks, rows).clone()
        true += [wanted[row][len(prompts[row // times]) + step - 1] for row in range(rows)]
        if step < STEPS:
            forks.feed(fed[:, step])
    if native == "bfloat16":
        error = (torch.stack(found) - torch.stack(true)).square().mean().sqrt()
        assert error <= LOGIT_ERROR["bfloat16"] * torch.stack(true).std()
    else:
        torch.testing.assert_close(found, true, atol=2e-4, rtol=2e-4)


def test_models_without_a_shared_cache_take_the_plain_way(kernels_in_c: None) -> None:
    for name in ("window", "alibi", "residual lstm", "hybrid"):
        assert native_model(small_model(**OTHERS[name])) is None
    assert native_model(small_model()) is not None


def test_without_a_library_the_plain_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_calls, "_library", None)
    assert native_model(small_model()) is None


def sampled(logits: torch.Tensor, config: SampleConfig, uniforms: Any, legal: Any) -> Any:
    """`NativeForks.sample` of given logits."""
    model = small_model(vocab_size=logits.shape[1])
    compiled = native_model(model)
    assert compiled is not None
    prompts = [np.zeros(1, np.int64)] * len(logits)
    forks = NativeForks(model, compiled, prompts, 1, 1)
    forks.logits[:, : logits.shape[1]] = logits
    return forks.sample(config, uniforms, legal)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.sampled_from((0.5, 1.0, 3.0)), st.sampled_from((5, 130, 400)))
def test_ids_are_drawn_by_inverse_transform(
    kernels_in_c: None, seed: int, temperature: float, size: int
) -> None:
    """The sum of the probabilities below the id, and its part within it, give the number again."""
    draw = np.random.default_rng(seed)
    logits = torch.from_numpy(draw.normal(0, 4, (12, size))).float()
    legal = np.sort(draw.integers(0, size + 1, (12, 2)))
    legal[:, 1] = np.maximum(legal[:, 1], legal[:, 0] + 1)
    legal = np.minimum(legal, [size - 1, size])
    uniforms = draw.random(12)
    uniforms[:3] = 0, np.nextafter(1, 0), 0.5
    ids, within = sampled(logits, SampleConfig(temperature=temperature), uniforms, legal)
    greedy, _ = sampled(logits, SampleConfig(greedy=True), uniforms, legal)
    assert ((ids >= legal[:, 0]) & (ids < legal[:, 1])).all()
    assert ((within >= 0) & (within <= 1)).all()
    for row in range(12):
        low, high = legal[row]
        p = (logits[row, low:high].double() / temperature).softmax(-1).numpy()
        at = ids[row] - low
        assert p[:at].sum() + within[row] * p[at] == pytest.approx(uniforms[row], abs=2e-6)
        assert greedy[row] == low + int(np.argmax(p))


def test_filters_are_those_of_the_plain_way(kernels_in_c: None) -> None:
    draw = np.random.default_rng(3)
    logits = torch.from_numpy(draw.normal(0, 3, (40, 23))).float()
    uniforms, legal = draw.random(40), np.array([[2, 20]] * 40)
    for config in (SampleConfig(top_k=3), SampleConfig(top_p=0.5), SampleConfig(min_p=0.2)):
        ids, within = sampled(logits, config, uniforms, legal)
        wanted, parts = sample_ids_and_fractions(logits[:, 2:20], config, uniforms)
        np.testing.assert_array_equal(ids, wanted + 2)
        np.testing.assert_allclose(within, parts)


@pytest.mark.parametrize("native", (False, True))
def test_every_prompt_is_continued_once(
    native: bool, compiled: CDLL | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if native and compiled is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(native_calls, "_library", compiled if native else None)
    monkeypatch.setattr("tfm.core.decode.forks.NATIVE_ROWS", 12)
    monkeypatch.setattr("tfm.core.decode.forks.BATCH_ROWS", 12)
    model = small_model(context=32).train()
    draw = np.random.default_rng(1)
    prompts = [draw.integers(0, 23, draw.integers(1, 9)) for _ in range(31)]
    names, legal = list(map(str, range(31))), np.array([[0, 23]]).repeat(31, 0)
    uniforms, out = hypercubes(0, names, 4, 6), np.full((31, 4, 6), -1)
    for some, sampled, _ in continue_all(model, prompts, names, 4, 6, legal, SampleConfig()):
        assert (out[some] == -1).all()
        out[some] = sampled
    assert model.training
    same = []
    with torch.no_grad():
        for prompt, paths, numbers in zip(prompts, out, uniforms, strict=True):
            for ids, own in zip(paths, numbers, strict=True):
                whole = torch.from_numpy(np.concatenate((prompt, ids)))[None]
                logits = model.eval().logits(model(whole))[0, len(prompt) - 1 : -1]
                wanted, _ = sample_ids_and_fractions(logits, SampleConfig(), own)
                same.append(ids == wanted)
    assert np.mean(same) > (0.97 if native else 0.998)  # a number at the edge of an id may round
