"""A forward pass in words: pseudo code with the numbers of one model, and a walk with captions.

Both come from the same parts. `_Pass` lists the parts of one block, or of what stands before or
after the blocks, in the order of computation: a line of pseudo code, the tensors that it makes
(their names are those of `capture`) and what the walk says of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from ..config import ModelConfig
from .captions import CAPTIONS, CELLS, CHANGES, FUNCTIONS, NORMS, WRITES
from .layout import Layer, layers, shapes, stacks


@dataclass(frozen=True)
class Line:
    """A line of pseudo code, indented by two spaces a level. shape: of what it makes. tensors:
    their names, with {n} for the number of the block in a loop over the blocks first ... last."""

    text: str
    shape: str = ""
    tensors: tuple[str, ...] = ()
    blocks: tuple[int, int] | None = None


@dataclass(frozen=True)
class Step:
    """A step of the walk. tensors: the full names of those it shows; block: None outside of blocks;
    line: the index of the line of `pseudo_code` that makes them."""

    title: str
    caption: str
    tensors: tuple[str, ...]
    block: int | None
    line: int


def pseudo_code(config: ModelConfig, length: int, source: int = 0) -> list[Line]:
    """The pass over `length` positions, of a model with an encoder also over `source` ones.
    Consecutive blocks with the same mixer share a loop."""
    return _program(config, length, source)[0]


def walk(config: ModelConfig, length: int, source: int = 0) -> list[Step]:
    """The steps of the same pass: one for every line that makes tensors, in each block."""
    return _program(config, length, source)[1]


def _program(config: ModelConfig, length: int, source: int) -> tuple[list[Line], list[Step]]:
    lines: list[Line] = []
    steps: list[Step] = []
    sizes = shapes(config, length, source)

    def add(passes: list[_Pass], prefix: str, label: str) -> None:
        """The lines of the first of some passes that are alike, and the steps of all."""
        first, start = passes[0], len(lines)
        blocks = (first.block, passes[-1].block) if label else None
        for part in first.parts:
            names = tuple(prefix + name for name in part.names)
            size = sizes[names[0].format(n=first.block)] if names else part.size
            lines.append(Line(part.text, " x ".join(map(str, size)), names, blocks))
        for each in passes:
            block, title = (each.block, f"{label} {each.block}: ") if label else (None, "")
            for line, part in enumerate(each.parts, start):
                if part.names:
                    names = tuple(prefix.format(n=block) + name for name in part.names)
                    steps.append(Step(title + part.title, part.caption, names, block, line))

    for stack, prefix, count, rows in stacks(config, length, source):
        kind = "Encoder block" if stack == "encoder" else "Decoder block"
        passes = [_Pass(config, stack, rows, source, block) for block in range(count)]
        add([_Pass(config, stack, rows, source).begin()], prefix, "")
        for _, group in groupby(passes, key=lambda each: each.mixer):
            alike = list(group)
            span = _span(alike[0].block, alike[-1].block)
            label = kind if config.encoder_layers else "Block"
            add([each.loop(span) for each in alike], f"{stack}.{{n}}.", label)
        add([_Pass(config, stack, rows, source).end()], prefix, "")
    return lines, steps


@dataclass(frozen=True)
class _Part:
    """A line and what the walk says of it. names: of the tensors that it makes, without prefix."""

    text: str
    size: tuple[int, ...] = ()  # of an unnamed result
    names: tuple[str, ...] = ()
    title: str = ""
    caption: str = ""


class _Pass:
    """The parts of one block of a stack, or of what stands before or after its blocks. rows: the
    positions of the stack."""

    def __init__(
        self, config: ModelConfig, stack: str, rows: int, source: int, block: int = 0
    ) -> None:
        self.config, self.stack, self.rows, self.source = config, stack, rows, source
        self.block, self.encoder = block, stack == "encoder"
        self.mixer = "attention" if self.encoder else config.mixer(block)
        self.post = config.norm_position == "post"
        self.x = "m" if self.encoder else "x"  # the stream
        self.kind = self.name = ""  # of the layer at hand
        self.parts: list[_Part] = []
        share = config.heads // config.groups
        self.facts: dict[str, str | int] = {  # for the captions
            **dict(block=block, rows=rows, width=config.width, vocab=config.vocab_size),
            "features": config.features,
            **dict(heads=config.heads, groups=config.groups, w=config.head_width),
            **dict(context=config.context, hidden=config.hidden, kernel=config.kernel),
            **dict(eps=f"{config.norm_eps:g}", theta=f"{config.rope_theta:g}"),
            "half": config.head_width // 2,
            "of_source": " of the source" if self.encoder else "",
            "served": f"every {share} heads" if share > 1 else "each head",
            "place": f"coordinate j mod {config.axes} of " * (config.axes > 1) + "the position",
            "each": f"Each of {config.heads} heads" if config.heads > 1 else "The only head",
            "look": "attention",
        }

    def make(self, target: str, value: str, caption: str = "", *names: str) -> str:
        """Adds the line `target = value`. Returns the name of its result. Where the value is the
        result of the line before, that line gets the names and no line is added."""
        if value.isidentifier() and target != self.x and self.parts:
            self.parts[-1] = replace(self.parts[-1], names=self.parts[-1].names + names)
            return value
        self.add(f"{target} = {value}", (self.rows, self.config.width), caption, *names)
        return target

    def add(self, text: str, size: tuple[int, ...] = (), caption: str = "", *names: str) -> None:
        """Adds a line. size: of its result, if that has no name; caption: a key of CAPTIONS, if it
        has one."""
        title, _, said = CAPTIONS[caption].format(**self.facts).partition(": ")
        self.parts.append(_Part(text, size, names, title, said))

    def inner(self, target: str, value: str, part: str) -> str:
        """A line that makes a tensor within the layer at hand."""
        caption = part if part in CAPTIONS else f"{self.kind}.{part}"
        return self.make(target, value, caption, f"{self.name}.hook_{part}")

    def linear(self, x: str, name: str) -> str:
        of_attention = self.kind == "attention" and name.removeprefix("cross_") in ("q", "k", "v")
        biased = self.config.bias or (of_attention and self.config.qkv_bias)
        return f"{x} @ W_{name}" + (f" + b_{name}" if biased else "")

    def norm(self, x: str, key: str) -> str:
        value, said = NORMS[self.config.norm]
        shifts = self.config.norm == "layernorm" and self.config.bias
        self.facts["shift"] = ", plus as many biases β" * shifts
        self.facts["norm"] = said.format(**self.facts)
        return value.format(x=x, key=key) + (f" + β_{key}" if shifts else "")

    # -- before and after the blocks ---------------------------------------------------------------

    def begin(self) -> _Pass:
        config, x, every = self.config, self.x, _span(0, self.rows - 1)
        self.make(x, f"embedding[{'source' if self.encoder else 'ids'}]", "embed", "hook_embed")
        if config.features and not self.encoder:
            self.make("f", "features @ W_features", "features", "hook_features")
            self.make(x, f"{x} + f")
        if config.positions == "learned":
            self.make("p", f"position_embedding[{every}]", "pos_embed", "hook_pos_embed")
            self.make(x, f"{x} + p")
        elif config.positions == "sinusoidal":
            self.make(x, f"{x} * √{config.width} + sinusoids[{every}]")
        return self

    def end(self) -> _Pass:
        config, facts, cap = self.config, self.facts, f"{self.config.softcap:g}"
        value = self.x if self.post else self.norm(self.x, "memory" if self.encoder else "final")
        names = () if self.post else ("ln_final.hook_normalized",)
        if self.encoder:
            self.make("memory", value, "memory" if names else "", *names)
            return self
        y = self.x if self.post else self.make("y", value, "final", *names)
        logits = f"{y} @ {'embedding.T' if config.tied else 'W_head'}"
        facts["head"] = "The transposed embedding matrix" if config.tied else "Matrix W_head"
        facts["cap"] = f"; tanh keeps them between -{cap} and {cap}" if config.softcap else ""
        value = f"{cap} * tanh({logits} / {cap})" if config.softcap else logits
        self.make("logits", value, "logits", "logits")
        return self

    # -- a block -----------------------------------------------------------------------------------

    def loop(self, span: str) -> _Pass:
        width = self.config.width
        start = {
            "learned": "the sum of both embeddings",
            "sinusoidal": f"the embeddings times √{width} plus sinusoids, sin and cos of "
            f"t / 10000^(2i / {width}) in columns 2i and 2i + 1",
        }.get(self.config.positions, "the embeddings")
        if self.config.features and not self.encoder:
            start += ", the rows of the features added"
        self.facts["start"] = f"what block {self.block - 1} wrote" if self.block else start
        self.add(f"for block in {span}:", (), "resid_pre", "hook_resid_pre")
        every = layers(self.config, self.stack, self.block, self.rows, self.source)
        for layer in every:
            self.layer(layer, layer is every[-1])
        self.parts[1:] = [replace(part, text=f"  {part.text}") for part in self.parts[1:]]
        return self

    def layer(self, layer: Layer, last: bool) -> None:
        """A layer, its norms, and the sum of what it writes and the stream."""
        kind = self.mixer if layer.part == "mixer" else layer.part
        self.kind, noun, within = {
            "attention": ("attention", "attention", self.attention),
            "cross": ("attention", "cross-attention", self.attention),
            "attention-rnn": ("attention-rnn", "the GRU with attention", self.attention_rnn),
            "conv": ("conv", "the convolution", self.convolution),
            "ffn": ("ffn", "the feed-forward layer", self.feed_forward),
            **dict.fromkeys(CELLS, ("recurrent", "the recurrent layer", self.recurrent)),
        }.get(kind, ("mixer", f"the mixer {kind}", lambda y: f"{kind}({y})"))
        config, facts, x, self.name = self.config, self.facts, self.x, layer.name
        key, normalized = layer.norm[2:].strip("_"), f"{layer.norm}.hook_normalized"
        total, written = f"hook_resid_{layer.after}", ("hook_resid_post",) if last else ()
        facts["noun"] = noun
        y = x if self.post else self.make("y", self.norm(x, key), "norm", normalized)
        value = within(y)
        facts["writes"] = WRITES[self.kind].format(**facts)
        if config.norm_position == "sandwich" and config.norm != "none":
            value, norm = self.norm(value, layer.name), str(facts["norm"])
            facts["writes"] = f"{facts['writes']} Then {norm[0].lower()}{norm[1:]}"
        out = self.make("out", value, "out", f"hook_{layer.name}_out")
        value, caption = (f"{x} + {out}", "sum") if config.residual else (out, "no-sum")
        if not self.post:
            self.make(x, value, caption, *dict.fromkeys((total, *written)))
            return
        value = self.make("sum", value, caption, *(() if total in written else (total,)))
        facts["summed"] = "The sum of stream and output" if config.residual else "The output"
        self.make(x, self.norm(value, key), "post-norm", normalized, *written)

    # -- what layers compute within; the result is the value that the layer writes -----------------

    def attention(self, y: str) -> str:
        config, facts, w = self.config, self.facts, self.config.head_width
        cross = self.name == "cross_attn"
        memory, seen = ("memory", self.source) if cross else (y, self.rows)
        tag = "cross_" if cross else ""
        changes = ["normalised"] * config.qk_norm
        changes += ["weighted"] * (config.qk_norm and config.qk_norm_weights)
        changes += ["rotated"] * (config.positions == "rope" and not cross)
        facts |= dict(look="cross-" * cross + "attention", cross="cross-attention " * cross)
        facts |= dict(tag=tag, of_memory=" of the memory" * cross, changes=" and ".join(changes))
        facts["how"] = " ".join(CHANGES[change][1] for change in changes).format(**facts)
        for letter, read, rows, count in (
            ("q", y, self.rows, config.heads),
            ("k", memory, seen, config.groups),
            ("v", memory, seen, config.groups),
        ):
            product = self.linear(read, tag + letter)
            self.inner(letter, f"({product}).view({rows}, {count}, {w})", letter)
            value = letter
            for change in changes:
                value = CHANGES[change][0].format(value, letter=letter)
            if letter != "v":
                self.inner(letter, value, f"rot_{letter}")

        causal, alibi = not (cross or self.encoder), config.positions == "alibi"
        key = "h" if config.groups == config.heads else f"h // {config.heads // config.groups}"
        score = f"q[t, h] · k[s, {key}] / √{w}" + " - slope[h] * (t - s)" * alibi
        facts["slopes"] = ", minus t - s times a constant slope of the head (ALiBi)" * alibi
        sees, some = "s ≤ t", "itself and those before it"
        if config.window:
            sees, some = f"t - {config.window} < s ≤ t", f"the last {config.window} up to itself"
        facts["sees"] = f"All {seen} positions of the source are seen."
        if causal:
            facts["sees"] = f"A position sees {some}; all other scores are -∞."
        self.softmax("h", f"{score} if {sees} else -∞" if causal else score)
        self.inner("z[t, h]", f"Σ_s pattern[h, t, s] * v[s, {key}]", "z")
        return self.linear("z.flatten(1)", f"{tag}o")

    def softmax(self, head: str, score: str) -> None:
        self.inner(f"scores[{head}, t, s]", score, "attn_scores")
        self.inner(f"pattern[{head}, t]", f"softmax(scores[{head}, t])", "pattern")

    def recurrent(self, y: str, cell: str = "") -> str:
        cell = cell or self.mixer
        self.add(f"h[-1] = {'c[-1] = ' * (cell == 'lstm')}0  # before position 0")
        self.add(f"for t in {_span(0, self.rows - 1)}:")
        for part, line in CELLS[cell].items():
            gate = part[-1] if part.startswith("gate") else "h"  # torch's names: W_ir, W_hr ...
            own, past = self.linear(f"{y}[t]", f"i{gate}"), self.linear("h[t-1]", f"h{gate}")
            target, value = line.format(own=own, past=past).split(" = ")
            self.inner(f"  {target}", value, part)
        return "h"

    def attention_rnn(self, y: str) -> str:
        self.recurrent(y, "gru")
        self.inner("q", self.linear("h", "q"), "q")
        self.inner("k", "h @ W_k", "k")
        self.softmax("0", "u · tanh(q[t] + k[s]) if s ≤ t else -∞")
        self.inner("context[t]", "Σ_s pattern[0, t, s] * h[s]", "z")
        return self.linear("concat(h, context)", "o")

    def convolution(self, y: str) -> str:
        config, cycle = self.config, 1
        while config.kernel > 1 and (config.kernel - 1) * (2**cycle - 1) < config.context - 1:
            cycle += 1  # as `dilation` of core/model/conv.py
        self.facts["dilation"] = 2 ** (self.block % cycle)
        self.add(f"d = 2 ** {'block' if config.layers <= cycle else f'(block % {cycle})'}")
        taps = f"concat({y}[t - d * j] for j in {_span(0, config.kernel - 1)})"
        size = (self.rows, config.kernel * config.width)
        self.add(f"taps[t] = {taps}  # zeros before position 0", size)
        self.inner("value", f"tanh({self.linear('taps', 'value')})", "value")
        self.inner("gate", f"σ({self.linear('taps', 'gate')})", "gate")
        self.inner("post", "value * gate", "post")
        return self.linear("post", "o")

    def feed_forward(self, y: str) -> str:
        (function, said), gated = FUNCTIONS[self.config.ffn], self.config.gated
        said += " The gate multiplies the second hidden layer." if gated else ""
        up = "gate" if gated else "up"
        self.facts |= dict(up=up, activation=said)
        self.inner("pre", self.linear(y, up), "pre")
        if gated:
            self.inner("pre_linear", self.linear(y, "value"), "pre_linear")
        value = function.format("pre") + " * pre_linear" * gated
        self.inner("post", value, "post")
        return self.linear("post", "down")


def _span(first: int, last: int) -> str:
    return f"{first} ... {last}" if first < last else str(first)
