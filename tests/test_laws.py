"""The laws that authors of tokenizers and mixers test find each thing that can be wrong."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tfm.core import entry_points
from tfm.core.config import ModelConfig
from tfm.core.laws import check_tokenizer
from tfm.core.model.attention import Attention
from tfm.core.model.laws import check_mixer
from tfm.core.model.mixer import Context
from tfm.core.model.rnn import Recurrent
from tfm.core.protocols import Ids, Sequence, Tokenizer

ITEMS = [[], [3], [1, 2, 3, 9]]


class Digits(Tokenizer):
    """Digits as ids. It obeys all laws."""

    vocab_size, begin = 11, 10

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def encode(self, item: list[int], like: Sequence | None = None) -> Sequence:
        return Sequence(np.array([10, *((n + self.shift) % 10 for n in item)], np.int64))

    def decode(self, ids: Ids, side: Mapping[str, Any]) -> list[int]:
        return [(id - self.shift) % 10 for id in ids.tolist() if id < 10]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return {"shift": self.shift}, {}


def changed(sequence: Sequence, **fields: Any) -> Sequence:
    return Sequence(**{**vars(sequence), **fields})


def encoding(change: Any) -> type[Digits]:
    """Digits whose sequences are changed."""
    own = {"encode": lambda self, item, like=None: change(Digits.encode(self, item))}
    return type("Changed", (Digits,), own)


WRONG: dict[str, tuple[type[Digits], str]] = {
    "loses": (type("", (Digits,), {"decode": lambda self, ids, side: [1]}), "decode gives [1]"),
    "no state": (type("", (Digits,), {"state": lambda self: ({}, {})}), "encodes otherwise"),
    "no begin": (encoding(lambda s: changed(s, ids=np.append(0, s.ids[1:]))), "the first id is 0"),
    "two begins": (encoding(lambda s: changed(s, ids=np.append(s.ids, 10))), "is predicted"),
    "beyond": (encoding(lambda s: changed(s, ids=np.append(s.ids, 11))), "are not all 0 to 10"),
    "int32": (encoding(lambda s: changed(s, ids=s.ids.astype(np.int32))), "ids are int32"),
    "given": (encoding(lambda s: changed(s, given=0)), "given is 0"),
    "weight": (encoding(lambda s: changed(s, weight=-np.ones(len(s), np.float32))), "negative"),
    "side": (encoding(lambda s: changed(s, side={"at": (1, 2), 3: 4})), "no JSON"),
    "support": (type("", (Digits,), {"support": lambda self, n, side: (0, 5)}), "are not legal"),
    "axes": (
        type("", (Digits,), {"axes": 2, "positions": lambda self, n, side: np.zeros((n, 1), int)}),
        "positions are (1, 1), not (1, 2)",
    ),
    "later": (
        type("", (Digits,), {"positions": lambda self, n, side: np.full((n, 1), n)}),
        "depend on the length",
    ),
    "later support": (
        type("", (Digits,), {"support": lambda self, n, side: (n % 2 - 1, 11)}),
        "depends on the length",
    ),
    "ordered": (type("", (Digits,), {"ordered": ((0, 12),)}), "beyond the vocabulary"),
}


def test_a_good_tokenizer_passes() -> None:
    for shift in (0, 3):
        check_tokenizer(Digits(shift), ITEMS)


@pytest.mark.parametrize("name", WRONG)
def test_a_broken_tokenizer_is_found(name: str) -> None:
    kind, said = WRONG[name]
    with pytest.raises(AssertionError) as found:
        check_tokenizer(kind(3), ITEMS)
    assert said in str(found.value)


# -- mixers --------------------------------------------------------------------------------------


class Blind(Recurrent):
    """Carries its state from one item of a row to the next."""

    def __init__(self, config: ModelConfig, block: int) -> None:
        super().__init__(config, "gru")

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return super().forward(x, Context())


class Prophet(Blind):
    """Sees the next position."""

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return Recurrent.forward(self, x, context) + x.roll(-1, 1)


class Restless(Blind):
    """Moves the state of rows that take nothing."""

    forward = Recurrent.forward

    def step(self, x: Tensor, context: Context, cache: Any) -> Tensor:
        return super().step(x, Context(), cache)


class Forgetful(Blind):
    """Starts anew in each step."""

    forward = Recurrent.forward

    def step(self, x: Tensor, context: Context, cache: Any) -> Tensor:
        return self.forward(x, Context())


class Narrow(Attention):
    """Sees two positions, and says that it sees all."""

    def __init__(self, config: ModelConfig, block: int) -> None:
        super().__init__(config)
        self.window = 2
        self.reach = None


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (Blind, "an item depends on another one in its row"),
        (Prophet, "is seen by an earlier one"),
        (Restless, "which takes 0 to 3 ids a step, differs from forward"),
        (Forgetful, "differ from forward"),
        (Narrow, "is not seen by every later one"),
    ],
)
def test_a_broken_mixer_is_found(
    kind: type[torch.nn.Module], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = metadata.EntryPoint("broken", f"{__name__}:{kind.__name__}", "tfm.mixers")
    entry_points.entry_points.cache_clear()
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    try:
        with pytest.raises(AssertionError, match=said):
            check_mixer("broken")
    finally:
        entry_points.entry_points.cache_clear()


@pytest.mark.parametrize("name", ["attention", "conv", "lstm"])
def test_a_mixer_of_tfm_passes(name: str) -> None:
    check_mixer(name)
