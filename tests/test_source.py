"""A toy encoder-decoder model, defined in this file: the given ids of an item are its source.

The core has the interface: `Batch.source`, `Context.memory`, `SequenceModel.encode`, `prefill`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import FakeTokenizer
from torch import Tensor, nn

from tfm.core.config import ModelConfig, SampleConfig, TrainConfig
from tfm.core.data.datasets import Packed, collate
from tfm.core.data.sequence_store import Store, write_store
from tfm.core.decode.batch_decoder import Decoder
from tfm.core.decode.sampling import generate
from tfm.core.errors import DataError
from tfm.core.model.attention import Attention, KeyValues
from tfm.core.model.mixer import Context
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.protocols import Sequence
from tfm.core.score.likelihood import batch_nll, evaluate
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

VOCAB, BEGIN, SOURCE = 12, 11, 5
SHAPE = ModelConfig(vocab_size=VOCAB, layers=2, width=32, heads=2, context=24, positions="learned")


class Memory:
    """A KV cache of self-attention, and each row's encoded source (S, D)."""

    def __init__(self, own: KeyValues, source: list[Tensor | None]) -> None:
        self.own, self.source = own, source

    def select(self, rows: Tensor) -> Memory:
        return Memory(self.own.select(rows), [self.source[row] for row in rows.tolist()])

    def assign(self, row: int, other: Memory) -> None:
        self.own.assign(row, other.own)
        self.source[row] = other.source[0]


class CrossMixer(nn.Module):
    """Self-attention plus cross-attention of each position to the source of its own item."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.own = Attention(config)
        self.query = nn.Linear(config.width, config.width)
        self.dropout, self.qkv = 0.0, self.own.qkv

    def forward(self, x: Tensor, context: Context) -> Tensor:
        if context.memory is None or context.segments is None:
            raise ValueError("needs a source")
        seen = context.segments[:, :, None] == context.memory_segments[:, None]  # type: ignore[index]
        return self.own(x, context) + self._look(x, context.memory, seen)  # type: ignore[no-any-return]

    def _look(self, x: Tensor, memory: Tensor, seen: Tensor | None) -> Tensor:
        scores = self.query(x) @ memory.mT
        if seen is not None:
            scores = scores.masked_fill(~seen, -1e9)
        return scores.softmax(-1) @ memory

    def start(self, batch: int, length: int) -> Memory:
        return Memory(self.own.start(batch, length), [None] * batch)

    def step(self, x: Tensor, context: Context, cache: Memory) -> Tensor:
        if context.memory is not None:
            cache.source = list(context.memory)
        looked = torch.zeros_like(x)
        for row, memory in enumerate(cache.source):
            if memory is not None:
                looked[row] = self._look(x[row : row + 1], memory[None], None)[0]
        return self.own.step(x, context, cache.own) + looked

    def flops(self, length: int) -> float:
        return self.own.flops(length)


class ToyEncoderDecoder(SequenceModel):
    has_encoder = True

    def __init__(self, config: ModelConfig = SHAPE) -> None:
        super().__init__(config)
        self.place = nn.Embedding(SOURCE + 1, config.width)
        for block in self.blocks:
            block.mixer = CrossMixer(config)

    def encode(self, source: Tensor, segments: Tensor | None) -> Tensor:
        """Each source id's embedding plus that of its position in its item."""
        at = torch.arange(source.shape[1]).expand(source.shape)
        if segments is not None:
            first = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0)) * at
            at = at - first.cummax(1).values
        return self.embedding(source) + self.place(at)  # type: ignore[no-any-return]


def pairs(count: int, seed: int = 0) -> list[Sequence]:
    """Items whose source is five ids and the begin token; the target is the source reversed."""
    draw = np.random.default_rng(seed).integers(0, 10, (count, SOURCE))
    return [Sequence(np.concatenate((ids, [BEGIN], ids[::-1])), SOURCE + 1) for ids in draw]


def lively() -> ToyEncoderDecoder:
    torch.manual_seed(0)
    model = ToyEncoderDecoder().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def whole(sequence: Sequence) -> tuple[Sequence, int, int]:
    return sequence, sequence.given - 1, len(sequence)


TOKENIZER: Any = FakeTokenizer(VOCAB)


def test_given_ids_are_the_source_and_the_rest_is_predicted() -> None:
    one, two = pairs(2)
    batch = collate([[whole(one), whole(two)], [whole(two)]], TOKENIZER, 14, encoder=True)
    assert batch.source is not None and batch.source_segments is not None
    assert batch.source.shape == (2, 12)
    np.testing.assert_array_equal(batch.source[0], [*one.ids[:6], *two.ids[:6]])
    np.testing.assert_array_equal(batch.source_segments[1], [0] * 6 + [-1] * 6)
    np.testing.assert_array_equal(batch.ids[0, :6], one.ids[5:])
    np.testing.assert_array_equal(batch.weight[0], [0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0])
    with pytest.raises(ValueError, match="one piece"):
        collate([[(one, 0, 11)]], TOKENIZER, 14, encoder=True)


def test_packed_items_look_at_their_own_source() -> None:
    """Each item has the same nats alone and packed with other items."""
    model, items = lively(), pairs(4)
    alone = [
        batch_nll(model, collate([[whole(item)]], TOKENIZER, 6, encoder=True))[0] for item in items
    ]
    packed = batch_nll(model, collate([[*map(whole, items)]], TOKENIZER, 25, encoder=True))[0]
    for number, nats in enumerate(alone):
        start = 6 * number
        torch.testing.assert_close(packed[start : start + 5], nats[:5], rtol=1e-4, atol=1e-4)
    scores = list(evaluate(model, TOKENIZER, items))
    for score, nats in zip(scores, alone, strict=True):
        np.testing.assert_allclose(score.nats, nats[:5].numpy(), rtol=1e-4)
    other = replace(items[0], ids=np.concatenate(([9], items[0].ids[1:])))
    changed = batch_nll(model, collate([[whole(other)]], TOKENIZER, 6, encoder=True))[0]
    assert float((changed[:5] - alone[0][:5]).abs().min()) > 1e-4, "the source matters everywhere"


def test_sampling_reads_the_source_once_and_continues() -> None:
    """`Decoder` and `generate` work unchanged, through `prefill` and the mixer's own cache."""
    model, config = lively(), SampleConfig(length=5, seed=3)
    prompts = [Sequence(each.ids[: each.given], each.given) for each in pairs(3, seed=1)]
    decoder = Decoder(model, TOKENIZER, config, rows=2)
    for number, prompt in enumerate(prompts):
        alone = generate(model, TOKENIZER, prompt, config, record=str(number))
        expected = [drawn.ids[0] for drawn in alone]
        row = decoder.begin(prompt, 5, str(number))
        found = []
        for _ in range(5):
            drawn = decoder.step()[row]
            assert drawn is not None
            found.append(drawn[0])
        decoder.end(row)
        assert found == expected
        ids = np.concatenate((prompt.ids, expected))
        sequence = Sequence(ids, prompt.given)
        nats = batch_nll(model, collate([[whole(sequence)]], TOKENIZER, 6, encoder=True))[0]
        (score,) = evaluate(model, TOKENIZER, [sequence])
        np.testing.assert_allclose(score.nats, nats[:5].numpy(), rtol=1e-5)


def test_it_learns_to_turn_sequences_round(tmp_path: Any) -> None:
    """Through `Packed`, `train` and `evaluate`: only the source determines the target."""
    write_store(tmp_path / "store", pairs(400), VOCAB)
    data = Packed(Store(tmp_path / "store"), TOKENIZER, 24, encoder=True)
    assert len(data) == 100, "four items a row"
    torch.manual_seed(0)
    model = ToyEncoderDecoder()
    config = TrainConfig(steps=300, batch=16, optimizer="adamw", adam_lr=0.01)
    *_, last = train(model, data, config, make_optimizers(model, config))
    assert last.loss < 0.5
    scores = list(evaluate(model.eval(), TOKENIZER, pairs(50, seed=9)))
    assert sum(s.nll for s in scores) / sum(s.tokens for s in scores) < 0.5 < np.log(10)


def test_a_long_item_is_refused_and_a_plain_model_takes_no_source(tmp_path: Any) -> None:
    write_store(tmp_path / "store", pairs(3), VOCAB)
    with pytest.raises(DataError, match="--context 6"):
        Packed(Store(tmp_path / "store"), TOKENIZER, 4, encoder=True)
    model = SequenceModel(SHAPE)
    with pytest.raises(ValueError, match="no encoder"):
        batch_nll(model, collate([[whole(pairs(1)[0])]], TOKENIZER, 6, encoder=True))
