"""What a model computes on its way from ids to logits, as named tensors.

The names are those of TransformerLens (Nanda & Bloom 2022) for the residual stream, attention and
feed-forward layers; recurrent and convolutional layers have names of the same kind. Those of an
encoder begin with `encoder.` in place of `blocks.`. `hook_resid_pre` is what a block reads,
`hook_resid_mid` the sum after its mixer, `hook_resid_mid_cross` after cross-attention and
`hook_resid_post` what it writes; with post-norm, sums are those before their norm. What a layer
writes (`hook_attn_out` ...) has passed its output norm, if it has one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import Tensor, nn

from .model.additive_attention import AttentionRnn
from .model.attention import Attention
from .model.block import Block
from .model.conv import Convolution
from .model.cross_attention import CrossAttention, WholeAttention
from .model.layers import ACTIVATIONS, FeedForward
from .model.mixer import Context
from .model.positions import alibi_slopes
from .model.rnn import Recurrent
from .model.sequence_model import SequenceModel
from .ops import operations as ops
from .ops import reference

Found = dict[str, Tensor]


@torch.no_grad()
def capture(
    model: SequenceModel,
    ids: Tensor,
    positions: Tensor | None = None,
    source: Tensor | None = None,
    features: Tensor | None = None,
) -> Found:
    """The tensors of one pass over ids (T,), in the order in which they are computed, and last the
    `logits` (T, V). None of them has a batch dimension. The model computes in evaluation mode, by
    the plain operations of ops/reference.py.

    positions (T, axes), source (S,), features (T, F): see `SequenceModel.forward`.
    """
    found: Found = {}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with ops.use("reference"), ExitStack() as stack:
            for register, hook in _hooks(model, found):
                stack.callback(register(hook).remove)
            hidden = model(
                ids[None],
                None if positions is None else positions[None],
                source=None if source is None else source[None],
                features=None if features is None else features[None],
            )
            found["logits"] = model.logits(hidden)[0]
    finally:
        for module in training:
            module.training = True
    return found


def _hooks(
    model: SequenceModel, found: Found
) -> list[tuple[Callable[..., Any], Callable[..., None]]]:
    """Hooks that write tensors into `found`, each after the method that registers it."""
    hooks: list[tuple[Callable[..., Any], Callable[..., None]]] = []

    def read(module: nn.Module, name: str) -> None:
        """The first input of the module."""

        def hook(module: nn.Module, inputs: Any) -> None:
            found[name] = inputs[0][0]

        hooks.append((module.register_forward_pre_hook, hook))

    def keep(module: nn.Module | None, *names: str) -> None:
        """The output of the module. Several names: of its calls, in turn."""
        turn = iter(names)

        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            found[next(turn)] = out[0]

        if module is not None:
            hooks.append((module.register_forward_hook, hook))

    def explain(module: nn.Module | None, name: str, within: Callable[..., Found]) -> None:
        """What the module computes within."""

        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            parts = within(module, *inputs)
            found.update({f"{name}.hook_{part}": tensor[0] for part, tensor in parts.items()})

        if module is not None:
            hooks.append((module.register_forward_hook, hook))

    keep(model.embedding, "hook_embed", "encoder.hook_embed")  # the target is embedded first
    keep(model.features, "hook_features")
    keep(model.position_embedding, "hook_pos_embed", "encoder.hook_pos_embed")
    for stem, blocks in (("encoder", model.encoder), ("blocks", model.blocks)):
        for number, block in enumerate(cast(Any, blocks)):
            name = f"{stem}.{number}"
            mixer, within = _mixer_of(block)
            read(block, f"{name}.hook_resid_pre")
            keep(block.mixer_norm, f"{name}.ln1.hook_normalized")
            explain(block.mixer, f"{name}.{mixer}", within)
            keep(block.mixer, f"{name}.hook_{mixer}_out")
            keep(block.mixer_out_norm, f"{name}.hook_{mixer}_out")
            keep(block.cross_norm, f"{name}.ln_cross.hook_normalized")
            explain(block.cross, f"{name}.cross_attn", _cross_attention)
            keep(block.cross, f"{name}.hook_cross_attn_out")
            keep(block.cross_out_norm, f"{name}.hook_cross_attn_out")
            keep(block.ffn_norm, f"{name}.ln2.hook_normalized")
            explain(block.ffn, f"{name}.mlp", _feed_forward)
            keep(block.ffn, f"{name}.hook_mlp_out")
            keep(block.ffn_out_norm, f"{name}.hook_mlp_out")
            layers = (("mid", block.mixer), ("mid_cross", block.cross), ("post", block.ffn))
            sums = [each for each, layer in layers if layer is not None]
            keep(block.add, *(f"{name}.hook_resid_{each}" for each in sums))
            keep(block, f"{name}.hook_resid_post")
    keep(model.encoder_norm, "encoder.ln_final.hook_normalized")
    keep(model.norm, "ln_final.hook_normalized")
    return hooks


def mixer_name(block: Block) -> str:
    """What the names of a block's tensors call its mixer: attn, rnn, conv or mixer."""
    return _mixer_of(block)[0]


def _mixer_of(block: Block) -> tuple[str, Callable[..., Found]]:
    for kind, name, within in (
        (Attention, "attn", _attention),
        (AttentionRnn, "attn", _additive_attention),
        (Recurrent, "rnn", _recurrent),
        (Convolution, "conv", _convolution),
    ):
        if isinstance(block.mixer, kind):
            return name, within
    return "mixer", lambda *_: {}  # of another package


# -- what layers compute within --------------------------------------------------------------------


def _attention(layer: Attention, x: Tensor, context: Context) -> Found:
    """q, k, v (T, heads or groups, w); rot_q, rot_k: normalised and rotated; attn_scores (heads,
    T, S), -inf where a position is not seen; pattern: their softmax; z (T, heads, w)."""
    heads, groups = layer.heads, layer.groups
    q, k, v = reference.split_heads(layer.qkv(x), heads, groups, None, None)
    turned_q, turned_k, _ = layer.project(x, context)
    visible = torch.ones(1, x.shape[1], x.shape[1], dtype=torch.bool, device=x.device)
    bias = None
    if not isinstance(layer, WholeAttention):
        visible = reference.visible_keys(
            x.shape[1], x.shape[1], 0, layer.first_visible(x, context), x.device
        )
        if layer.alibi:
            slopes = alibi_slopes(heads, x.device)
            bias = reference.linear_bias(x.shape[1], x.shape[1], 0, slopes, x.dtype)
    return _weighted(q, k, v, turned_q, turned_k, visible, bias)


def _cross_attention(layer: CrossAttention, x: Tensor, context: Context) -> Found:
    """As `_attention`, over the S positions of the source."""
    memory = cast(Tensor, context.memory)
    turned_k, v = layer.read(memory)
    turned_q = layer.ask(x)
    q = layer.query(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    k = layer.kv(memory).unflatten(-1, (2 * layer.groups, -1)).transpose(1, 2)[:, : layer.groups]
    visible = torch.ones(1, x.shape[1], memory.shape[1], dtype=torch.bool, device=x.device)
    return _weighted(q, k, v, turned_q, turned_k, visible, None)


def _weighted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    turned_q: Tensor,
    turned_k: Tensor,
    visible: Tensor,
    bias: Tensor | None,
) -> Found:
    """The parts of softmax attention. visible (1, T, S); all others (B, heads or groups, T, w)."""
    times = q.shape[1] // k.shape[1]
    scores = turned_q @ turned_k.repeat_interleave(times, dim=1).mT * q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    scores = scores.masked_fill(~visible[:, None], -torch.inf)
    pattern = scores.softmax(-1)
    z = pattern @ v.repeat_interleave(times, dim=1)
    by_position = {"q": q, "k": k, "v": v, "rot_q": turned_q, "rot_k": turned_k}
    found = {name: value.transpose(1, 2) for name, value in by_position.items()}
    return {**found, "attn_scores": scores, "pattern": pattern, "z": z.transpose(1, 2)}


def _additive_attention(layer: AttentionRnn, x: Tensor, context: Context) -> Found:
    """The gates and states of the GRU; q, k (T, hidden); attn_scores and pattern (1, T, T); z
    (T, D)."""
    found = _recurrent(layer.rnn, x, context)
    states = found["state"]
    q, k = layer.query(states), layer.key(states)
    scores = layer.score((q[:, :, None] + k[:, None]).tanh())[..., 0]
    visible = reference.visible_keys(x.shape[1], x.shape[1], 0, None, x.device)
    scores = scores.masked_fill(~visible, -torch.inf)
    pattern = scores.softmax(-1)
    parts = {"attn_scores": scores[:, None], "pattern": pattern[:, None], "z": pattern @ states}
    return {**found, "q": q, "k": k, **parts}


def _recurrent(layer: Recurrent, x: Tensor, context: Context) -> Found:
    """state (T, D) after each position, and of a GRU the gates r, z and the candidate n, of an LSTM
    the gates i, f, o, the candidate g and the cell."""
    cell = layer.cell
    own = x @ cell.weight_ih_l0.T
    if cell.bias:
        own = own + cell.bias_ih_l0
    h = c = x.new_zeros(x.shape[0], cell.hidden_size)
    steps: list[Found] = []
    for t in range(x.shape[1]):
        past = h @ cell.weight_hh_l0.T
        if cell.bias:
            past = past + cell.bias_hh_l0
        if layer.gates == 1:
            h = (own[:, t] + past).tanh()
            step = {}
        elif layer.gates == 3:
            (xr, xz, xn), (hr, hz, hn) = own[:, t].chunk(3, -1), past.chunk(3, -1)
            r, z = (xr + hr).sigmoid(), (xz + hz).sigmoid()
            n = (xn + r * hn).tanh()
            h = (1 - z) * n + z * h
            step = {"r": r, "z": z, "n": n}
        else:
            i, f, g, o = (own[:, t] + past).chunk(4, -1)
            i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
            c = f * c + i * g
            h = o * c.tanh()
            step = {"i": i, "f": f, "g": g, "o": o, "cell": c}
        steps.append(
            {**{f"gate_{k}" if k != "cell" else k: v for k, v in step.items()}, "state": h}
        )
    return {name: torch.stack([step[name] for step in steps], dim=1) for name in steps[0]}


def _convolution(layer: Convolution, x: Tensor, context: Context) -> Found:
    """value and gate (T, D), and post, their product."""
    value, gate = layer.taps(layer.gather(x, context)).chunk(2, dim=-1)
    value, gate = value.tanh(), gate.sigmoid()
    return {"value": value, "gate": gate, "post": value * gate}


def _feed_forward(layer: FeedForward, x: Tensor) -> Found:
    """pre and post (T, hidden): before and after the activation. If gated, pre is the gate's, and
    pre_linear what it multiplies."""
    up = layer.up(x)
    if not layer.gated:
        return {"pre": up, "post": ACTIVATIONS[layer.kind](up)}
    gate, value = up.chunk(2, dim=-1)
    return {"pre": gate, "pre_linear": value, "post": ACTIVATIONS[layer.kind](gate) * value}
