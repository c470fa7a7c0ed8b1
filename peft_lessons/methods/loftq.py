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
from peft_lessons.bases import is_quantized, plain_class
from peft_lessons.checks import check_count
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.methods.pissa import principal_part
from peft_lessons.quantization import NF4, Codebook, QuantizedLinear, dequantize, quantize


class LoftQLinear(LoRALinear):
    """A dense layer, quantized, and the low-rank part of what that lost. x: (…, in_features) → (…, out_features).

    Raises:
        TypeError: when the layer is quantized already: what the rounding lost is no longer there.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoftQConfig, LoftQLinear
        >>> layer = LoftQLinear(nn.Linear(8, 4), LoftQConfig(rank=2, block_size=8))
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> type(layer.base_layer).__name__
        'QuantizedLinear'
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
        base = QuantizedLinear(quantized, bias, plain_class(base_layer))
        self.base_layer = base.to(self.base_dtype).train(base_layer.training)


@dataclass(frozen=True, kw_only=True)
class LoftQConfig(LoRAConfig):
    """As `LoRAConfig`, and how the base is quantized.

    Attributes:
        codebook: The levels that weights are rounded to.
        block_size: Weights that share a scale.
        double: Whether the scales are quantized in turn (arXiv:2305.14314, §3).
        iterations: T in the paper: how often quantization and SVD take turns.

    Raises:
        ValueError: for fewer than one iteration.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoftQConfig, inject, trainable_parameters
        >>> model = nn.ModuleDict({"q_proj": nn.Linear(8, 4)})
        >>> config = LoftQConfig(rank=2, block_size=8, iterations=1, targets=("q_proj",))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(inject(model, config))]
        [(2, 8), (4, 2)]
    """

    layer: ClassVar[type[AdapterLayer]] = LoftQLinear
    codebook: Codebook = NF4
    block_size: int = 64
    double: bool = False
    iterations: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("block_size", self.block_size)
        check_count("iterations", self.iterations)
