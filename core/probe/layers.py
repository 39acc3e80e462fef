"""The layers of a model that mix positions, and their heads, which can be switched off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from ..capture import mixer_name
from ..model.additive_attention import AttentionRnn
from ..model.attention import Attention
from ..model.block import Block
from ..model.cross_attention import CrossAttention
from ..model.sequence_model import SequenceModel


@dataclass(frozen=True)
class Layer:
    """name: as in core/capture.py, such as blocks.0.attn; of_source: whether its positions are
    those of the source of an encoder; heads: the columns of each head in the input of the output
    projection `module.out`, empty without attention."""

    name: str
    module: nn.Module
    of_source: bool = False
    heads: tuple[slice, ...] = ()

    @property
    def numbers(self) -> range:
        """The numbers of the heads."""
        return range(len(self.heads))


def layers_of(model: SequenceModel) -> list[Layer]:
    """The mixers and cross-attentions, in the order in which they are computed."""
    found = []
    for stem, blocks in (("encoder", model.encoder), ("blocks", model.blocks)):
        for number, block in enumerate(cast(Iterable[Block], blocks)):
            at, of_source = f"{stem}.{number}", stem == "encoder"
            heads = head_columns(block.mixer)
            found.append(Layer(f"{at}.{mixer_name(block)}", block.mixer, of_source, heads))
            if block.cross is not None:
                found.append(
                    Layer(f"{at}.cross_attn", block.cross, False, head_columns(block.cross))
                )
    return found


def head_columns(module: nn.Module) -> tuple[slice, ...]:
    """The columns of each head in the input of `module.out`: of attention, w each; of recurrent
    attention the second half, the weighted sum of states."""
    if isinstance(module, (Attention, CrossAttention)):
        width = module.head_width
        return tuple(slice(h * width, (h + 1) * width) for h in range(module.heads))
    if isinstance(module, AttentionRnn):
        return (slice(module.width, 2 * module.width),)
    return ()


@contextmanager
def watched(layers: Iterable[Layer], see: Callable[[Layer, str, Tensor], None]) -> Iterator[None]:
    """`see` receives the output (B, T, D) of each layer, as "out", and what enters the output
    projection of those with heads, as "heads"."""

    def output(layer: Layer) -> Callable[..., None]:
        return lambda module, inputs, out: see(layer, "out", out)

    def input(layer: Layer) -> Callable[..., None]:
        return lambda module, inputs: see(layer, "heads", inputs[0])

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.module.register_forward_hook(output(layer)).remove)
            if layer.heads:
                out = cast(nn.Module, layer.module.out)
                stack.callback(out.register_forward_pre_hook(input(layer)).remove)
        yield


@contextmanager
def fixed_output(layer: Layer, value: Tensor) -> Iterator[None]:
    """Inside, the layer writes the same value (D,) at all positions."""
    with ExitStack() as stack:
        hook = layer.module.register_forward_hook(lambda m, i, out: value.expand_as(out))
        stack.callback(hook.remove)
        yield


@contextmanager
def fixed_heads(layer: Layer, values: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside, these heads of the layer give the same value at all positions to the output
    projection. values: by head, (w,)."""

    def hook(module: nn.Module, inputs: Any) -> Any:
        x = inputs[0].clone()
        for head, value in values.items():
            x[..., layer.heads[head]] = value
        return (x,)

    with ExitStack() as stack:
        out = cast(nn.Module, layer.module.out)
        stack.callback(out.register_forward_pre_hook(hook).remove)
        yield
