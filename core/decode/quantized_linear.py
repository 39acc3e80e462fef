"""A model whose weights are kept in fewer bits, for decoding: what a token costs is reading them.

Activations, norms, keys and values stay in float32; only what a product multiplies is rounded. On
a CPU weights lie in the order that the product reads them, by oneDNN or FBGEMM, whichever torch
has (benchmarks/products.py).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.layers import Linear
from ..model.sequence_model import SequenceModel
from ..ops.device import has_fast_bfloat16

FEW = 4  # rows up to which a product costs the reading of the weights alone
NARROW = 96  # below this width nothing is worth it


class Packed(nn.Module):
    """A `Linear` with its weight in float32 or bfloat16, ordered by oneDNN."""

    def __init__(self, linear: Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__()
        self.weight = linear.weight.detach().to(dtype)
        self.bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        ordered = None
        if self.weight.device.type == "cpu" and _has_onednn(dtype):
            ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
        self.ordered: Tensor | None
        self.register_buffer("ordered", ordered)

    def forward(self, x: Tensor) -> Tensor:
        rounded = x.to(self.weight.dtype)
        if self.ordered is None:
            return F.linear(rounded, self.weight, self.bias).to(x.dtype)
        product = torch.ops.mkldnn._linear_pointwise
        out: Tensor = product(rounded, self.ordered, self.bias, "none", [], "")
        return out.to(x.dtype)

    def part(self, x: Tensor, low: int, high: int | None) -> Tensor:
        if low == 0 and high in (None, len(self.weight)):
            return self.forward(x)
        out: Tensor = F.linear(x.to(self.weight.dtype), self.weight[low:high])
        return out.to(x.dtype)


class Half(nn.Module):
    """A `Linear` with its weight in float16, read by FBGEMM, its input in float32."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.weight = linear.weight.detach().half()
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.ordered = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.ordered)
        return out

    def part(self, x: Tensor, low: int, high: int | None) -> Tensor:
        if low == 0 and high in (None, len(self.weight)):
            return self.forward(x)
        return F.linear(x, self.weight[low:high].float())


class Int8(nn.Module):
    """A `Linear` in int8, each output by a scale of its own: its largest weight is 127."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        exact = linear.weight.detach().float()
        scale = exact.abs().amax(1).clamp(min=1e-12) / 127
        self.weight = (exact / scale[:, None]).round().to(torch.int8)
        self.scale = scale.bfloat16()
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        out = self.part(x, 0, None)
        return out if self.bias is None else out + self.bias

    def part(self, x: Tensor, low: int, high: int | None) -> Tensor:
        rows = x.bfloat16().flatten(0, -2)
        out = torch._weight_int8pack_mm(rows, self.weight[low:high], self.scale[low:high])
        return out.view(*x.shape[:-1], -1).to(x.dtype)


def _make(linear: Linear, dtype: str, rows: int) -> nn.Module:
    if dtype == "float32" and min(linear.weight.shape) < NARROW:
        return linear
    if dtype == "int8":
        return Int8(linear)
    if dtype == "float16" and _has_fbgemm(linear.weight.device):
        return Half(linear)
    return Packed(linear, getattr(torch, dtype), rows)


DTYPES = ("float32", "bfloat16", "float16", "int8")


def _has_onednn(dtype: torch.dtype) -> bool:
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _has_fbgemm(device: torch.device) -> bool:
    return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines


def decoding_dtype(model: SequenceModel, rows: int, native: bool = False) -> str:
    """That in which `rows` rows are decoded fastest, of those that cost no quality to speak of.
    native: by step.c, where it is one for any number of rows, so that all draw alike."""
    device = model.head.weight.device
    if device.type == "cpu" and model.config.width < NARROW:
        return "float32"
    if native or rows <= FEW and _has_fbgemm(device):
        return "float16"
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def with_weights_in(model: SequenceModel, dtype: str, rows: int = 1) -> SequenceModel:
    """The model for passes without gradients, its matrices in `dtype` (of DTYPES), best at so many
    rows. What is not a matrix it shares with the model."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    packed = copy.deepcopy(model, shared).eval()
    for module in list(packed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, _make(child, dtype, rows))
    return packed
