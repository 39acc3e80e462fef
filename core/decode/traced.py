"""The step of a fixed batch without Python in between: its calls are written down and repeated.

The same calls of the same kernels, so the same bits; a narrow model's step takes half the time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..model.sequence_model import DecodingState, SequenceModel
from ..ops.cuda_graphs import BEFORE, Recorded

Step = Callable[..., Tensor]


class _StepRows(nn.Module):
    def __init__(self, model: SequenceModel, state: DecodingState) -> None:
        super().__init__()
        self.model, self.state = model, state

    def forward(self, ids: Tensor, at: Tensor, positions: Tensor | None = None) -> Tensor:
        return self.model.step_rows(ids, self.state, at, positions)


@torch.no_grad()
def traced(model: SequenceModel, state: DecodingState, *inputs: Tensor) -> Step:
    """`model.step_rows` of this state, for inputs (ids, at) or (ids, at, positions) of these
    shapes. As it is, where torch cannot write it down (weights ordered by oneDNN) or no longer
    will (torch.jit is to go). On a GPU, as a CUDA graph."""
    step = _StepRows(model, state).eval()
    kind = inputs[0].device.type
    if kind == "cuda":
        return _recorded(step, *inputs)
    if kind != "cpu" or any(parameter.requires_grad for parameter in model.parameters()):
        return step
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found: Step = torch.jit.trace_module(  # type: ignore[no-untyped-call]
                step, {"forward": inputs}, check_trace=False
            )
            return found
    except (RuntimeError, AttributeError):  # what is really wrong, the step as it is says too
        return step


def _recorded(step: Step, *inputs: Tensor) -> Step:
    def by_name(*tensors: Tensor) -> dict[str, Any]:
        return {str(number): x for number, x in enumerate(tensors)}

    for _ in range(BEFORE):
        step(*inputs)
    recorded = Recorded(lambda given: step(*given.values()), by_name(*inputs))
    return lambda *given: recorded(by_name(*given)).clone()
