"""`SequenceModel`: ids in, logits out. Embed, blocks, head; nothing of any domain.

Shapes: B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops
from .attention import make_mixer
from .layers import Dropout, FeedForward, Linear, Residual, between_knots, make_norm
from .mixer import Context, Mixer
from .positions import rotary_angles, sinusoids


class Block(nn.Module):
    """A mixer, then a feed-forward, each added to the stream; `pre` normalises what goes in
    (Xiong et al. 2020), `post` what comes out (Vaswani et al. 2017)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre = config.norm_position == "pre"
        self.mixer_norm, self.mixer = make_norm(config), make_mixer(config)
        self.ffn_norm, self.ffn = make_norm(config), FeedForward(config)
        self.add = Residual(config.dropout)

    def forward(self, x: Tensor, context: Context, cache: Any = None) -> Tensor:
        """x (B, T, D); with a cache, the T positions that follow those it holds."""
        mix = self.mixer if cache is None else partial(self.mixer.step, cache=cache)
        if self.pre:
            x = self.add(x, mix(self.mixer_norm(x), context))
            return cast(Tensor, self.add(x, self.ffn(self.ffn_norm(x))))
        x = self.mixer_norm(self.add(x, mix(x, context)))
        return cast(Tensor, self.ffn_norm(self.add(x, self.ffn(x))))


RunBlock = Callable[[nn.Module, Tensor, Context], Tensor]


def call_block(block: nn.Module, x: Tensor, context: Context) -> Tensor:
    """A block as a plain module: what runs it where training brings nothing faster."""
    out: Tensor = block(x, context)
    return out


@dataclass
class DecodingState:
    """What has been read so far: a cache for each block, and how many positions they hold: an int
    where all rows have read as many, else (B,)."""

    caches: list[Any]
    length: int  # positions there is room for
    at: int | Tensor = 0

    def select(self, rows: Tensor) -> DecodingState:
        """A state whose row i has read what row rows[i] of this one has."""
        at = self.at if isinstance(self.at, int) else self.at[rows]
        return DecodingState([cache.select(rows) for cache in self.caches], self.length, at)

    def assign(self, row: int, other: DecodingState) -> None:
        """Row `row` has read what the one row of `other` has. From here on rows stand apart."""
        for cache, one in zip(self.caches, other.caches, strict=True):
            cache.assign(row, one)
        if isinstance(self.at, int):
            raise ValueError("rows that all stand at one position cannot be assigned singly")
        self.at[row] = other.at


class SequenceModel(nn.Module):
    encodes = False  # whether it has an encoder, for which given ids are a source

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._angles: tuple[Tensor, Tensor] | None = None
        self.embedding = _embedding(config.vocab_size, config.width)
        learned = config.positions == "learned"
        self.position_embedding = _embedding(config.context, config.width) if learned else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = make_norm(config) if config.norm_position == "pre" else None
        self.head = Linear(config.width, (config.vocab_size,), bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        if not self.head.weight.is_meta:
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
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=0.02)
        self._make_neighbours_alike(self.embedding.weight)
        for module in self.modules():
            if not isinstance(module, Linear):
                continue
            if module is self.head:
                if not config.tied:
                    nn.init.normal_(module.weight, std=0.02)
                    self._make_neighbours_alike(module.weight)
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
    def _make_neighbours_alike(self, table: Tensor) -> None:
        """Rows of ordered ids begin alike where they are near."""
        low, high = self.config.ordered_from, self.config.ordered_to
        near = between_knots(high - low).to(table)
        table[low:high] += near @ torch.empty(near.shape[1], table.shape[1]).normal_(std=0.02)

    # -- from ids to hidden states -------------------------------------------------------------

    def encode(self, source: Tensor, segments: Tensor | None) -> Tensor:
        """Hidden states (B, S, D) of source ids (B, S), for a model that has an encoder."""
        raise ValueError("this model has no encoder, so its batches have no source")

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        source: Tensor | None = None,
        source_segments: Tensor | None = None,
        run_block: RunBlock = call_block,
    ) -> Tensor:
        """Hidden states (B, T, D) of ids (B, T), all positions at once; the other arguments as in
        `protocols.Batch`. run_block: what computes a block, for training backends."""
        x, rotary = self._embed(ids, positions, 0)
        memory = None if source is None else self.encode(source, source_segments)
        start = None
        if segments is not None:
            at = torch.arange(ids.shape[1], dtype=torch.int32, device=ids.device)
            begins = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
            start = (begins * at).cummax(1).values
        context = Context(
            rotary, start, memory=memory, memory_segments=source_segments, segments=segments
        )
        for block in self.blocks:
            x = run_block(block, x, context)
        return self.norm(x) if self.norm is not None else x

    def logits(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """(..., high - low) float32 scores of the ids low ... high - 1 after hidden (..., D)."""
        return ops.softcap(self.head(hidden, low, high).float(), self.config.softcap)

    def _embed(
        self, ids: Tensor, positions: Tensor | None, first: int | Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The stream (B, T, D) and rotary angles of ids (B, T). The first of a row stands at
        position `first`: one for all rows, or (B,)."""
        config = self.config
        x = self.embedding(ids)
        if config.positions == "rope":
            return self.dropout(x), self._rotary(ids, positions, first)
        if positions is not None:
            at = positions[..., 0]
        else:
            start = first[:, None] if isinstance(first, Tensor) else first
            at = start + torch.arange(ids.shape[1], device=ids.device)[None]
            at = at.clamp(max=config.context - 1)  # of a row that is full and takes no more
        if config.positions == "sinusoidal":
            x = x * math.sqrt(config.width) + sinusoids(at, config.width)
        elif self.position_embedding is not None:
            x = x + self.position_embedding(at)
        return self.dropout(x), None

    def _rotary(
        self, ids: Tensor, positions: Tensor | None, first: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """cos and sin, each (1 or B, 1, T, w)."""
        if positions is not None:
            cos, sin = rotary_angles(positions, self.config)
            return cos[:, None], sin[:, None]
        length = ids.shape[1]
        if isinstance(first, int):
            cos, sin = self._plain_angles(first + length, ids.device)
            return cos[None, None, first : first + length], sin[None, None, first : first + length]
        cos, sin = self._plain_angles(self.config.context, ids.device)
        at = first[:, None] + torch.arange(length, device=ids.device)
        return cos[at][:, None], sin[at][:, None]

    def _plain_angles(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, each (length or more, w), where positions count up; computed once."""
        table = self._angles
        if table is None or table[0].device != device or length > len(table[0]):
            count = max(self.config.context + 1, length)
            steps = torch.arange(count, device=device)[:, None].expand(-1, self.config.axes)
            self._angles = table = rotary_angles(steps, self.config)
        return table

    # -- decoding ------------------------------------------------------------------------------

    def start(self, batch: int, length: int) -> DecodingState:
        """Nothing read yet, by `batch` rows, with room for `length` positions."""
        caches = [cast(Mixer, block.mixer).start(batch, length) for block in self.blocks]
        return DecodingState(caches, length)

    def step(
        self,
        ids: Tensor,
        state: DecodingState,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of the next T ids (B, T) of each row; the state moves on.

        lengths (B,): how many of them each row takes, where rows stand apart (none: all). A row
        that takes none keeps its state; its hidden states mean nothing. source (B, S): of a model
        with an encoder, at the first step; mixers keep in their caches what they need of it.
        """
        x, rotary = self._embed(ids, positions, state.at)
        memory = None if source is None else self.encode(source, None)
        context = Context(rotary, at=state.at, lengths=lengths, memory=memory)
        for block, cache in zip(self.blocks, state.caches, strict=True):
            x = block(x, context, cache)
        if isinstance(state.at, int):
            state.at += ids.shape[1]
        else:  # in place, so that a CUDA graph of this step finds it
            state.at += ids.shape[1] if lengths is None else lengths
        return self.norm(x) if self.norm is not None else x

    def read(
        self, ids: Tensor, state: DecodingState, positions: Tensor | None = None, given: int = 1
    ) -> Tensor:
        """Hidden states of a whole prompt (B, T), whose first `given` ids are the source of a model
        with an encoder; then those of the last given id and what follows it."""
        if not self.encodes:
            return self.step(ids, state, positions)
        rest = None if positions is None else positions[:, given - 1 :]
        return self.step(ids[:, given - 1 :], state, rest, source=ids[:, :given])

    # -- sizes ---------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def blocks_parameter_count(self) -> int:
        """Without embedding and head, which learn from few tokens."""
        return sum(parameter.numel() for parameter in self.blocks.parameters())

    def product_parameter_count(self) -> int:
        """Those that multiply each position: of the blocks and the head; an embedding looks up."""
        return self.blocks_parameter_count() + self.head.weight.numel()

    def flops_per_token(self) -> float:
        """Of training at the full context, forward and backward: 6 for each parameter in a product
        and the mixers' own (Chowdhery et al. 2022, PaLM, appendix B)."""
        mixers = (cast(Mixer, block.mixer) for block in self.blocks)
        own = sum(mixer.flops(self.config.context) for mixer in mixers)
        norm = 0 if self.norm is None else sum(p.numel() for p in self.norm.parameters())
        return 6 * (self.product_parameter_count() + norm) + own


def _embedding(count: int, width: int) -> nn.Embedding:
    """nn.Embedding, left unfilled on the meta device: filling there imports torch's compiler."""
    table = torch.empty(count, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding(count, width, _weight=table)


@functools.cache
def on_meta(config: ModelConfig) -> SequenceModel:
    """A model that knows its sizes and holds no numbers."""
    with torch.device("meta"):
        return SequenceModel(config)
