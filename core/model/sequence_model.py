"""`SequenceModel`: ids in, logits out; an embedding, blocks and a head, for any domain.

Shapes: B rows, T positions, D width, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import ModelConfig
from ..ops import operations as ops
from .block import Block, RunBlock, call_block
from .layers import Dropout, Linear, knot_weights, make_norm
from .mixer import Context, Mixer, own_positions
from .positions import rotary_angles, sinusoids
from .rnn import Recurrent


@dataclass
class DecodingState:
    """The state of decoding: the cache of each block, and the position of the next id."""

    caches: list[Any]
    capacity: int  # the most positions that the caches can hold
    at: int | Tensor = 0  # positions in the caches: an int, or (B,) where rows differ

    def select(self, rows: Tensor) -> DecodingState:
        """A state whose row i continues row rows[i] of this one."""
        at = self.at if isinstance(self.at, int) else self.at[rows]
        return DecodingState([cache.select(rows) for cache in self.caches], self.capacity, at)

    def assign(self, row: int, other: DecodingState) -> None:
        """Replaces row `row` by the only row of `other`, in place. ValueError if `at` is an int."""
        for cache, one in zip(self.caches, other.caches, strict=True):
            cache.assign(row, one)
        if isinstance(self.at, int):
            raise ValueError("rows that all stand at one position cannot be assigned singly")
        self.at[row] = other.at


class SequenceModel(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._angles: tuple[Tensor, Tensor] | None = None
        self.embedding = _embedding(config.vocab_size, config.width)
        self.features: Linear | None = None
        if config.features:
            self.features = Linear(config.features, (config.width,), bias=False)
        learned = config.positions == "learned"
        self.position_embedding = _embedding(config.context, config.width) if learned else None
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(
            Block(config, number, encoder=True) for number in range(config.encoder_layers)
        )
        self.encoder_norm = self._final_norm() if config.encoder_layers else None
        self.blocks = nn.ModuleList(Block(config, number) for number in range(config.layers))
        self.norm = self._final_norm()
        self.head = Linear(config.width, (config.vocab_size,), bias=False)
        if config.tied:
            self.head.weight = self.embedding.weight
        if not self.head.weight.is_meta:
            self._initialise()

    def _final_norm(self) -> nn.Module | None:
        return make_norm(self.config, True) if self.config.norm_position != "post" else None

    @property
    def has_encoder(self) -> bool:
        """If true, the given ids of an item are the source that `encode` takes."""
        return self.config.encoder_layers > 0

    def _initialise(self) -> None:
        """Sets all initial values. Weights are normal, with a standard deviation by fan-in for
        linear layers and GPT-2's 0.02 for the head (so that an untrained loss is ln V).
        Output projections are zero, or scaled by 1 / sqrt(2 layers) as in GPT-2, where there is a
        residual stream to add to. Recurrent layers have their own, see `Recurrent.initialise`."""
        config = self.config
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
        nn.init.normal_(self.embedding.weight, std=config.embedding_std)
        if self.position_embedding is not None:
            nn.init.normal_(self.position_embedding.weight, std=config.embedding_std)
        self._correlate_ordered_rows(self.embedding.weight)
        for module in self.modules():
            if isinstance(module, Recurrent):
                module.initialise()
            if not isinstance(module, Linear):
                continue
            if module is self.head:
                if not config.tied:
                    nn.init.normal_(module.weight, std=0.02)
                    self._correlate_ordered_rows(module.weight)
            elif module is self.features:  # as if there were none, until training finds a use
                nn.init.zeros_(module.weight)
            elif module.output and config.zero_init and config.residual:
                nn.init.zeros_(module.weight)
            else:
                std = module.in_features**-0.5
                if config.residual:
                    std = 0.5 * std if config.zero_init else min(0.02, std)
                scale = (2 * config.layers) ** -0.5 if module.output and config.residual else 1.0
                nn.init.normal_(module.weight, std=std * scale)

    @torch.no_grad()
    def _correlate_ordered_rows(self, table: Tensor) -> None:
        """Gives the rows of ordered ids similar initial values where the ids are close."""
        for low, high in self.config.ordered_ranges:
            weights = knot_weights(high - low).to(table)
            knots = torch.empty(weights.shape[1], table.shape[1]).normal_(std=0.02)
            table[low:high] += weights @ knots

    # -- from ids to hidden states -------------------------------------------------------------

    def encode(self, source: Tensor, segments: Tensor | None) -> Tensor:
        """The encoder's hidden states (B, S, D) of source ids (B, S). segments (B, S): the item of
        each id, -1 for padding; None: each row is one item. Positions start at 0 in each item."""
        if not self.has_encoder:
            raise ValueError("this model has no encoder, so its batches have no source")
        positions = None
        if segments is not None:
            index = torch.arange(source.shape[1], device=source.device)
            positions = (index - _first_of_segment(segments))[..., None]
            positions = positions.expand(-1, -1, self.config.axes)
        x, rotary = self._embed(source, positions, 0)
        context = Context(rotary, segments=segments)
        for block in self.encoder:
            x = block(x, context)
        return self.encoder_norm(x) if self.encoder_norm is not None else x

    def forward(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        segments: Tensor | None = None,
        source: Tensor | None = None,
        source_segments: Tensor | None = None,
        run_block: RunBlock = call_block,
        features: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of ids (B, T), all positions at once. The other arguments are
        those of `protocols.Batch`. run_block: how a block is computed, for training backends."""
        x, rotary = self._embed(ids, positions, 0, features)
        memory = None if source is None else self.encode(source, source_segments)
        segment_start = None
        if segments is not None:
            segment_start = _first_of_segment(segments)
        context = Context(
            rotary, segment_start, memory=memory, memory_segments=source_segments, segments=segments
        )
        for block in self.blocks:
            x = run_block(block, x, context)
        return self.norm(x) if self.norm is not None else x

    def logits(self, hidden: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        """(..., high - low) float32 logits of the ids low ... high - 1 for hidden (..., D)."""
        return ops.softcap(self.head(hidden, low, high).float(), self.config.softcap)

    def _embed(
        self,
        ids: Tensor,
        positions: Tensor | None,
        first: int | Tensor,
        features: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The residual stream (B, T, D) and rotary angles of ids (B, T). `first` is the position of
        the first id: one for all rows, or (B,)."""
        config = self.config
        x = self.embedding(ids)
        if self.features is not None and features is not None:  # None: nothing is known
            x = x + self.features(features.to(x.dtype))
        if config.positions == "rope":
            return self.dropout(x), self._rotary(ids, positions, first)
        if positions is not None:
            index = positions[..., 0]
        else:
            index = own_positions(ids.shape[1], first, ids.device)
        index = index.clamp(max=config.context - 1)  # for rows that are full, which take no id
        if config.positions == "sinusoidal":
            x = x * math.sqrt(config.width) + sinusoids(index, config.width).to(x.dtype)
        elif self.position_embedding is not None:
            x = x + self.position_embedding(index)
        return self.dropout(x), None

    def _rotary(
        self, ids: Tensor, positions: Tensor | None, first: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """cos and sin, each (1 or B, 1, T, head_width)."""
        if positions is not None:
            cos, sin = rotary_angles(positions, self.config)
            return cos[:, None], sin[:, None]
        length = ids.shape[1]
        if isinstance(first, int):
            cos, sin = self._default_angles(first + length, ids.device)
            return cos[None, None, first : first + length], sin[None, None, first : first + length]
        cos, sin = self._default_angles(self.config.context, ids.device)
        index = first[:, None] + torch.arange(length, device=ids.device)
        return cos[index][:, None], sin[index][:, None]

    def _default_angles(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """cos and sin, each (length or more, head_width), of positions 0, 1, 2 ...; cached."""
        table = self._angles
        if table is None or table[0].device != device or length > len(table[0]):
            count = max(self.config.context + 1, length)
            counting = torch.arange(count, device=device)[:, None].expand(-1, self.config.axes)
            self._angles = table = rotary_angles(counting, self.config)
        return table

    def part(self, low: int, high: int) -> SequenceModel:
        """The same model of the ids low ... high - 1 alone: its id i is id low + i of this one. All
        weights are shared."""
        config = replace(self.config, vocab_size=high - low, ordered="")
        found = without_values(config)
        rows = self.embedding.weight[low:high]
        found.embedding = nn.Embedding(high - low, config.width, _weight=rows)
        found.head.weight = nn.Parameter(self.head.weight[low:high])
        if config.tied:
            found.head.weight = found.embedding.weight
        for name in ("position_embedding", "encoder", "encoder_norm", "blocks", "norm"):
            setattr(found, name, getattr(self, name))
        return found.train(self.training)

    # -- decoding ------------------------------------------------------------------------------

    def start(self, batch: int, length: int) -> DecodingState:
        """An empty state of `batch` rows with room for `length` positions."""
        caches = [cast(Block, block).start(batch, length) for block in self.blocks]
        return DecodingState(caches, length)

    def step(
        self,
        ids: Tensor,
        state: DecodingState,
        positions: Tensor | None = None,
        lengths: Tensor | None = None,
        source: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D) of the next T ids (B, T) of each row, which the state takes up.

        lengths (B,): the number of ids that each row takes, where state.at is (B,); None: all T. A
        row that takes 0 keeps its state, and its hidden states are meaningless. source (B, S): for
        a model with an encoder, in the first step; mixers cache what they need of it. features
        (B, T, F): see `protocols.Batch`.
        """
        x, rotary = self._embed(ids, positions, state.at, features)
        memory = None if source is None else self.encode(source, None)
        context = Context(rotary, at=state.at, lengths=lengths, memory=memory)
        for block, cache in zip(self.blocks, state.caches, strict=True):
            x = block(x, context, cache)
        if isinstance(state.at, int):
            state.at += ids.shape[1]
        else:  # in place: a CUDA graph of this step reads this memory
            state.at += ids.shape[1] if lengths is None else lengths
        return self.norm(x) if self.norm is not None else x

    def prefill(
        self, ids: Tensor, state: DecodingState, positions: Tensor | None = None, given: int = 1
    ) -> Tensor:
        """Hidden states (B, T, D) of a prompt (B, T), which the state takes up. With an encoder
        the first `given` ids are the source, and the hidden states start at the last of them."""
        if not self.has_encoder:
            return self.step(ids, state, positions)
        rest = None if positions is None else positions[:, given - 1 :]
        return self.step(ids[:, given - 1 :], state, rest, source=ids[:, :given])

    # -- sizes ---------------------------------------------------------------------------------

    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def blocks_parameter_count(self) -> int:
        """Parameters without embedding and head, which learn from few tokens."""
        blocks = (*self.encoder, *self.blocks)
        return sum(parameter.numel() for block in blocks for parameter in block.parameters())

    def matmul_parameter_count(self) -> int:
        """Parameters in matrix products: blocks and head, not the embedding, which is a lookup."""
        return self.blocks_parameter_count() + self.head.weight.numel()

    def flops_per_token(self) -> float:
        """Training FLOPs at the full context, forward and backward: 6 per parameter in a product,
        plus `Mixer.flops` (Chowdhery et al. 2022, PaLM, appendix B)."""
        blocks = (cast(Block, block) for block in (*self.encoder, *self.blocks))
        mixer_flops = sum(block.flops(self.config.context) for block in blocks)
        norm = 0 if self.norm is None else sum(p.numel() for p in self.norm.parameters())
        return 6 * (self.matmul_parameter_count() + norm) + mixer_flops

    @property
    def dynamic(self) -> bool:
        """Whether a mixer has tensors whose shapes depend on the batch, see `Mixer.dynamic`."""
        return any(mixer.dynamic for mixer in self._mixers())

    def receptive_field(self) -> int | None:
        """How many positions, its own included, the hidden state of one depends on; None: all."""
        field = 1
        for mixer in self._mixers():
            if mixer.reach is None:
                return None
            field += mixer.reach
        return min(field, self.config.context)

    def _mixers(self) -> list[Mixer]:
        return [cast(Mixer, block.mixer) for block in self.blocks]


def _first_of_segment(segments: Tensor) -> Tensor:
    """(B, T) int32, the first position of each one's item. segments (B, T): see `Batch`."""
    index = torch.arange(segments.shape[1], dtype=torch.int32, device=segments.device)
    is_first = F.pad(segments[:, 1:] != segments[:, :-1], (1, 0))
    return (is_first * index).cummax(1).values


def _embedding(count: int, width: int) -> nn.Embedding:
    """nn.Embedding, without initial values on the meta device, where they would import torch's
    compiler."""
    table = torch.empty(count, width)
    if not table.is_meta:
        nn.init.normal_(table)
    return nn.Embedding(count, width, _weight=table)


def without_values(config: ModelConfig) -> SequenceModel:
    """A model on the meta device: it has shapes and no values."""
    with torch.device("meta"):
        return SequenceModel(config)


on_meta = functools.cache(without_values)  # to read sizes from


def uninitialised(config: ModelConfig) -> SequenceModel:
    """A model on the CPU to load weights into: its values are whatever its memory has. Systems take
    memory for the values that are written, not for all."""
    shapes = on_meta(config).named_parameters()
    # not torch.empty_like, which for a tensor on the meta device would import torch's compiler
    return with_weights(config, {name: torch.empty(p.shape, dtype=p.dtype) for name, p in shapes})


def with_weights(config: ModelConfig, weights: Mapping[str, Tensor]) -> SequenceModel:
    """A model that has these tensors, by the names of its parameters, as its own; a parameter that
    is not among them has no values."""
    model = without_values(config)
    model.load_state_dict(weights, strict=False, assign=True)
    if config.tied:
        model.head.weight = model.embedding.weight
    return model
