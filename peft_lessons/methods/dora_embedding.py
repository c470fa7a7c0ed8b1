"""DoRA on an embedding, as in Hugging Face peft (DoRA: arXiv:2402.09353, Eq. 5 and §4.3).

    V = Eᵀ + s B A,    h = (m / ‖V‖) ⊙ V[:, i]        V (width, tokens), m (width,) starts as ‖Eᵀ‖

An embedding is a linear layer of one-hot inputs with the weight Eᵀ, so there is one norm for each number of a vector,
over all tokens. As in `dora.py` it is a constant in the backward pass.
"""

import torch
from torch import Tensor, nn

from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_embedding import LoRAEmbedding


class DoRAEmbedding(LoRAEmbedding):
    """An embedding whose columns are turned by LoRA and scaled by m. int64 ids (…) → (…, width).

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import DoRAConfig, DoRAEmbedding
        >>> layer = DoRAEmbedding(nn.Embedding(10, 6), DoRAConfig(rank=2))
        >>> layer(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 6])
        >>> layer.magnitude.shape
        torch.Size([6])
    """

    def __init__(self, base_layer: nn.Module, config: LoRAConfig) -> None:
        super().__init__(base_layer, config)
        self.magnitude = nn.Parameter(self.lengths())

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """‖V‖, (width,); a column of zeros has a smallest length, by which one can divide."""
        V = super().folded()
        return V.norm(dim=0).clamp_min(torch.finfo(V.dtype).tiny)

    def scale(self) -> Tensor:
        """m / ‖V‖, (width,)"""
        return self.magnitude / self.lengths()

    def adapted(self, ids: Tensor) -> Tensor:
        y, scale = self.base_layer(ids), self.scale()
        # exactly y while the scale is 1
        return y + (scale - 1).to(y.dtype) * y + scale.to(y.dtype) * self.update(ids, y.dtype)

    def folded(self) -> Tensor:
        return self.scale() * super().folded()
