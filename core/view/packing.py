"""Tensors as bytes of a page, and what a page gives up to stay small.

A page stores a tensor as 32-bit or 16-bit floats, as 8-bit integers with a scale a row, or as a
recipe by which it computes the tensor from others. Whatever is not exact has its largest error
beside it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import ModelConfig
from .layout import TOP_LOGITS, Shape, layers, stacks

Floats = npt.NDArray[Any]  # 32-bit floats
HIDDEN_KEPT = 64  # units of a feed-forward layer that a small page keeps
FEWEST_POSITIONS = 8  # that a small page keeps


@dataclass(frozen=True)
class Plan:
    """What a page holds."""

    recompute: bool = False  # what follows from other tensors is left to the page
    weights: bool = True  # of output projections
    bits: int = 32
    hidden: int = 0  # units of a feed-forward layer, those with the largest activations (0: all)
    last: int = 0  # positions, from the end (0: all)
    blocks: tuple[int, ...] | None = None  # None: all


def ladder(config: ModelConfig, length: int) -> Iterator[Plan]:
    """Plans, each smaller than the one before it."""
    plan = Plan()
    yield plan
    for change in (
        {"bits": 16}, {"recompute": True}, {"weights": False}, {"bits": 8}, {"hidden": HIDDEN_KEPT},
    ):  # fmt: skip
        plan = replace(plan, **change)
        yield plan
    last = length // 2
    while last >= FEWEST_POSITIONS:
        plan = replace(plan, last=last)
        yield plan
        last //= 2
    most = max(config.layers, config.encoder_layers)
    for kept in ((0, most // 2, most - 1), (most - 1,)):
        plan = replace(plan, blocks=tuple(sorted(set(kept))))
        yield plan


def given_up(plan: Plan, config: ModelConfig, length: int) -> list[str]:
    """One sentence for each thing that a page lacks or does not have exactly."""
    said = [
        {
            32: "Tensors are stored as 32-bit floats: exactly as the model computed them.",
            16: "Tensors are stored as 16-bit floats; the table has the largest error of each.",
            8: "Tensors are stored as 8-bit integers with a scale a row; the table has the largest "
            "error of each.",
        }[plan.bits]
    ]
    if config.vocab_size > TOP_LOGITS:
        said.append(
            f"Of {config.vocab_size:,} logits, each position has the {TOP_LOGITS} that are largest "
            "at the last position; the last position has all of them."
        )
    if plan.recompute:
        said.append(
            "Scores, their softmax, sums of the stream, norms and activations are computed by this "
            "page from the tensors they come from."
        )
    if not plan.weights:
        said.append("The weights of output projections are left out.")
    if plan.hidden and config.ffn != "none" and plan.hidden < config.hidden:
        said.append(
            f"Of {config.hidden:,} hidden units of each feed-forward layer, the {plan.hidden} with "
            "the largest activations are kept."
        )
    if plan.last:
        said.append(
            f"Of {length} positions the last {plan.last} are kept; what they attend to before "
            "these is one column, 'earlier'."
        )
    if plan.blocks is not None:
        said.append(f"Tensors of blocks {', '.join(map(str, plan.blocks))} only are kept.")
    return said


# -- recipes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a tensor follows from others. `page/tensors.js` computes the same."""

    op: str
    of: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)


def recipes(
    config: ModelConfig, length: int, source: int, given: Mapping[str, Any], cut: bool
) -> dict[str, Recipe]:
    """Tensors that follow from others. given: names of weights of norms; cut: whether some
    positions are left out, without which a softmax and its mix cannot be computed."""
    found: dict[str, Recipe] = {}
    for stack, prefix, blocks, _ in stacks(config, length, source):
        for block in range(blocks):
            at = f"{stack}.{block}"
            state = f"{at}.hook_resid_pre"
            for layer in layers(config, stack, block, length, source):
                here = f"{at}.{layer.name}.hook_"
                added = f"{at}.hook_resid_{layer.after}"
                if "rot_q" in layer.within:
                    causal = layer.part == "mixer" and stack == "blocks"
                    facts = {
                        "scale": config.head_width**-0.5,
                        "causal": causal,
                        "window": config.window if causal else 0,
                    }
                    if config.positions != "alibi":
                        asked = (f"{here}rot_q", f"{here}rot_k")
                        found[f"{here}attn_scores"] = Recipe("scores", asked, facts)
                if "pattern" in layer.within and not cut:
                    found[f"{here}pattern"] = Recipe("softmax", (f"{here}attn_scores",))
                    values = f"{here}v" if "v" in layer.within else f"{here}state"
                    found[f"{here}z"] = Recipe("mix", (f"{here}pattern", values))
                if layer.part == "ffn":
                    inputs = ("pre", "pre_linear") if config.gated else ("pre",)
                    of = tuple(f"{here}{name}" for name in inputs)
                    found[f"{here}post"] = Recipe("activation", of, {"kind": config.ffn})
                if layer.name == "conv":
                    found[f"{here}post"] = Recipe("product", (f"{here}value", f"{here}gate"))
                post_norm = config.norm_position == "post"
                if config.residual and not (post_norm and added.endswith("post")):
                    found[added] = Recipe("add", (state, f"{at}.hook_{layer.name}_out"))
                norm = f"{at}.{layer.norm}.hook_normalized"
                _norm(config, found, norm, added if post_norm else state, given)
                state = norm if post_norm else added
        last = f"{stack}.{blocks - 1}.hook_resid_post"
        _norm(config, found, f"{prefix}ln_final.hook_normalized", last, given)
    return found


def _norm(
    config: ModelConfig, found: dict[str, Recipe], norm: str, of: str, given: Mapping[str, Any]
) -> None:
    weight, bias = (norm.replace("hook_normalized", part) for part in ("w", "b"))
    if weight in given:
        names = (of, weight, *([bias] if bias in given else []))
        found[norm] = Recipe("norm", names, {"kind": config.norm, "eps": config.norm_eps})


ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.square(np.maximum(x, 0)),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "identity": lambda x: x,
}
GATE_ACTIVATIONS = {
    "glu": "sigmoid", "bilinear": "identity", "reglu": "relu", "geglu": "gelu", "swiglu": "silu",
}  # fmt: skip


def compute(recipe: Recipe, inputs: list[Floats]) -> Any:
    """What a recipe gives."""
    facts = recipe.facts
    first = inputs[0]
    with np.errstate(over="ignore"):
        if recipe.op == "add":
            return first + inputs[1]
        if recipe.op == "product":
            return first * inputs[1]
        if recipe.op == "activation":
            kind = facts["kind"]
            return ACTIVATIONS[GATE_ACTIVATIONS.get(kind, kind)](first) * (
                inputs[1] if len(inputs) > 1 else np.float32(1)
            )
        if recipe.op == "softmax":
            weights = np.exp(first - first.max(-1, keepdims=True))
            return np.asarray(weights / weights.sum(-1, keepdims=True))
        if recipe.op == "norm":
            if facts["kind"] == "layernorm":
                first = first - first.mean(-1, keepdims=True)
            root = np.sqrt(np.square(first).mean(-1, keepdims=True) + facts["eps"])
            scaled = first / root * inputs[1]
            return scaled + inputs[2] if len(inputs) > 2 else scaled
        if recipe.op == "scores":
            q, k = first.transpose(1, 0, 2), inputs[1].transpose(1, 2, 0)
            scores = q @ np.repeat(k, len(q) // len(k), axis=0) * np.float32(facts["scale"])
            visible = np.ones(scores.shape[1:], bool)
            if facts["causal"]:
                visible = np.tril(visible)
            if facts["window"]:
                visible &= ~np.tril(visible, -facts["window"])
            return np.where(visible, scores, -np.inf).astype(np.float32)
        assert recipe.op == "mix"
        if inputs[1].ndim == 2:
            return np.asarray(first[0] @ inputs[1])
        values = inputs[1].transpose(1, 0, 2)
        mixed = first @ np.repeat(values, len(first) // len(values), axis=0)
        return mixed.transpose(1, 0, 2)


# -- bytes -----------------------------------------------------------------------------------------


def planes(values: npt.NDArray[Any]) -> bytes:
    """The first byte of all values, then their second bytes ..., which compresses better."""
    size = values.itemsize
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    return little.view(np.uint8).reshape(-1, size).T.tobytes()


def encode(values: Floats, bits: int) -> tuple[str, bytes, Floats]:
    """(type, bytes, the values that the bytes stand for): f16 in two planes, or f32 in four where
    a value is too large for that; i8 rows of 8-bit integers (-128: minus infinity), then the scale
    of each row as f32 in four planes."""
    if bits == 8 and values.ndim > 1:
        finite = np.where(np.isfinite(values), values, 0)
        largest = np.abs(finite).max(-1, keepdims=True)
        scale = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
        codes = np.rint(finite / scale).astype(np.int8)
        decoded = np.where(np.isfinite(values), codes * scale, values)
        codes = np.where(np.isfinite(values), codes, -128).astype(np.int8)
        return "i8", codes.tobytes() + planes(scale), decoded.astype(np.float32)
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if bits == 32 or (np.isfinite(values) & ~np.isfinite(half)).any():
        return "f32", planes(values), values
    return "f16", planes(half), half.astype(np.float32)


@dataclass
class Packed:
    """Records of tensors by name, and their bytes, compressed (raw deflate)."""

    records: dict[str, dict[str, Any]]
    blob: bytes


def pack(
    tensors: Mapping[str, Floats],
    kept: Mapping[str, dict[str, Any]],
    recipes: Mapping[str, Recipe],
    bits: int,
    exact: set[str],
) -> Packed:
    """Tensors in the order in which they are computed, so that what a recipe needs comes first.

    kept: facts on tensors of which only a part is there; exact: names stored as 32-bit floats.
    A tensor equal to an earlier one refers to it.
    """
    records: dict[str, dict[str, Any]] = {}
    decoded: dict[str, Floats] = {}
    seen: dict[tuple[Shape, bytes], str] = {}
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    blob, size = b"", 0
    for name, values in tensors.items():
        key = (values.shape, values.tobytes())
        record: dict[str, Any] = {"shape": list(values.shape), **kept.get(name, {})}
        recipe = recipes.get(name)
        if key in seen:
            record["same"] = seen[key]
            decoded[name] = decoded[seen[key]]
        elif recipe is not None and all(each in decoded for each in recipe.of):
            record["recipe"] = {"op": recipe.op, "of": list(recipe.of), **recipe.facts}
            decoded[name] = compute(recipe, [decoded[each] for each in recipe.of])
        else:
            kind, data, decoded[name] = encode(values, 32 if name in exact else bits)
            record |= {"type": kind, "at": size}
            blob += compressor.compress(data)
            size += len(data)
        seen.setdefault(key, name)
        finite = np.isfinite(values)
        difference = np.abs(decoded[name][finite] - values[finite])
        record["error"] = float(difference.max(initial=0))
        record["largest"] = float(np.abs(values[finite]).max(initial=0))
        records[name] = record
    return Packed(records, blob + compressor.flush())
