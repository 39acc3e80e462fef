"""CUDA graphs: the kernels that a call launches, captured once and replayed without Python.

On a GPU each kernel of a small model ends before Python has launched the next.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

WARMUP_CALLS = 2  # of a kind before its capture: kernels are chosen and compiled in them
MAX_KINDS = 64  # that are captured; calls of further kinds are launched as usual


class CapturedGraph:
    """`call(inputs)` replayed: the same kernels on the same memory.

    The call must not wait for the GPU, and must have run before, so that nothing is set up in it.
    """

    def __init__(self, call: Callable[[dict[str, Any]], Any], inputs: Mapping[str, Any]) -> None:
        """inputs: by name; tensors are copied, anything else stays as it is."""
        self.inputs = {
            name: x.clone() if isinstance(x, Tensor) else x for name, x in inputs.items()
        }
        self.graph = torch.cuda.CUDAGraph()
        gc.collect()  # freeing another graph during a capture would invalidate the capture
        gc.disable()
        try:
            with torch.cuda.graph(self.graph):
                self.out = call(self.inputs)
        finally:
            gc.enable()

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """The call's result for tensors of the same shapes, in memory that the next call reuses."""
        for name, x in self.inputs.items():
            if isinstance(x, Tensor):
                x.copy_(inputs[name], non_blocking=True)
        self.graph.replay()
        return self.out


class GraphCache:
    """A function that is captured for each kind of call, after WARMUP_CALLS calls of that kind.

    A result is valid until the next call of its kind.
    """

    def __init__(
        self, call: Callable[[dict[str, Any]], Any], capture: Callable[..., Any] = CapturedGraph
    ) -> None:
        self.call, self.capture = call, capture
        self.calls: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, Any] = {}

    def __call__(self, kind: Hashable, inputs: Mapping[str, Any]) -> Any:
        """kind: everything that the launched kernels depend on but the values of `inputs`."""
        if kind not in self.graphs:
            self.calls[kind] += 1
            if self.calls[kind] <= WARMUP_CALLS or len(self.calls) > MAX_KINDS:
                return self.call(dict(inputs))
            self.graphs[kind] = self.capture(self.call, inputs)
        return self.graphs[kind](inputs)


def shapes(inputs: Mapping[str, Any]) -> Hashable:
    """The names and shapes of the inputs, as the kind of a call."""
    return tuple(
        (name, tuple(x.shape) if isinstance(x, Tensor) else x) for name, x in inputs.items()
    )
