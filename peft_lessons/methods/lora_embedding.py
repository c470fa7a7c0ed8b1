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

from peft_lessons.adapters import AdapterLayer
from peft_lessons.exact import exact

if TYPE_CHECKING:
    from peft_lessons.methods.lora import LoRAConfig


class LoRAEmbedding(AdapterLayer):
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

    base_layer: nn.Embedding
    config: "LoRAConfig"

    def __init__(self, base_layer: nn.Module, config: "LoRAConfig") -> None:
        super().__init__(base_layer, config)
        if type(base_layer).forward is not nn.Embedding.forward or self.base_layer.max_norm is not None:
            raise TypeError(
                f"LoRAEmbedding adapts an nn.Embedding without max_norm, got {type(base_layer).__name__} with "
                f"max_norm={self.base_layer.max_norm} (a class with a forward of its own may scale what it looks up)"
            )
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
        """E with the update in it, (tokens, width), in fp32 or higher."""
        delta = self.delta()
        return self.base_layer.weight.to(delta.dtype) + delta

    def merged_tensor(self, name: str) -> Tensor:
        if name != "weight":
            raise TypeError(f"an embedding has no {name}")
        return self.folded().to(self.base_layer.weight.dtype)

    @exact()
    @torch.no_grad()
    def merged(self) -> nn.Embedding:
        """A new frozen `nn.Embedding` with the weight of `folded`, rounded once."""
        weight, padding = self.merged_tensor("weight").contiguous(), self.base_layer.padding_idx
        return nn.Embedding.from_pretrained(weight, padding_idx=padding).train(self.training)

    def extra_repr(self) -> str:
        return f"rank={self.config.rank}, alpha={self.config.alpha:g}"
