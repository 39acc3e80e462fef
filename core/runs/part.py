"""One part of a run with several domains, as a run of that domain.

The part has its own task, tokenizer and vocabulary. Its model is the run's, with the rows of the
embedding and of the head that belong to the part's ids: predictions never leave them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig
from ..errors import UsageError
from ..protocols import Sequence
from .run import Run

if TYPE_CHECKING:
    from ..model.sequence_model import SequenceModel


class PartOfRun(Run):
    """A part of a run. Its config has the part's task, options and baselines."""

    def __init__(self, run: Run, part: str) -> None:
        """UsageError for an unknown part, or a run of one domain."""
        super().__init__(run.path)
        known = list(self.config.get("parts", {}))
        if part not in known:
            parts = f"has the parts {', '.join(known)}" if known else "has one domain only"
            raise UsageError(f"{run.path}:{part}: this run {parts}")
        self.part = part
        own = self.config["parts"][part]
        floor = self.config["floor"]
        start = f"{part}."
        self.config = {
            **self.config,
            **own,
            "floor": {k.removeprefix(start): v for k, v in floor.items() if k.startswith(start)},
            "data": {**self.config["data"], **own["data"]},
        }

    @property
    def name(self) -> str:
        return f"{super().name}:{self.part}"

    @property
    def title(self) -> str:
        return f"{super().title}:{self.part}"

    @property
    def address(self) -> str:
        return f"{super().address}:{self.part}"

    def tokenizer(self) -> Any:
        return self._mixed().parts[self.part]

    def _mixed(self) -> Any:
        return self._tokenizer("mixed")

    def model_config(self) -> ModelConfig:
        own = self.tokenizer()
        ordered = ",".join(f"{low}-{high}" for low, high in own.ordered)
        return replace(super().model_config(), vocab_size=own.vocab_size, ordered=ordered)

    def heldout(self, split: str) -> Any:
        """The held-out sequences of the part."""
        mixed = self._mixed()
        found: list[Sequence] = [
            mixed.out_of(each) for each in super().heldout(split) if each.side["part"] == self.part
        ]
        return found

    def load_trained(self, which: str = "last") -> SequenceModel:
        whole = Run(self.path).load_trained(which)
        return whole.part(*self._mixed().ids_of(self.part))
