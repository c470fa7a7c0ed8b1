"""LoRA+: a higher learning rate for B than for A (Hayou et al. 2024, arXiv:2402.12354).

    η_B = λ η_A,   λ ≫ 1

With one rate for both, the paper argues, B learns too slowly as layers grow wide. How much λ helps depends on the task.
Under Adam with ε → 0, without weight decay and clipping, it is nothing but a larger α: LoRA+ with λ takes the path of
LoRA with λα.

Left out: a separate rate for embeddings.
"""

from typing import Any

from torch import nn

from peft_lessons.adapters import trainable_parameters
from peft_lessons.checks import check_positive
from peft_lessons.methods.lora import LoRALinear


def lora_plus_groups(model: nn.Module, learning_rate: float, ratio: float = 16.0) -> list[dict[str, Any]]:
    """Two parameter groups for any torch optimizer: B of every LoRA layer at `ratio · learning_rate`, then the rest.

    Raises:
        ValueError: when no LoRA layer's B trains, or a number is not positive.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, inject, lora_plus_groups
        >>> model = inject(nn.Sequential(nn.Linear(8, 4)), LoRAConfig(rank=2, targets=("0",)))
        >>> optimizer = torch.optim.AdamW(lora_plus_groups(model, learning_rate=0.25, ratio=4))
        >>> [(tuple(group["params"][0].shape), group["lr"]) for group in optimizer.param_groups]
        [((4, 2), 1.0), ((2, 8), 0.25)]
    """
    check_positive("learning_rate", learning_rate)
    check_positive("ratio", ratio)
    layers = [layer for layer in model.modules() if isinstance(layer, LoRALinear)]
    fast = [layer.lora_B for layer in layers if layer.lora_B.requires_grad]
    if not fast:
        raise ValueError("LoRA+ sets the learning rate of lora_B, and no LoRA layer of this model trains one")
    chosen = set(fast)
    return [
        {"params": fast, "lr": ratio * learning_rate},
        {"params": [p for p in trainable_parameters(model) if p not in chosen], "lr": learning_rate},
    ]
