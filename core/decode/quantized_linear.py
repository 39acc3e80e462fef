"""A model with weights of fewer bits, for decoding, whose speed is bound by reading the weights.

Activations, norms, keys and values stay in float32; only the operands of matrix products are
rounded. On a CPU, oneDNN or FBGEMM, whichever torch has, stores the weights in the order in which
its products read them (benchmarks/products.py).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model.layers import Linear
from ..model.sequence_model import SequenceModel
from ..ops.device import has_fast_bfloat16

MAX_ROWS_READING = 4  # rows up to which a product takes no longer than reading the weights
MIN_WIDTH = 96  # of a model; rounding does not speed up a narrower one


class QuantizedLinear(nn.Module):
    """A `Linear` for passes without gradients; `forward` has the arguments of `Linear.forward`."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.outputs = linear.out_features
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        if low == 0 and high in (None, self.outputs):
            return self.product(x)
        bias = None if self.bias is None else self.bias[low:high]
        return self.product_of(x, self.weight[low:high], bias)

    def product(self, x: Tensor) -> Tensor:
        """All outputs."""
        return self.product_of(x, self.weight, self.bias)

    def product_of(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The outputs of some rows of the weight, in plain torch."""
        out = F.linear(x.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype))
        return out.to(x.dtype)


class OneDnnLinear(QuantizedLinear):
    """The weight in float32, bfloat16 or float16, ordered by oneDNN for `rows` rows."""

    def __init__(self, linear: Linear, dtype: torch.dtype, rows: int) -> None:
        super().__init__(linear)
        self.register_buffer("weight", linear.weight.detach().to(dtype))
        ordered = None
        if self.weight.device.type == "cpu" and _has_onednn(dtype):
            ordered = torch.ops.mkldnn._reorder_linear_weight(self.weight, rows)
        self.ordered: Tensor | None
        self.register_buffer("ordered", ordered)

    def product(self, x: Tensor) -> Tensor:
        if self.ordered is None:
            return super().product(x)
        bias = None if self.bias is None else self.bias.to(self.weight.dtype)
        rounded = x.to(self.weight.dtype)
        product = torch.ops.mkldnn._linear_pointwise
        out: Tensor = product(rounded, self.ordered, bias, "none", [], "")
        return out.to(x.dtype)


class FbgemmLinear(QuantizedLinear):
    """The weight in float16, read by FBGEMM, which takes its input in float32."""

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        self.register_buffer("weight", linear.weight.detach().half())
        self.ordered = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), self.bias)

    def product(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.quantized.linear_dynamic_fp16(x, self.ordered)
        return out

    def product_of(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight.float(), bias)


class Int8Linear(QuantizedLinear):
    """The weight in int8, each output with a scale of its own by which its largest weight is 127.

    Sums and scales are float32, as c/decode_step.c computes them. torch's kernel for weights in
    int8 is slower than this in float32, and in bfloat16 it rounds activations and scales.
    """

    def __init__(self, linear: Linear) -> None:
        super().__init__(linear)
        exact = linear.weight.detach().float()
        scale = exact.abs().amax(1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (exact / scale[:, None]).round().to(torch.int8))
        self.scale: Tensor
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, low: int = 0, high: int | None = None) -> Tensor:
        out = F.linear(x.float(), self.weight[low:high].float()) * self.scale[low:high]
        return (out if self.bias is None else out + self.bias[low:high]).to(x.dtype)


def _make(linear: Linear, dtype: str, rows: int) -> nn.Module:
    if dtype == "float32" and min(linear.weight.shape) < MIN_WIDTH:
        return linear
    if dtype == "int8":
        return Int8Linear(linear)
    if dtype == "float16" and _has_fbgemm(linear.weight.device):
        return FbgemmLinear(linear)
    return OneDnnLinear(linear, getattr(torch, dtype), rows)


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
    """The dtype that decodes `rows` rows fastest, of those that lose no quality to speak of.
    native: for decode_step.c, where it does not depend on `rows`, so that samples do not either."""
    device = model.head.weight.device
    if device.type == "cpu" and model.config.width < MIN_WIDTH:
        return "float32"
    if native or rows <= MAX_ROWS_READING and _has_fbgemm(device):
        return "float16"
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def with_weights_in(model: SequenceModel, dtype: str, rows: int = 1) -> SequenceModel:
    """A copy of the model for passes without gradients, with its matrices in `dtype` (of DTYPES),
    laid out for `rows` rows. It shares all other parameters with the model."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    quantized = copy.deepcopy(model, shared).eval()
    for module in list(quantized.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, _make(child, dtype, rows))
    return quantized
