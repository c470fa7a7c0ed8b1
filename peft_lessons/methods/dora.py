"""DoRA: direction by LoRA, magnitude by a vector (Liu et al. 2024, arXiv:2402.09353, Eq. 5 and §4.3).

    V = W₀ + s B A,    h = (m / ‖V‖) ⊙ (V x) + b        m (out,) starts as ‖W₀‖, one norm for each output

One norm for each output is one for each row of W here, where weights are (out, in); the paper writes columns.
The norm ‖V‖ is treated as a constant in the backward pass (§4.3), which saves memory and changes little. The bias is
outside of the scaling.

Embeddings and convolutions have pages of their own, `dora_embedding.py` and `dora_conv.py`.
Dropout reaches the low-rank path only; peft drops the inputs of (m / ‖V‖ − 1) W₀x as well.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.linear import factors
from peft_lessons.methods.dora_conv import DoRAConv
from peft_lessons.methods.dora_embedding import DoRAEmbedding
from peft_lessons.methods.lora import ELSEWHERE, LoRAConfig, LoRALinear


class DoRALinear(LoRALinear):
    """A linear layer whose rows are turned by LoRA and scaled by m. x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.magnitude = nn.Parameter(self.lengths())

    def directions(self) -> Tensor:
        """V = W₀ + s B A, (out_features, in_features), in fp32 or higher."""
        delta = self.delta()
        return self.base_weight(delta.dtype) + delta

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """‖V‖ of each row, (out_features,); a row of zeros has a smallest length, by which one can divide."""
        V = self.directions()
        return V.norm(dim=1).clamp_min(torch.finfo(V.dtype).tiny)

    def adapted(self, x: Tensor) -> Tensor:
        scale = self.magnitude / self.lengths()  # (out_features,)
        y, A, B = self.base_layer(x), self.lora_A.to(x.dtype), self.lora_B.to(x.dtype)
        product = y if self.base_layer.bias is None else y - self.base_layer.bias.to(y.dtype)
        update = self.scaling * F.linear(F.linear(self.dropout(x), A), B)
        # y + (scale − 1) W₀x, not scale · W₀x + b: exactly y while scale is 1
        return y + (scale - 1).to(y.dtype) * product + scale.to(y.dtype) * update

    def folded(self) -> tuple[Tensor, Tensor | None]:
        return (self.magnitude / self.lengths())[:, None] * self.directions(), self.base_layer.bias


@factors.register(DoRALinear)
def _(layer: DoRALinear) -> None:
    return None  # the rows of W are scaled, too


ELSEWHERE[DoRALinear] = {nn.Embedding: DoRAEmbedding, **dict.fromkeys(CONVOLUTIONS, DoRAConv)}


@dataclass(frozen=True, kw_only=True)
class DoRAConfig(LoRAConfig):
    """As `LoRAConfig`, with out_features more parameters a layer.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), DoRAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2), '0.magnitude': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = DoRALinear
