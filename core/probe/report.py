"""All that `tfm probe RUN` measures, as one JSON object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .ablation import Ablation, ablate
from .attention import HeadAttention, LayerAttention, attention_by_head
from .estimate import Estimate, ratio
from .influence import Influences, influence_by_distance
from .position import PositionLoss, loss_by_position, window_loss
from .sample import Sample

SCHEMA = 1
NEAR = 0.01  # of the influence of the last token, below which an influence is called small


@dataclass(frozen=True)
class Findings:
    """What a sample shows of a model. loss: over all positions, in nats per token."""

    sample: Sample
    loss: Estimate
    positions: list[PositionLoss]
    influences: Influences
    attention: dict[str, LayerAttention]
    ablation: Ablation

    def record(self, **about: Any) -> dict[str, Any]:
        """The object that `tfm probe --json` prints. about: further fields, such as the run."""
        near = self.influences.farthest(NEAR)
        model = self.sample.model
        return {
            "schema": SCHEMA,
            **about,
            "context": model.config.context,
            "windows": len(self.sample),
            "windows_held_out": self.sample.total,
            "unit": "nats per token",
            "loss": self.loss.record(),
            "positions": [
                {"first": p.first, "last": p.last, "tokens": p.tokens, **p.loss.record()}
                for p in self.positions
            ],
            "influence": {
                "distances": [
                    {"distance": i.distance, "windows": i.windows, **i.kl.record()}
                    for i in self.influences.by_distance
                ],
                "noise_floor": self.influences.floor,
                "farthest_above_floor": self.influences.farthest(),
                "farthest_above_1_percent": near,
                "receptive_field": model.receptive_field(),
            },
            "layers": [self._layer(name) for name in self.ablation.layers],
            "one_head_a_layer": _record(self.ablation.one_head),
            "best_heads": self.ablation.best,
            "no_heads": _record(self.ablation.no_heads),
        }

    def _layer(self, name: str) -> dict[str, Any]:
        loss, attention = self.ablation.layers[name], self.attention.get(name)
        heads = []
        for number, head in enumerate(loss.heads):
            assert attention is not None
            own = _of_head(attention.heads[number])
            rise = {"off": head.off.record(), "alone": _record(head.alone)}
            heads.append({"head": number, **own, **rise})
        even = None if attention is None else _of_head(attention.even)
        return {"layer": name, "off": loss.off.record(), "even": even, "heads": heads}


def _of_head(head: HeadAttention) -> dict[str, Any]:
    return {
        "distance": _record(head.distance),
        "entropy": head.entropy.record(),
        "first_token": head.first.record(),
    }


def _record(estimate: Estimate | None) -> dict[str, float | None] | None:
    return None if estimate is None else estimate.record()


def findings(sample: Sample, seed: int) -> Findings:
    """Measures a model on a sample. seed: of what is drawn at random; the model is left in
    evaluation mode. DataError if the sample has no scored token."""
    sample.model.eval()
    positions = loss_by_position(sample)
    loss = ratio(*window_loss(sample))
    if loss is None:
        raise DataError("the held-out windows have no scored token")
    influences = influence_by_distance(sample, seed)
    return Findings(sample, loss, positions, influences, attention_by_head(sample), ablate(sample))
