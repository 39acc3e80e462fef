"""Where the tensors of one pass stand in space: boxes as wide and as high as their shapes.

The residual stream is the spine. It runs in depth (z), one slab for each state of the stream. What
a block's mixer computes stands to the left of the spine, what its feed-forward computes to the
right, from left to right in the order in which it is computed. A slab is a matrix: its columns are
positions and its rows are features (of scores and attention patterns: the columns are keys, the
rows are queries). The heads of a tensor stand one above another. An encoder has a spine of its
own, left of the decoder's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..config import ModelConfig

Shape = tuple[int, ...]
TOP_LOGITS = 64  # the box of the logits has the likeliest ids only
GAP = 0.4  # between the columns of a wing, as a share of the positions
ENCODER_GAPS = 4  # such gaps between an encoder and its decoder
HEAD_GAP = 0.12  # between heads, as a share of their height
DEPTH = 0.5  # between the states of the stream, as a share of the root of width times height
LAYER_NAMES = {  # of mixers, in the names of tensors; `mixer` for one of another package
    "attention": "attn",
    "attention-rnn": "attn",
    "conv": "conv",
    "rnn": "rnn",
    "gru": "rnn",
    "lstm": "rnn",
}
LABELS = {
    "embed": "embedding",
    "features": "features",
    "pos_embed": "positions",
    "normalized": "norm",
    "q": "Q",
    "k": "K",
    "v": "V",
    "rot_q": "Q, turned",
    "rot_k": "K, turned",
    "attn_scores": "scores",
    "pattern": "softmax",
    "z": "mix of V",
    "pre": "hidden",
    "pre_linear": "second hidden",
    "post": "activation",
    "attn_out": "attention writes",
    "cross_attn_out": "cross-attention writes",
    "rnn_out": "recurrence writes",
    "conv_out": "convolution writes",
    "mixer_out": "mixer writes",
    "mlp_out": "feed-forward writes",
}


@dataclass(frozen=True)
class Layer:
    """A layer of a block. name: in the names of tensors; norm: the name of its norm; within: the
    shapes of what it computes, in order; after: which state of the stream follows it."""

    part: str  # mixer, cross, ffn
    name: str
    norm: str
    within: dict[str, Shape]
    after: str


@dataclass(frozen=True)
class Box:
    """A slab in space, 1 thick. x, y, z: its left, upper, front corner; x grows to the right, y
    downwards, z away from the viewer. columns, rows: its width and height, those of the matrix."""

    tensor: str
    head: int | None  # which head of the tensor it is; None: the tensor has no heads
    label: str
    part: str  # stream, embedding, mixer, cross, ffn, head
    block: int | None
    columns: int
    rows: int
    x: float
    y: float
    z: float


def layers(config: ModelConfig, stack: str, block: int, length: int, source: int) -> list[Layer]:
    """The layers of block number `block` of a stack, `blocks` or `encoder`."""
    positions = source if stack == "encoder" else length
    kind = "attention" if stack == "encoder" else config.mixer(block)
    name = LAYER_NAMES.get(kind, "mixer")
    found = [Layer("mixer", name, "ln1", _within(config, kind, positions, positions), "mid")]
    if stack == "blocks" and config.encoder_layers:
        within = _within(config, "attention", length, source)
        found.append(Layer("cross", "cross_attn", "ln_cross", within, "mid_cross"))
    if config.ffn != "none":
        names = ("pre", "pre_linear", "post") if config.gated else ("pre", "post")
        within = dict.fromkeys(names, (positions, config.hidden))
        found.append(Layer("ffn", "mlp", "ln2", within, "post"))
    return found


def _within(config: ModelConfig, kind: str, queries: int, keys: int) -> dict[str, Shape]:
    stream = (queries, config.width)
    if kind == "attention":
        w = config.head_width
        asks, reads = (queries, config.heads, w), (keys, config.groups, w)
        scores = (config.heads, queries, keys)
        found: dict[str, Shape] = dict(q=asks, k=reads, v=reads, rot_q=asks, rot_k=reads)
        return {**found, "attn_scores": scores, "pattern": scores, "z": asks}
    if kind == "conv":
        return dict.fromkeys(("value", "gate", "post"), stream)
    if kind not in LAYER_NAMES:
        return {}
    gates = {"rnn": "", "lstm": "ifgo"}.get(kind, "rzn")
    found = {f"gate_{gate}": stream for gate in gates}
    found |= {"cell": stream, "state": stream} if kind == "lstm" else {"state": stream}
    if kind == "attention-rnn":
        small, scores = (queries, config.head_width), (1, queries, keys)
        found |= dict(q=small, k=small, attn_scores=scores, pattern=scores, z=stream)
    return found


def stacks(config: ModelConfig, length: int, source: int) -> list[tuple[str, str, int, int]]:
    """(stack, prefix of names outside its blocks, number of blocks, positions) of each."""
    decoder = ("blocks", "", config.layers, length)
    encoder = ("encoder", "encoder.", config.encoder_layers, source)
    return [encoder, decoder] if config.encoder_layers else [decoder]


def shapes(config: ModelConfig, length: int, source: int = 0) -> dict[str, Shape]:
    """The shape of each tensor of `capture` for `length` positions, and `source` positions of an
    encoder."""
    found: dict[str, Shape] = {}
    for stack, prefix, blocks, positions in stacks(config, length, source):
        stream = (positions, config.width)
        found[f"{prefix}hook_embed"] = stream
        if config.features and not prefix:
            found["hook_features"] = stream
        if config.positions == "learned":
            found[f"{prefix}hook_pos_embed"] = stream
        for block in range(blocks):
            at = f"{stack}.{block}"
            found[f"{at}.hook_resid_pre"] = found[f"{at}.hook_resid_post"] = stream
            for layer in layers(config, stack, block, length, source):
                for part, shape in layer.within.items():
                    found[f"{at}.{layer.name}.hook_{part}"] = shape
                for name in (f"{layer.norm}.hook_normalized", f"hook_{layer.name}_out"):
                    found[f"{at}.{name}"] = stream
                found[f"{at}.hook_resid_{layer.after}"] = stream
        if config.norm_position != "post":
            found[f"{prefix}ln_final.hook_normalized"] = stream
    found["logits"] = (length, config.vocab_size)
    return found


def slabs(name: str, shape: Shape) -> list[tuple[int | None, int, int]]:
    """(head, rows, columns) of each slab of a tensor (positions, features), (positions, heads,
    features) or, of scores and patterns, (heads, queries, keys)."""
    if len(shape) == 2:
        return [(None, shape[1], shape[0])]
    if name.endswith(("attn_scores", "pattern")):
        return [(head, shape[1], shape[2]) for head in range(shape[0])]
    return [(head, shape[2], shape[0]) for head in range(shape[1])]


def label(name: str) -> str:
    """A short name of a tensor for people."""
    last = name.rpartition("hook_")[2]
    if last.startswith("resid"):
        return "stream"
    return LABELS.get(last, last.replace("gate_", "gate "))


def layout(config: ModelConfig, length: int, source: int = 0) -> list[Box]:
    """The boxes of a pass over `length` positions, and `source` positions of an encoder: one for
    each tensor of `shapes` that is not the same as another one, and for each of its heads."""
    found = shapes(config, length, source)
    found["logits"] = (length, min(config.vocab_size, TOP_LOGITS))
    spines = [
        _Spine(config, found, stack, length, source) for stack, *_ in stacks(config, length, source)
    ]
    decoder = spines[-1]
    step = DEPTH * math.sqrt(max(decoder.left, decoder.right) * decoder.height)
    if all(stage.part != "ffn" and stage.part != "cross" for stage in decoder.stages):
        step *= 2  # wings on one side only
    boxes = list(decoder.boxes(0.0, step))
    for encoder in spines[:-1]:
        apart = decoder.left + encoder.right + ENCODER_GAPS * encoder.gap
        boxes += encoder.boxes(-apart, step)
    return boxes


@dataclass(frozen=True)
class _Stage:
    """A state of the stream, as one slab or several behind one another, and the wing that reads it:
    names of tensors from left to right."""

    states: list[str]
    wing: list[str]
    part: str  # of the wing: embedding, mixer, cross, ffn, head
    block: int | None

    @property
    def on_the_right(self) -> bool:
        return self.part in ("ffn", "head")


class _Spine:
    """A stack: states of the stream with their wings.

    height: of its highest column; left, right: how far its wings reach from the middle.
    """

    def __init__(
        self, config: ModelConfig, found: dict[str, Shape], stack: str, length: int, source: int
    ) -> None:
        self.config, self.found = config, found
        self.gap = GAP * (source if stack == "encoder" else length) + 1
        self.stages = list(self._stages(stack, length, source))
        columns = [name for stage in self.stages for name in (*stage.states, *stage.wing)]
        self.height = max(self._height(name) for name in columns)
        self.left = self.right = 0.0
        for stage in self.stages:
            reach = self._away(stage) + self._width(stage.wing)
            if stage.on_the_right:
                self.right = max(self.right, reach)
            else:
                self.left = max(self.left, reach)

    def _stages(self, stack: str, length: int, source: int) -> Iterator[_Stage]:
        config, post_norm = self.config, self.config.norm_position == "post"
        _, prefix, blocks, _ = next(s for s in stacks(config, length, source) if s[0] == stack)

        def existing(*names: str) -> list[str]:
            return [f"{prefix}{name}" for name in names if f"{prefix}{name}" in self.found]

        yield _Stage(
            [], existing("hook_embed", "hook_features", "hook_pos_embed"), "embedding", None
        )
        states = [f"{stack}.0.hook_resid_pre"]
        for block in range(blocks):
            at = f"{stack}.{block}"
            every = layers(config, stack, block, length, source)
            for layer in every:
                norm = f"{at}.{layer.norm}.hook_normalized"
                within = [f"{at}.{layer.name}.hook_{part}" for part in layer.within]
                wing = [*([] if post_norm else [norm]), *within, f"{at}.hook_{layer.name}_out"]
                yield _Stage(states, wing, layer.part, block)
                states = [f"{at}.hook_resid_{layer.after}", *([norm] if post_norm else [])]
            states = [f"{at}.hook_resid_post"]  # of a pre-norm block the last sum, else its norm
            if post_norm and every[-1].after != "post":
                states.insert(0, f"{at}.hook_resid_{every[-1].after}")
        yield _Stage(states, existing("ln_final.hook_normalized", "logits"), "head", None)

    def _slabs(self, name: str) -> list[tuple[int | None, int, int]]:
        return slabs(name, self.found[name])

    def _columns(self, name: str) -> int:
        return self._slabs(name)[0][2]

    def _height(self, name: str) -> float:
        every = self._slabs(name)
        return every[0][1] * (len(every) + HEAD_GAP * (len(every) - 1))

    def _width(self, names: list[str]) -> float:
        return sum(self._columns(name) + self.gap for name in names) - self.gap

    def _away(self, stage: _Stage) -> float:
        """The distance of a wing from the middle of the spine."""
        return max([self._columns(name) for name in stage.states] or [0]) / 2 + self.gap

    def boxes(self, centre: float, step: float) -> Iterator[Box]:
        """centre: x of the middle of the spine; step: between two states in depth."""
        for number, stage in enumerate(self.stages):
            for behind, name in enumerate(stage.states, 1 - len(stage.states)):
                x = centre - self._columns(name) / 2
                z = step * (number + behind / 2)
                yield from self._column(name, "stream", int(name.split(".")[1]), x, z)
            away = self._away(stage)
            x = centre + (away if stage.on_the_right else -away - self._width(stage.wing))
            for name in stage.wing:
                yield from self._column(name, stage.part, stage.block, x, step * number)
                x += self._columns(name) + self.gap

    def _column(self, name: str, part: str, block: int | None, x: float, z: float) -> Iterator[Box]:
        """The slabs of a tensor, one above another."""
        y = -self._height(name) / 2
        for head, rows, columns in self._slabs(name):
            yield Box(name, head, label(name), part, block, columns, rows, x, y, z)
            y += rows * (1 + HEAD_GAP)
