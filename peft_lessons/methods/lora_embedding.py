"""LoRA on an embedding, as in the authors' code for arXiv:2106.09685 (`loralib.Embedding`).

    h = E[i] + (α/r) B A[:, i]        E (tokens, width) frozen, A (r, tokens), B (width, r)

A token looks its column of A up, and B maps it to the embedding's width. Here A starts at zero and B random. An output
head that is tied to E keeps E: only what is read changes.

Left out: dropout, as in the authors' code; embeddings with a largest norm, which are rewritten when they are read.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.embedding import EmbeddingAdapter
from peft_lessons.exact import exact

if TYPE_CHECKING:
    from peft_lessons.methods.lora import LoRAConfig


class LoRAEmbedding(EmbeddingAdapter):
    """An embedding and its low-rank update. int64 ids (…) → (…, width).

    Raises:
        TypeError: for an embedding with a forward of its own or a largest norm.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, LoRAEmbedding
        >>> layer = LoRAEmbedding(nn.Embedding(10, 6), LoRAConfig(rank=2))
        >>> layer(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 6])
        >>> layer.lora_embedding_A.shape, layer.lora_embedding_B.shape
        (torch.Size([2, 10]), torch.Size([6, 2]))
    """

    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        tokens, width = self.base_layer.weight.shape
        self.lora_embedding_A = self.new_parameter(config.rank, tokens)
        self.lora_embedding_B = self.new_parameter(width, config.rank)
        nn.init.normal_(self.lora_embedding_B)

    def adapted(self, ids: Tensor) -> Tensor:
        y = self.base_layer(ids)
        return y + self.update(ids, y.dtype)

    def update(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """(α/r) B A[:, i]"""
        columns = F.embedding(ids, self.lora_embedding_A.T, self.base_layer.padding_idx)  # padding gets no gradient
        return self.config.scaling * F.linear(columns.to(dtype), self.lora_embedding_B.to(dtype))

    @exact()
    def delta(self) -> Tensor:
        """ΔE = (α/r) (B A)ᵀ, shape (tokens, width), in fp32 or higher."""
        wide = torch.promote_types(self.lora_embedding_A.dtype, torch.float32)
        return self.config.scaling * (self.lora_embedding_B.to(wide) @ self.lora_embedding_A.to(wide)).T

    def folded(self) -> Tensor:
        delta = self.delta()
        return self.base_layer.weight.to(delta.dtype) + delta

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"
