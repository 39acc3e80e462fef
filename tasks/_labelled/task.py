"""What tasks of labelled items share, where a model predicts the label as the last id."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ...core import task
from ...core.errors import UsageError
from ...core.protocols import Sequence
from ...core.task import Prediction
from ...core.terms import Terms
from .prediction import accuracy, label_terms, measures, predictions


class LabelledTask(task.Task, ABC):
    """A task whose options have `labels`: first, last or none, and whose tokenizers are those of
    `LabelTokenizer`. With last labels, the metric `accuracy` is how often the most likely label is
    correct."""

    options: Any
    headline = ("accuracy",)

    def model_metrics_tokens(self, sequences: Iterable[Sequence], protocol: str | None) -> int:
        return sum(map(len, sequences)) if self.options.labels == "last" else 0

    def model_metrics(
        self,
        model: Any,
        tokenizer: Any,
        sequences: Iterable[Sequence],
        protocol: str | None,
        evaluation: Any,
    ) -> dict[str, Any]:
        found = super().model_metrics(model, tokenizer, sequences, protocol, evaluation)
        if tokenizer.label_position == "last":
            found["accuracy"] = accuracy(predictions(model, tokenizer, sequences))
        return found

    def measures(self, tokenizer: Any) -> Mapping[str, bool]:
        return measures(tokenizer)

    def terms(
        self, model: Any, tokenizer: Any, sequences: Iterable[Sequence], protocol: str | None
    ) -> Terms:
        if protocol is not None:
            raise UsageError(f"--protocol {protocol}: the {self.name} task has none")
        return label_terms(model, tokenizer, sequences)

    def predict(
        self, model: Any, tokenizer: Any, sequences: Iterable[Sequence]
    ) -> Iterator[Prediction]:
        if tokenizer.label_position != "last":
            raise UsageError(
                f"--predictions: this run has labels {tokenizer.label_position}; one trained with "
                "--labels last predicts them"
            )
        return predictions(model, tokenizer, sequences)
