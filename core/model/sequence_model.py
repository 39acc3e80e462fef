"""`SequenceModel`: ids in, logits out. Embed, blocks, head; nothing of any domain.

Shapes: B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import amx_block
from .attention import Place, make_mixer
from .layers import (
    Dropout,
    FeedForward,
    Linear,
    beside,
    between_knots,
    make_norm,
    rotary_angles,
    sinusoids,
)


class Block(nn.Module):
    """A mixer, then a feed-forward, each added to the stream; `pre` normalises what goes in
    (Xiong et al. 2020), `post` what comes out (Vaswani et al. 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.mixer_norm, self.mixer = make_norm(config), make_mixer(config)
        self.ffn_norm, self.ffn = make_norm(config), FeedForward(config)
        self.dropout = Dropout(config.dropout)
        self.config = config if amx_block.knows(config) else None

    def _weights(self) -> list[Tensor]:
        """As `amx_block.WEIGHTS` has them."""
        parts = (
            self.mixer_norm,
            self.mixer.qkv,
            self.mixer.out,
            self.ffn_norm,
            self.ffn.up,
            self.ffn.down,
        )
        return [part.weight for part in parts]  # type: ignore[misc]

    def forward(self, x: Tensor, place: Place, memory: Any = None) -> Tensor:
        """x (B, T, D); with a memory, the T positions that follow what it holds."""
        if memory is None and self.config is not None and amx_block.serves(x):
            rates = (self.mixer.dropout, self.dropout.rate) if self.training else (0.0, 0.0)
            return amx_block.block(
                x, self._weights(), self.config, place.rotary, place.first, rates
            )

        def mix(x: Tensor) -> Tensor:
            if memory is None:
                return self.mixer(x, place)  # type: ignore[no-any-return]
            return self.mixer.step(x, place, memory)

        if self.pre:
            x, normed = beside(self.mixer_norm, x)
            x, normed = beside(self.ffn_norm, self.dropout.added(x, mix(normed)))
            return self.dropout.added(x, self.ffn(normed))
        x = self.mixer_norm(self.dropout.added(x, mix(x)))
        out: Tensor = self.ffn_norm(self.dropout.added(x, self.ffn(x)))
        return out


Through = Callable[[nn.Module, Tensor, Place], Tensor]


@dataclass
class DecodingState:
    """What has been read so far: each block's memory, and how many positions they hold."""

    memories: list[Any]
    length: int  # positions there is room for
    seen: int = 0


class SequenceModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.through: Through | None = None  # how training passes a block, if not by its call
        self._angles: tuple[Tensor, Tensor] | None = None
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        learned = config.positions == "learned"
        self.place = nn.Embedding(config.context, config.width) if learned else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = make_norm(config) if config.norm_position == "pre" else None
        self.head = Linear(config.width, (config.vocab_size,), bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        self._initialise()

    def _initialise(self) -> None:
        """All initial values, in one place: normal, a linear layer's by its fan-in, capped at
        GPT-2's 0.02 for embedding and head (so that an untrained loss is ln V); output
        projections zero, or by 1 / sqrt(2 layers) as in GPT-2."""
        config = self.config
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, std=0.02)
        if self.place is not None:
            nn.init.normal_(self.place.weight, std=0.02)
        self._draw_neighbours(self.embedding.weight)
        for module in self.modules():
            if not isinstance(module, Linear):
                continue
            if module is self.head:
                if not config.tied:
                    nn.init.normal_(module.weight, std=0.02)
                    self._draw_neighbours(module.weight)
            elif module.output and config.zero_init:
                nn.init.zeros_(module.weight)
            else:
                std = (
                    min(0.02, module.in_features**-0.5)
                    if not config.zero_init
                    else (0.5 * module.in_features**-0.5)
                )
                scale = (2 * config.layers) ** -0.5 if module.output else 1.0
                nn.init.normal_(module.weight, std=std * scale)

    @torch.no_grad()
    def _draw_neighbours(self, table: Tensor) -> None:
        """Rows of ordered ids begin alike where they are near."""
        low, high = self.config.ordered_from, self.config.ordered_to
        near = between_knots(high - low).to(table)
        table[low:high] += near @ torch.empty(near.shape[1], table.shape[1]).normal_(std=0.02)

    # -- from ids to hidden states -------------------------------------------------------------

    def _embed(
        self, ids: Tensor, positions: Tensor | None, first: int | Tensor
    ) -> tuple[Tensor, Place]:
        """The stream (B, T, D) and the place of ids (B, T), the first of a row standing at
        `first`, or where each row has its own, (B,) at one a row."""
        config = self.config
        x = self.embedding(ids)
        if config.positions == "rope":
            return self.dropout(x), Place(self._rotary(ids, positions, first))
        if positions is not None:
            at = positions[..., 0]
        elif isinstance(first, int):
            at = torch.arange(first, first + ids.shape[1], device=ids.device)[None]
        else:
            at = first[:, None]
        if config.positions == "sinusoidal":
            x = x * math.sqrt(config.width) + sinusoids(at, config.width)
        elif self.place is not None:
            x = x + self.place(at)
        return self.dropout(x), Place()

    def _rotary(
        self, ids: Tensor, positions: Tensor | None, first: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """cos and sin, each (1 or B, 1, T, w)."""
        if positions is not None:
            cos, sin = rotary_angles(positions, self.config)
            return cos[:, None], sin[:, None]
        if not isinstance(first, int):
            cos, sin = self._plain_angles(self.config.context, ids.device)
            return cos[first][:, None, None], sin[first][:, None, None]
        last = first + ids.shape[1]
        cos, sin = self._plain_angles(last, ids.device)
        return cos[None, None, first:last], sin[None, None, first:last]

    def _plain_angles(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, each (length or more, w), where positions count up; worked out once."""
        table = self._angles
        if table is None or table[0].device != device or length > len(table[0]):
            count = max(self.config.context + 1, length)
            steps = torch.arange(count, device=device)[:, None].expand(-1, self.config.axes)
            self._angles = table = rotary_angles(steps, self.config)
        return table

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, T, D) of ids (B, T), all positions at once."""
        x, place = self._embed(ids, positions, 0)
        if segments is not None:
            at = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device)
            begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
            first = (begins * at).cummax(1).values
            visible = (at[:, None] >= at) & (first[:, None, :, None] <= at)
            place = Place(place.rotary, first, visible)
        for block in self.blocks:
            x = self.through(block, x, place) if self.training and self.through else block(x, place)
        return beside(self.norm, x)[1] if self.norm is not None else x

    def logits(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """(..., high - low) float32 scores of the ids low ... high - 1 after hidden (..., D)."""
        logits = self.head.part(hidden, low, high).float()
        if self.config.softcap:
            logits = self.config.softcap * torch.tanh(logits / self.config.softcap)
        return logits

    # -- decoding ------------------------------------------------------------------------------

    def start(self, batch: int, length: int) -> DecodingState:
        """Nothing read yet, by `batch` rows, with room for `length` positions."""
        memories = [block.mixer.start(batch, length) for block in self.blocks]  # type: ignore[union-attr, operator]
        return DecodingState(memories, length)

    def fork(self, state: DecodingState, times: int) -> DecodingState:
        """Each row `times` over, side by side: draws that share what has been read."""
        memories = [
            block.mixer.fork(memory, times)  # type: ignore[union-attr, operator]
            for block, memory in zip(self.blocks, state.memories, strict=True)
        ]
        return DecodingState(memories, state.length, state.seen)

    def step(self, ids: Tensor, state: DecodingState, positions: Tensor | None = None) -> Tensor:
        """Hidden states (B, t, D) of the next t ids (B, t); the state moves on."""
        x, place = self._embed(ids, positions, state.seen)
        for block, memory in zip(self.blocks, state.memories, strict=True):
            x = block(x, place, memory)
        state.seen += ids.shape[1]
        return self.norm(x) if self.norm is not None else x

    def adopt(self, state: DecodingState, row: int, other: DecodingState) -> None:
        """Row `row` of `state` has read what the one row of `other` has."""
        for block, memory, one in zip(self.blocks, state.memories, other.memories, strict=True):
            block.mixer.adopt(memory, row, one)  # type: ignore[union-attr, operator]

    def step_rows(
        self, ids: Tensor, state: DecodingState, at: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """Hidden states (B, 1, D) of the next id (B, 1) of each row, which has read `at` (B,) ids.
        The work and its shapes are the same wherever rows stand."""
        x, place = self._embed(ids, positions, at)
        seen = torch.arange(state.length, device=ids.device) <= at[:, None]  # (B, S)
        place = Place(place.rotary, visible=seen[:, None, None], at=at)
        for block, memory in zip(self.blocks, state.memories, strict=True):
            x = block(x, place, memory)
        return self.norm(x) if self.norm is not None else x

    # -- sizes ---------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def blocks_parameter_count(self) -> int:
        """Without embedding and head."""
        return sum(parameter.numel() for parameter in self.blocks.parameters())


def masked_to_support(logits: Tensor, support: Tensor) -> Tensor:
    """logits (..., V) with -inf where an id is outside its position's range, support (..., 2)."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    legal = (ids >= support[..., :1]) & (ids < support[..., 1:])
    return logits.masked_fill(~legal, float("-inf"))


def token_nll(
    model: SequenceModel,
    ids: Tensor,
    weight: Tensor,
    positions: Tensor | None = None,
    segments: Tensor | None = None,
    support: tuple[int, int] | Tensor | None = None,
) -> Tensor:
    """(B, T - 1) float32 nats of ids[:, 1:], each given those before it; 0 where weight is 0.

    Arguments as in `Batch`. The probabilities are over the support alone, so they sum to one
    there.
    """
    hidden = model(
        ids[:, :-1],
        None if positions is None else positions[:, :-1],
        None if segments is None else segments[:, :-1],
    )
    counted = weight[:, 1:] > 0
    if isinstance(support, tuple):
        low, high = support
        logits = model.logits(hidden, low, high)
        targets = torch.where(counted, ids[:, 1:] - low, -100)
    else:
        logits = model.logits(hidden)
        if support is not None:
            logits = masked_to_support(logits, support[:, 1:])
        targets = torch.where(counted, ids[:, 1:], -100)
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return nll.view_as(targets)
