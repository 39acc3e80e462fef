"""What the walk says of each thing that a model computes, and the formulas of its pseudo code.

`{name}` in a sentence is a number of the model, filled in by code.py.
"""

from __future__ import annotations

CAPTIONS = {  # title: sentences
    "": "",
    "embed": "Embedding{of_source}: Each id{of_source} picks its row of the embedding matrix "
    "({vocab} x {width}). The result has {rows} rows, one for each position.",
    "features": "Features: Each position has {features} numbers that stand beside its id. Matrix "
    "W_features turns them into {width}, which are added to the row of the id.",
    "pos_embed": "Positions{of_source}: Each position picks its row of a second learned matrix "
    "({context} x {width}), which is added to that of its id.",
    "resid_pre": "what it reads: Block {block} reads {start}: {rows} rows of {width} numbers.",
    "norm": "norm before {noun}: {norm}",
    "post-norm": "norm after {noun}: {summed} goes through a norm. {norm}",
    "out": "what {noun} writes: {writes}",
    "sum": "stream after {noun}: The residual stream takes up what {noun} wrote: both are added.",
    "no-sum": "stream after {noun}: What {noun} wrote takes the place of what it read.",
    "memory": "Memory of the source: {norm} Every block of the decoder reads the result.",
    "final": "Final norm: {norm}",
    "logits": "Logits: {head} turns each row into {vocab} logits, one for every id{cap}. The "
    "softmax of those of position t gives the probabilities of the id that follows it.",
    "attention.q": "{cross}queries: Matrix W_{tag}q turns each row into {heads} x {w} numbers, a "
    "query for each head: what a position looks for.",
    "attention.k": "{cross}keys: Matrix W_{tag}k turns each row{of_memory} into {groups} x {w} "
    "numbers, a key for {served}: what a position is found by.",
    "attention.v": "{cross}values: Matrix W_{tag}v turns each row{of_memory} into {groups} x {w} "
    "numbers, a value for {served}: what a position hands over.",
    "attention.rot_q": "{cross}queries, {changes}: {how}",
    "attention.rot_k": "{cross}keys, {changes}: {how}",
    "attention.attn_scores": "{look} scores: {each} compares every query with "
    "every key: a score is q · k / √{w}{slopes}. {sees}",
    "pattern": "{look} pattern: The softmax of the scores of each position: weights from 0 to 1 "
    "whose sum is 1. They say how much position t takes from each position s.",
    "attention.z": "{cross}weighted sums of values: Each head sums the values, weighted by its "
    "pattern: {w} numbers for each head and position.",
    "attention-rnn.q": "queries: Matrix W_q turns each state into a query of {w} numbers.",
    "attention-rnn.k": "keys: Matrix W_k turns each state into a key of {w} numbers.",
    "attention-rnn.attn_scores": "attention scores: Each query is compared with every key: a score "
    "is u · tanh(q + k), with {w} learned numbers u. A position sees the states up to its own; all "
    "other scores are -∞.",
    "attention-rnn.z": "weighted sums of states: The states that a position sees are summed, "
    "weighted by its row of the pattern: {width} numbers, its context.",
    "gate_r": "reset gate: How much of the state before enters the candidate: from 0 to 1.",
    "gate_z": "update gate: How much of the state before is kept: from 0 to 1.",
    "gate_n": "candidate: What may become the state, from -1 to 1. The reset gate multiplies what "
    "comes from the state before.",
    "gate_i": "input gate: How much of the candidate is added to the cell: from 0 to 1.",
    "gate_f": "forget gate: How much of the cell before is kept: from 0 to 1.",
    "gate_g": "candidate: What may be added to the cell: numbers from -1 to 1.",
    "gate_o": "output gate: How much of the cell the state shows: from 0 to 1.",
    "cell": "cells: The memory, {width} numbers. It keeps its past times the forget gate, and adds "
    "the candidate times the input gate.",
    "state": "states: {width} numbers, which the layer passes on and which position t + 1 reads "
    "beside its own row. So positions are computed one after the other.",
    "conv.value": "values: Position t reads {kernel} rows, its own and earlier ones, {dilation} "
    "apart, with zeros before the first. Matrix W_value and tanh make {width} numbers of them.",
    "conv.gate": "gates: Matrix W_gate and σ turn the same rows into numbers from 0 to 1.",
    "conv.post": "gated values: Each value is multiplied by its gate.",
    "ffn.pre": "hidden layer: Matrix W_{up} turns each row, by itself, into {hidden} numbers.",
    "ffn.pre_linear": "second hidden layer: Matrix W_value makes {hidden} more numbers, which the "
    "first ones, the gate, will multiply.",
    "ffn.post": "activation: {activation}",
}
NORMS = {
    "rmsnorm": (
        "rms_norm({x}) * γ_{key}",
        "Each row is divided by the root of its mean square, √(mean(x²) + {eps}), and multiplied "
        "by {width} learned weights γ.",
    ),
    "layernorm": (
        "layer_norm({x}) * γ_{key}",
        "From each row its mean is subtracted. The rest is divided by √(var(x) + {eps}) and "
        "multiplied by {width} learned weights γ{shift}.",
    ),
    "none": ("{x}", "This model has no norm: the rows stay as they are."),
}
CHANGES = {  # of queries and keys
    "normalised": ("rms_norm({})", "Each is divided by the root of its mean square."),
    "weighted": ("{} * γ_{letter}", "Each dimension of a head has a weight γ."),
    "rotated": (
        "rope({})",
        "Its numbers j and j + {half} are a pair, turned by the angle p / {theta}^(j / {half}), "
        "where p is {place}. So q · k depends on how far apart two positions are.",
    ),
}
WRITES = {
    "attention": "Matrix W_{tag}o turns the {heads} x {w} numbers of all heads, side by side, into "
    "{width}.",
    "attention-rnn": "Matrix W_o turns state and context, side by side, into {width} numbers.",
    "conv": "Matrix W_o turns the gated values of each position into {width} numbers.",
    "ffn": "Matrix W_down turns the {hidden} numbers of each position into {width}.",
    "recurrent": "The layer writes its states.",
    "mixer": "The mixer is of another package, which says how it computes this.",
}
CELLS = {  # own, past: the row and the state before, each times a matrix
    "rnn": {"state": "h[t] = tanh({own} + {past})"},
    "gru": {
        "gate_r": "r[t] = σ({own} + {past})",
        "gate_z": "z[t] = σ({own} + {past})",
        "gate_n": "n[t] = tanh({own} + r[t] * ({past}))",
        "state": "h[t] = (1 - z[t]) * n[t] + z[t] * h[t-1]",
    },
    "lstm": {
        "gate_i": "i[t] = σ({own} + {past})",
        "gate_f": "f[t] = σ({own} + {past})",
        "gate_g": "g[t] = tanh({own} + {past})",
        "gate_o": "o[t] = σ({own} + {past})",
        "cell": "c[t] = f[t] * c[t-1] + i[t] * g[t]",
        "state": "h[t] = o[t] * tanh(c[t])",
    },
}
FUNCTIONS = {
    "relu": ("relu({})", "Negative numbers become 0."),
    "gelu": ("gelu({})", "GELU: u becomes u / 2 · (1 + tanh(√(2/π) · (u + 0.044715 u³)))."),
    "relu2": ("relu({})²", "Negative numbers become 0, the others are squared."),
    "glu": ("σ({})", "σ brings the gate between 0 and 1."),
    "bilinear": ("{}", "Nothing is done to the gate."),
    "swiglu": ("silu({})", "SiLU: u becomes u · σ(u)."),
}
FUNCTIONS |= {"reglu": FUNCTIONS["relu"], "geglu": FUNCTIONS["gelu"]}
