"""LoRA: Low-Rank Adaptation (Hu et al. 2021, arXiv:2106.09685, §4.1, Eq. 3).

    h = W₀x + ΔWx = W₀x + (α/r) B A x        W₀ (out, in) frozen, A (r, in), B (out, r), r ≪ min(in, out)

A starts random and B at zero, so that ΔW = 0 at the start while B still gets a gradient. Rank-stabilised scaling
(Kalajdzievski 2023, arXiv:2312.03732) divides by √r instead of r.

Embeddings and convolutions have pages of their own, `lora_embedding.py` and `lora_conv.py`, and so have parameters that
no layer calls, `peft_lessons/experts.py`. Left out: LoRA's own merging inside `eval()`; see `peft_lessons.merge`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.biases import BiasesConfig
from peft_lessons.checks import check_probability
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.exact import exact
from peft_lessons.experts import LoRAExperts, ParametersConfig
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, DeltaLinear, factors
from peft_lessons.low_rank import adapted_linear
from peft_lessons.methods.lora_conv import LoRAConv
from peft_lessons.methods.lora_embedding import LoRAEmbedding
from peft_lessons.targets import Targets


class LoRALinear(DeltaLinear):
    """A linear layer and its low-rank update. x: (…, in_features) → (…, out_features), in x's dtype.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, LoRALinear
        >>> layer = LoRALinear(nn.Linear(8, 4), LoRAConfig(rank=2))
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> layer.lora_A.shape, layer.lora_B.shape
        (torch.Size([2, 8]), torch.Size([4, 2]))
    """

    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        self.lora_A = self.new_parameter(config.rank, self.in_features)
        self.lora_B = self.new_parameter(self.out_features, config.rank)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        # nn.Dropout(0.0) in training still writes a mask and a copy of x
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    @property
    def scaling(self) -> float:
        return self.config.scaling

    def adapted(self, x: Tensor) -> Tensor:
        return adapted_linear(self.base_layer, x, self.dropout(x), self.lora_A, self.lora_B, self.scaling)

    @exact()
    def delta(self) -> Tensor:
        wide = torch.promote_types(self.lora_A.dtype, torch.float32)
        return self.scaling * (self.lora_B.to(wide) @ self.lora_A.to(wide))

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"


@factors.register(LoRALinear)
def _(layer: LoRALinear) -> tuple[Tensor, Tensor]:
    return layer.scaling * layer.lora_B, layer.lora_A


Layer = type[AdapterLayer]
# For modules that are not linear: the layer in place of a variant's own, by the variant.
ELSEWHERE: dict[Layer, dict[type[nn.Module], Layer]] = {
    LoRALinear: {nn.Embedding: LoRAEmbedding, **dict.fromkeys(CONVOLUTIONS, LoRAConv)},
}


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(BiasesConfig, ParametersConfig):
    """How much LoRA, and where: linear layers, embeddings, convolutions, experts.

    Attributes:
        rank: r, the rows of A (r, in) and columns of B (out, r); at most min(in, out).
        alpha: α; the update is scaled by α / r.
        dropout: Probability, in [0, 1), on the adapter's input only.
        rank_stabilized: Whether the update is scaled by α / √r instead (arXiv:2312.03732).

    Raises:
        ValueError: for a rank below 1, an alpha that is not positive, a dropout outside [0, 1), another word as `bias`,
            and for `target_parameters` with dropout or in a variant of LoRA.

    Examples:
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, trainable_parameters
        >>> config = LoRAConfig(rank=2, alpha=6, targets=("q_proj",))
        >>> config.scaling
        3.0
        >>> model = inject(nn.ModuleDict({"q_proj": nn.Linear(8, 4)}), config)
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(model)]
        [(2, 8), (4, 2)]
    """

    layer: ClassVar[type[AdapterLayer]] = LoRALinear
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    targets: Targets = LLAMA_LINEAR_LAYERS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_probability("dropout", self.dropout)
        if self.target_parameters and (self.layer is not LoRALinear or self.dropout):
            raise ValueError(
                "target_parameters go with a plain LoRAConfig without dropout, which would drop from an input that is "
                f"not seen; got {type(self).__name__}, dropout={self.dropout}"
            )

    def wrap(self, name: str, base_layer: nn.Module) -> AdapterLayer:
        if parameters := self.parameters(name, base_layer):
            return LoRAExperts(base_layer, self.at(name), {one: self.at(f"{name}.{one}") for one in parameters})
        elsewhere = ELSEWHERE.get(self.layer, {})
        layer = next((layer for kind, layer in elsewhere.items() if isinstance(base_layer, kind)), self.layer)
        return layer(base_layer, self.at(name))

    @property
    def scaling(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)
