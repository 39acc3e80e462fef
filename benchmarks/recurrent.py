"""The lstm architecture against a bare loop around `torch.nn.LSTM` of the same shape: tokens a
second of training and of decoding one row, all programs in turn. In training each of the two has
AdamW alone, and Muon for the layers' matrices, the loop that of torch. The last row has what `tfm
train` chooses.

python benchmarks/recurrent.py [--size tiny] [--rounds 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _common import heading, interleaved, table, use_kernels
from torch import Tensor, nn

from tfm.core import bench
from tfm.core.architectures import model_config
from tfm.core.config import ModelConfig, SampleConfig, TrainConfig
from tfm.core.decode.batch_decoder import Decoder, for_decoding
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.ops.device import default_dtype
from tfm.core.protocols import Array, Batch, Sequence
from tfm.core.train.loop import train
from tfm.core.train.optim import make_optimizers

VOCAB, CONTEXT, ROWS, STEPS, NEW = 256, 64, 48, 8, 200


class Bare(nn.Module):
    """An embedding, torch's stack of LSTM layers, a linear head."""

    def __init__(self, shape: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, shape.width)
        self.lstm = nn.LSTM(shape.width, shape.width, shape.layers, batch_first=True)
        self.head = nn.Linear(shape.width, VOCAB)

    def forward(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        hidden, state = self.lstm(self.embedding(ids), state)
        return self.head(hidden), state


class RandomIds:
    """Rows of random ids."""

    context = CONTEXT

    def __len__(self) -> int:
        return 1 << 20

    def batch(self, indices: Array) -> Batch[Array]:
        ids = np.random.default_rng(int(indices[0])).integers(0, VOCAB, (len(indices), CONTEXT + 1))
        weight = np.ones(ids.shape, np.float32)
        weight[:, 0] = 0
        return Batch(ids, weight)


def bare_training(shape: ModelConfig, muon: bool = False) -> Callable[[], object]:
    model = Bare(shape)
    matrices = [p for p in model.lstm.parameters() if muon and p.ndim == 2]
    rest = [p for p in model.parameters() if not any(p is each for each in matrices)]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=1e-3)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices))
    ids = torch.randint(0, VOCAB, (STEPS, ROWS, CONTEXT + 1))

    def steps() -> None:
        for batch in ids:
            logits, _ = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            model.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()

    return steps


def our_training(
    shape: ModelConfig, optimizer: str, dtype: str = "float32"
) -> Callable[[], object]:
    model, data = SequenceModel(shape), RandomIds()
    config = TrainConfig(steps=1_000_000, batch=ROWS, optimizer=optimizer, dtype=dtype)
    running: Iterator[Any] = train(model, data, config, make_optimizers(model, config))

    def steps() -> None:
        for _ in range(STEPS):
            next(running)

    return steps


def bare_decoding(shape: ModelConfig) -> Callable[[], object]:
    model = Bare(shape).eval()

    @torch.no_grad()
    def draw() -> None:
        ids, state = torch.zeros(1, 1, dtype=torch.int64), None
        for _ in range(NEW):
            logits, state = model(ids, state)
            ids = torch.multinomial(logits[:, -1].softmax(-1), 1)

    return draw


def our_decoding(shape: ModelConfig, library: Any, dtype: str | None) -> Callable[[], object]:
    model = SequenceModel(replace(shape, context=CONTEXT + NEW)).eval()
    tokenizer: Any = bench._AnyIdTokenizer(VOCAB)
    ready, _ = for_decoding(model, 1, dtype, library)

    def draw() -> None:
        decoder = Decoder(ready, tokenizer, SampleConfig(), 1, NEW + 1)
        decoder.begin(Sequence(np.zeros(1, np.int64)), NEW)
        for _ in range(NEW):
            decoder.step()

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    heading()
    library = use_kernels()
    shape = model_config("lstm", args.size, vocab_size=VOCAB, context=CONTEXT)
    chosen = default_dtype(torch.device("cpu"), shape)
    print(f"{shape.layers} layers of width {shape.width}\n")
    for what, tokens, contenders in (
        (
            "training",
            STEPS * ROWS * CONTEXT,
            {
                "torch.nn.LSTM, AdamW": bare_training(shape),
                "torch.nn.LSTM, Muon": bare_training(shape, muon=True),
                "tfm, AdamW": our_training(shape, "adamw"),
                "tfm, Muon": our_training(shape, "muon"),
                f"tfm, Muon, {chosen}": our_training(shape, "muon", chosen),
            },
        ),
        (
            "decoding, 1 row",
            NEW,
            {
                "torch.nn.LSTM, float32": bare_decoding(shape),
                "tfm, float32": our_decoding(shape, library, "float32"),
                "tfm, default": our_decoding(shape, library, None),
                "tfm, without a compiler": our_decoding(shape, None, None),
            },
        ),
    ):
        found = interleaved(contenders, args.rounds)
        first = next(iter(found.values()))[0]
        rows: list[list[object]] = [[what, "tokens/s", "of the first"]]
        for name, (seconds, _, _) in found.items():
            rows.append([name, f"{tokens / seconds:,.0f}", f"{first / seconds:.2f}"])
        table(rows)


if __name__ == "__main__":
    main()
