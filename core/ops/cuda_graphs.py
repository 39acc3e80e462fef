"""CUDA graphs: the kernels that a call asks for, written down once and repeated without Python.

On a GPU a small model's kernels are over before Python has asked for the next.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

BEFORE = 2  # calls of a kind before it is written down: kernels are chosen and compiled in them
KINDS = 64  # of calls; what has more is not written down


class Recorded:
    """`call(inputs)` over again: the same kernels on the same memory.

    The call waits for no result on its way, and has run before, so that nothing is set up in it.
    """

    def __init__(self, call: Callable[[dict[str, Any]], Any], inputs: Mapping[str, Any]) -> None:
        """inputs: by name; tensors are copied, what else there is stays as it is."""
        self.inputs = {
            name: x.clone() if isinstance(x, Tensor) else x for name, x in inputs.items()
        }
        self.graph = torch.cuda.CUDAGraph()
        gc.collect()  # a graph that were given back while another is written down would break it
        gc.disable()
        try:
            with torch.cuda.graph(self.graph):
                self.out = call(self.inputs)
        finally:
            gc.enable()

    def __call__(self, inputs: Mapping[str, Any]) -> Any:
        """What the call gave, worked out anew for tensors of the same shapes. It lies where the
        next one will."""
        for name, x in self.inputs.items():
            if isinstance(x, Tensor):
                x.copy_(inputs[name], non_blocking=True)
        self.graph.replay()
        return self.out


class Repeated:
    """A call, recorded for each kind of it once it has been made BEFORE times."""

    def __init__(
        self, call: Callable[[dict[str, Any]], Any], record: Callable[..., Any] = Recorded
    ) -> None:
        self.call, self.record = call, record
        self.seen: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, Any] = {}

    def __call__(self, kind: Hashable, inputs: Mapping[str, Any]) -> Any:
        """kind: whatever else than the numbers in `inputs` what is done depends on."""
        if kind not in self.recorded:
            self.seen[kind] += 1
            if self.seen[kind] <= BEFORE or len(self.seen) > KINDS:
                return self.call(dict(inputs))
            self.recorded[kind] = self.record(self.call, inputs)
        return self.recorded[kind](inputs)


def shapes(inputs: Mapping[str, Any]) -> Hashable:
    """A kind: of inputs of these shapes."""
    return tuple(
        (name, tuple(x.shape) if isinstance(x, Tensor) else x) for name, x in inputs.items()
    )
