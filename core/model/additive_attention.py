"""Attention before the Transformer: a recurrent layer that attends to its own past states."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import ModelConfig
from .layers import Linear
from .mixer import Context, History, own_positions, state_dtype
from .rnn import Recurrent, RecurrentState

MAX_SCORES = 1 << 24  # numbers of tanh(q + k) at once: 64 MB in float32


class AttentionRnn(nn.Module):
    """A GRU with additive attention over its states (Bahdanau et al. 2015, section 3.1).

    e_ts = v . tanh(W h_t + U h_s) for s <= t, a_t = softmax(e_t), c_t = sum_s a_ts h_s, and the
    output is O [h_t; c_t]. Bahdanau's c_t also enters the next state; here it does not, so that all
    positions attend at once (as in Luong et al. 2015, section 3.1).
    """

    reach = None
    dynamic = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width, self.hidden = config.width, config.head_width
        self.rnn = Recurrent(config, "gru")
        self.query = Linear(config.width, (self.hidden,), bias=config.bias)
        self.key = Linear(config.width, (self.hidden,), bias=False)
        self.score = Linear(self.hidden, (1,), bias=False)
        self.out = Linear(2 * config.width, (config.width,), bias=config.bias, output=True)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        states = self.rnn(x, context)
        at = own_positions(x.shape[1], 0, x.device)
        return self._attend(states, at, self.key(states), states, context.segment_start)

    def start(self, batch: int, length: int) -> AttentionRnnState:
        like = self.query.weight
        dtype = state_dtype(like)
        keys, states = (
            like.new_zeros(batch, length, width, dtype=dtype) for width in (self.hidden, self.width)
        )
        return AttentionRnnState(self.rnn.start(batch, length), History((keys, states)))

    def step(self, x: Tensor, context: Context, cache: AttentionRnnState) -> Tensor:
        states = self.rnn.step(x, context, cache.recurrent)
        cache.past.append((self.key(states), states), context)
        keys, past = (tensor.to(x.dtype) for tensor in cache.past.tensors)
        return self._attend(states, own_positions(x.shape[1], context.at, x.device), keys, past)

    def _attend(
        self, states: Tensor, at: Tensor, keys: Tensor, past: Tensor, first: Tensor | None = None
    ) -> Tensor:
        """The output (B, T, D) of states (B, T, D) at positions `at` (1 or B, T) that attend to
        the past (B, S, D) with keys (B, S, hidden), from `first` (B, T) up to their own."""
        where = torch.arange(keys.shape[1], device=keys.device)
        hidden = at[..., None] < where  # (1 or B, T, S): what a position does not see
        if first is not None:
            hidden = hidden | (where < first[..., None])
        queries = self.query(states)
        share = max(1, MAX_SCORES // keys.numel())  # queries at a time
        if share >= queries.shape[1]:
            looked = self._look(queries, keys, past, hidden)
        else:  # longer sequences in parts, computed again in the backward pass
            parts = [
                checkpoint(self._look, part, keys, past, unseen, use_reentrant=False)
                for part, unseen in zip(
                    torch.split(queries, share, 1), torch.split(hidden, share, 1), strict=True
                )
            ]
            looked = torch.cat(parts, dim=1)
        out: Tensor = self.out(torch.cat((states, looked), dim=-1))
        return out

    def _look(self, queries: Tensor, keys: Tensor, past: Tensor, hidden: Tensor) -> Tensor:
        scores = self.score((queries[:, :, None] + keys[:, None]).tanh())[..., 0]
        weights: Tensor = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return weights.to(past.dtype) @ past

    def flops(self, length: int) -> float:
        """FLOPs of the scores (a sum, a tanh and a product each) and of the weighted sums."""
        return 3.0 * length * (4 * self.hidden + 2 * self.width)


class AttentionRnnState:
    """The recurrent state, and the keys and states of all past positions."""

    def __init__(self, recurrent: RecurrentState, past: History) -> None:
        self.recurrent, self.past = recurrent, past

    def select(self, rows: Tensor) -> AttentionRnnState:
        return AttentionRnnState(self.recurrent.select(rows), self.past.select(rows))

    def assign(self, row: int, other: AttentionRnnState) -> None:
        self.recurrent.assign(row, other.recurrent)
        self.past.assign(row, other.past)
