"""LoRA-FA: LoRA with A frozen (Zhang et al. 2023, arXiv:2308.03303).

    h = W₀x + (α/r) B A x        A random and frozen, B trained

The gradient of B needs only Ax, r numbers a token. LoRA's gradient of A needs x, in_features numbers a token, which
this method need not keep. The update's rows stay in the span of the random A.

Left out: peft's optimizer, which corrects B's gradient by (AAᵀ)⁻¹/s².
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peft_lessons.adapters import AdapterLayer
from peft_lessons.methods.lora import LoRAConfig, LoRALinear


class LoRAFALinear(LoRALinear):
    """A linear layer and its low-rank update, of which only B trains. x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.lora_A.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class LoRAFAConfig(LoRAConfig):
    """As `LoRAConfig`. Half as many trainable parameters where the layer is square.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), LoRAFAConfig(rank=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.lora_A': (2, 6), '0.lora_B': (4, 2)}
    """

    layer: ClassVar[type[AdapterLayer]] = LoRAFALinear
