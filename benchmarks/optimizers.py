"""One step of Muon over the matrices of a model: batched by shape, against torch.optim.Muon.

python benchmarks/optimizers.py [--rounds 9]
"""

from __future__ import annotations

import argparse

import torch
from _common import heading, interleaved, table

from tfm.core.architectures import model_config
from tfm.core.model.layers import Linear
from tfm.core.model.sequence_model import SequenceModel
from tfm.core.train.muon import Muon


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    heading()
    rows: list[list[object]] = [["size", "batched by shape", "torch.optim.Muon", "ratio"]]
    for size in ("nano", "tiny", "small", "base"):
        model = SequenceModel(model_config("transformer", size, vocab_size=256))
        layers = [m for m in model.blocks.modules() if isinstance(m, Linear)]
        for layer in layers:
            layer.weight.grad = torch.randn_like(layer.weight)
        ours = Muon(
            {layer.weight: layer.rows for layer in layers}, lr=0.02, momentum=0.95, weight_decay=0.0
        )
        theirs = torch.optim.Muon([layer.weight for layer in layers], lr=0.02, weight_decay=0.0)
        times = interleaved({"ours": ours.step, "theirs": theirs.step}, args.rounds)
        a, b = times["ours"][0], times["theirs"][0]
        rows.append([size, f"{1000 * a:.1f} ms", f"{1000 * b:.1f} ms", f"{b / a:.1f}"])
    table(rows)


if __name__ == "__main__":
    main()
