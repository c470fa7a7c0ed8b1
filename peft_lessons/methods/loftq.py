"""LoftQ: quantize W and start LoRA from what the rounding lost (Li et al. 2023, arXiv:2310.08659, Algorithm 1).

    repeat T times:    Q ← quantize(W − s B A),    s B A ← rank-r SVD of (W − Q)

QLoRA starts from Q = quantize(W) and B = 0, so its first output differs from the base by the rounding error. Here
Q + s B A starts nearer to W.

So this method takes a dense layer, replaces it by a quantized one and, unlike the others, does not start as its base:
`base_layer` is Q, and that is what `adapters_disabled` gives. Q is not saved with an adapter, but made again from W,
which must be the very same. Left out: mixed precision over layers.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.bases import is_quantized
from peft_lessons.checks import check_count
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.methods.pissa import principal_part
from peft_lessons.quantization import NF4, Codebook, QuantizedLinear, dequantize, quantize


class LoftQLinear(LoRALinear):
    """A dense layer, quantized, and the low-rank part of what that lost. x: (…, in_features) → (…, out_features).

    Raises TypeError when the layer is quantized already: what the rounding lost is no longer there.
    """

    @torch.no_grad()
    def __init__(self, base_layer: nn.Module, config: "LoftQConfig") -> None:
        if is_quantized(base_layer):
            raise TypeError(
                f"LoftQLinear starts from the unrounded weight and quantizes it itself, got {type(base_layer).__name__}"
            )
        super().__init__(base_layer, config)
        bias = self.base_layer.bias
        weight = self.base_weight(self.adapter_dtype)
        update = torch.zeros_like(weight)
        for _ in range(config.iterations):
            quantized = quantize(weight - update, config.codebook, config.block_size, config.double)
            B, A = principal_part(weight - dequantize(quantized), config.rank)
            update = B @ A
        self.lora_A.copy_(A / math.sqrt(self.scaling))
        self.lora_B.copy_(B / math.sqrt(self.scaling))
        self.base_layer = QuantizedLinear(quantized, bias).to(self.base_dtype).train(base_layer.training)


@dataclass(frozen=True, kw_only=True)
class LoftQConfig(LoRAConfig):
    """As `LoRAConfig`, and how the base is quantized.

    Raises ValueError for fewer than one iteration.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), LoftQConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2)}
    """

    layer: ClassVar[type[AdapterLayer]] = LoftQLinear
    codebook: Codebook = NF4
    block_size: int = 64  # weights that share a scale
    double: bool = False  # the scales quantized in turn
    iterations: int = 5  # T in the paper

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("block_size", self.block_size)
        check_count("iterations", self.iterations)
