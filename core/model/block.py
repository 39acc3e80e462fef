"""A block of a model: a mixer and a feed-forward layer, and with an encoder cross-attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from ..config import ModelConfig
from ..entry_points import load
from .additive_attention import AttentionRnn
from .attention import Attention
from .conv import Convolution
from .cross_attention import CrossAttention, SourceCache, WholeAttention
from .layers import FeedForward, Residual, make_norm
from .mixer import Cache, Context, Mixer
from .rnn import CELLS, Recurrent


def make_mixer(config: ModelConfig, block: int) -> nn.Module:
    """The mixer of block number `block` of a decoder: one of tfm, or of the entry points
    `tfm.mixers`."""
    name = config.mixer(block)
    if name == "attention":
        return Attention(config)
    if name == "attention-rnn":
        return AttentionRnn(config)
    if name == "conv":
        return Convolution(config, block)
    if name in CELLS:
        return Recurrent(config, name)
    found: nn.Module = load("mixers", name)(config, block)
    return found


class Block(nn.Module):
    """A mixer, then a feed-forward layer, each added to the residual stream. `pre` normalises their
    inputs (Xiong et al. 2020), `post` the sums (Vaswani et al. 2017), `sandwich` inputs and outputs
    (Ding et al. 2021, as in Gemma 2). With an encoder, cross-attention stands between the two."""

    def __init__(self, config: ModelConfig, number: int = 0, encoder: bool = False) -> None:
        super().__init__()
        self.pre = config.norm_position != "post"
        sandwich = config.norm_position == "sandwich"
        crosses = config.encoder_layers > 0 and not encoder
        feeds = config.ffn != "none"

        def norm(exists: bool, for_matmul: bool = self.pre) -> nn.Module | None:
            return make_norm(config, for_matmul) if exists else None

        self.mixer_norm = norm(True)
        self.mixer = WholeAttention(config) if encoder else make_mixer(config, number)
        self.mixer_out_norm = norm(sandwich, False)
        self.cross_norm, self.cross = norm(crosses), CrossAttention(config) if crosses else None
        self.cross_out_norm = norm(sandwich and crosses, False)
        self.ffn_norm, self.ffn = norm(feeds), FeedForward(config) if feeds else None
        self.ffn_out_norm = norm(sandwich and feeds, False)
        self.add = Residual(config.dropout, config.residual)

    def forward(self, x: Tensor, context: Context, cache: Any = None) -> Tensor:
        """x (B, T, D) -> (B, T, D). With a cache, x is the T positions after the cached ones."""
        own, source = (cache.own, cache.source) if isinstance(cache, WithSource) else (cache, None)
        mixer = cast(Mixer, self.mixer)
        mix = mixer if cache is None else partial(mixer.step, cache=own)
        x = self._layer(x, lambda y: mix(y, context), self.mixer_norm, self.mixer_out_norm)
        if self.cross is not None:
            look: Any = self.cross
            if source is not None:
                look = partial(self.cross.step, cache=source)
            x = self._layer(x, lambda y: look(y, context), self.cross_norm, self.cross_out_norm)
        if self.ffn is not None:
            x = self._layer(x, self.ffn, self.ffn_norm, self.ffn_out_norm)
        return x

    def _layer(
        self, x: Tensor, layer: Callable[[Tensor], Tensor], norm: Any, out_norm: Any
    ) -> Tensor:
        if not self.pre:
            return cast(Tensor, norm(self.add(x, layer(x))))
        y = layer(norm(x))
        return cast(Tensor, self.add(x, y if out_norm is None else out_norm(y)))

    def start(self, batch: int, length: int) -> Cache:
        """An empty cache of `batch` rows with room for `length` positions."""
        own = cast(Mixer, self.mixer).start(batch, length)
        return own if self.cross is None else WithSource(own, self.cross.start(batch))

    def flops(self, length: int) -> float:
        """FLOPs of the mixers, see `Mixer.flops`."""
        own = cast(Mixer, self.mixer).flops(length)
        return own if self.cross is None else own + self.cross.flops(length)


@dataclass
class WithSource:
    """The cache of a block with cross-attention: of its mixer, and of the source."""

    own: Any
    source: SourceCache

    def select(self, rows: Tensor) -> WithSource:
        return WithSource(self.own.select(rows), self.source.select(rows))

    def assign(self, row: int, other: WithSource) -> None:
        self.own.assign(row, other.own)
        self.source.assign(row, other.source)


RunBlock = Callable[[nn.Module, Tensor, Context], Tensor]


def call_block(block: nn.Module, x: Tensor, context: Context) -> Tensor:
    """Runs a block as a plain module, the default of `SequenceModel.forward`."""
    out: Tensor = block(x, context)
    return out
