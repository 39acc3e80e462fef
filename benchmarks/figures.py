"""Draws docs/architectures/NAME.svg, one figure an architecture, from its configuration at a size.

python benchmarks/figures.py [--size tiny] [--to docs/architectures] [--png]
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

from tfm.core.architectures import ARCHS, model_config
from tfm.core.config import ModelConfig
from tfm.core.model.sequence_model import on_meta

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"mixer": "#9ec5f4", "cross": "#b7a6ea", "ffn": "#f6c99a", "norm": "#e3e3e3"}
COLOURS |= {"table": "#b9dfb6", "add": "#ffffff"}
NORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
POSITIONS = {"rope": "", "none": "", "alibi": "", "learned": "+ learned\npositions"}
POSITIONS |= {"sinusoidal": "+ sinusoids"}
FFNS = {"relu": "ReLU", "gelu": "GELU", "relu2": "ReLU²", "swiglu": "SwiGLU"}
WIDTH, HEIGHT, GAP, START = 1.62, 0.92, 0.42, 1.12


@dataclass
class Part:
    """A box. start: the number of boxes before it that the residual stream goes around."""

    label: str
    kind: str
    start: int = 0


@dataclass
class Row:
    """One stack: boxes before, in and after the repeated block."""

    title: str
    before: list[Part]
    block: list[Part]
    times: int
    after: list[Part] = field(default_factory=list)


def mixer_label(config: ModelConfig, encoder: bool) -> tuple[str, str]:
    name = config.mixer(0)
    if encoder:
        return f"self-attention\n{config.heads} heads, both ways", "mixer"
    labels = {
        "attention": f"self-attention\n{config.heads} heads"
        + (", rotary" if config.positions == "rope" else ", causal"),
        "rnn": "tanh layer\nover positions",
        "gru": "GRU\nover positions",
        "lstm": "LSTM\nover positions",
        "conv": f"gated convolution\n{config.kernel} taps, 1, 2, 4 ... apart",
        "attention-rnn": "GRU, then additive\nattention to its states",
    }
    return labels[name], "mixer"


def block_parts(config: ModelConfig, encoder: bool) -> list[Part]:
    """The boxes of a block, in the order in which `Block.forward` runs them."""
    layers = [mixer_label(config, encoder)]
    if config.encoder_layers and not encoder:
        layers.append((f"cross-attention\n{config.heads} heads, to the source", "cross"))
    if config.ffn != "none":
        layers.append((f"{FFNS[config.ffn]}\n{config.width} → {config.hidden}", "ffn"))
    norm = NORMS.get(config.norm)
    parts: list[Part] = []
    for label, kind in layers:
        inside = [Part(label, kind)]
        if norm and config.norm_position != "post":
            inside.insert(0, Part(norm, "norm"))
        if config.residual:
            inside.append(Part("+", "add", start=len(inside)))
        if norm and config.norm_position == "post":
            inside.append(Part(norm, "norm"))
        parts += inside
    return parts


def rows_of(config: ModelConfig) -> list[Row]:
    norm = NORMS.get(config.norm)
    after = [Part(norm, "norm")] if norm and config.norm_position != "post" else []
    table = Part(f"embedding\n{POSITIONS[config.positions]}".strip(), "table")
    head = Part("head\n(the embeddings)" if config.tied else "head", "table")
    rows = []
    if config.encoder_layers:
        rows.append(
            Row("source", [table], block_parts(config, True), config.encoder_layers, list(after))
        )
    title = "target" if config.encoder_layers else "ids"
    decoder = block_parts(config, False)
    rows.append(Row(title, [table], decoder, config.layers, [*after, head]))
    return rows


def width_of(part: Part) -> float:
    longest = max(map(len, part.label.split("\n")))
    return {"add": 0.42, "norm": 1.22}.get(part.kind, max(WIDTH, 0.107 * longest + 0.25))


def draw_row(axes: Any, row: Row, y: float) -> float:
    """Draws a row at height y and returns its right end."""
    x = 0.0
    axes.text(x, y, row.title, ha="left", va="center", fontsize=10, style="italic")
    x += START
    frame_start = 0.0
    places: list[tuple[float, float, Part]] = []
    for number, part in enumerate([*row.before, *row.block, *row.after]):
        if number == len(row.before):
            x += 0.25
            frame_start = x - 0.28
        if number == len(row.before) + len(row.block):
            x += 0.3
        width = width_of(part)
        axes.annotate(
            "", (x, y), (x - GAP, y), arrowprops=dict(arrowstyle="-|>", lw=1, color="#444444")
        )
        if part.kind == "add":
            axes.add_patch(plt.Circle((x + width / 2, y), width / 2, fc="white", ec="#444444"))
        else:
            axes.add_patch(
                FancyBboxPatch(
                    (x, y - HEIGHT / 2), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1",
                    fc=COLOURS[part.kind], ec="#444444", lw=1,
                )
            )  # fmt: skip
        axes.text(x + width / 2, y, part.label, ha="center", va="center", fontsize=8.5)
        if part.start:  # the residual stream goes round the boxes before this one
            first = places[-part.start][0] - GAP / 2
            middle, top = x + width / 2, y + HEIGHT / 2 + 0.22
            line = [first, first, middle, middle], [y, top, top, y + width / 2 + 0.02]
            axes.plot(*line, color="#444444", lw=1)
            axes.plot(first, y, "o", ms=3, color="#444444")
        places.append((x, width, part))
        x += width + GAP
    last = places[len(row.before) + len(row.block) - 1]
    frame_end = last[0] + last[1] + 0.28
    bottom, top = y - HEIGHT / 2 - 0.28, y + HEIGHT / 2 + 0.42
    axes.add_patch(
        FancyBboxPatch(
            (frame_start, bottom), frame_end - frame_start, top - bottom,
            boxstyle="round,pad=0,rounding_size=0.15", fc="none", ec="#888888", lw=1, ls="--",
        )
    )  # fmt: skip
    axes.text(frame_end, bottom - 0.06, f"× {row.times}", ha="right", va="top", fontsize=9)
    end = x - GAP
    axes.annotate("", (end + GAP, y), (end, y), arrowprops=dict(arrowstyle="-|>", lw=1))
    return end + GAP + 0.1


def draw(name: str, size: str, path: Path) -> None:
    config = model_config(name, size)
    rows = rows_of(config)
    figure, axes = plt.subplots()
    ends = [draw_row(axes, row, 2.3 * (len(rows) - 1 - n)) for n, row in enumerate(rows)]
    if len(rows) == 2:  # the encoder's output goes to the cross-attention of every decoder block
        decoder = [*rows[1].before, *rows[1].block]
        x = START
        for number, part in enumerate(decoder):
            x += 0.25 if number == len(rows[1].before) else 0
            if part.kind == "cross":
                middle = x + width_of(part) / 2
                axes.plot([ends[0], ends[0], middle], [2.3, 1.3, 1.3], color="#7a61c9", lw=1.2)
                arrow = dict(arrowstyle="-|>", lw=1.2, color="#7a61c9")
                axes.annotate("", (middle, HEIGHT / 2), (middle, 1.3), arrowprops=arrow)
            x += width_of(part) + GAP
    millions = on_meta(config).blocks_parameter_count() / 1e6
    note = f"--size {size}: width {config.width}, {millions:.2f} M parameters in the blocks"
    axes.text(0, -HEIGHT / 2 - 0.74, note, ha="left", va="top", fontsize=8.5, color="#555555")
    width, height = max(ends) + 0.2, 2.3 * len(rows)
    axes.set_xlim(-0.1, width)
    axes.set_ylim(-HEIGHT / 2 - 1.1, height - 2.3 + HEIGHT / 2 + 0.6)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.set_size_inches(0.72 * width, 0.72 * height)
    figure.savefig(path, bbox_inches="tight", pad_inches=0.05, dpi=110, metadata=_undated(path))
    plt.close(figure)


def _undated(path: Path) -> dict[str, None] | None:
    """No date in the file, so that equal figures are equal files."""
    return {"Date": None} if path.suffix == ".svg" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "architectures")
    parser.add_argument("--png", action="store_true")
    args = parser.parse_args()
    matplotlib.rcParams.update({"svg.hashsalt": "tfm", "svg.fonttype": "none"})
    args.to.mkdir(parents=True, exist_ok=True)
    for name in ARCHS:
        draw(name, args.size, args.to / f"{name}.{'png' if args.png else 'svg'}")


if __name__ == "__main__":
    main()
