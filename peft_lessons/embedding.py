"""What the methods for embeddings share: the table E, a row for each token, and a plain embedding to fold into."""

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.exact import exact


class EmbeddingAdapter(AdapterLayer):
    """An adapter on an embedding. int64 ids (…) → (…, width). A method writes `adapted(ids)` and `folded()`.

    Raises:
        TypeError: for an embedding with a forward of its own or a largest norm.
    """

    base_layer: nn.Embedding  # E (tokens, width)

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        if type(base_layer).forward is not nn.Embedding.forward or self.base_layer.max_norm is not None:
            raise TypeError(
                f"{type(self).__name__} adapts an nn.Embedding without max_norm, got {type(base_layer).__name__} with "
                f"max_norm={self.base_layer.max_norm} (a class with a forward of its own may scale what it looks up)"
            )

    def folded(self) -> Tensor:
        """E with the update in it, (tokens, width), in fp32 or higher."""
        raise TypeError(f"{type(self).__name__} cannot be folded into a plain embedding")

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
