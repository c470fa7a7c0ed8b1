"""OFT on an embedding, as in Hugging Face peft (OFT: Qiu et al. 2023, arXiv:2306.07280).

    h = E[i] R        E (tokens, width) frozen, R as in `oft.py`, of blocks that fill the width

What is looked up is turned, for all tokens alike, so that lengths of embeddings and angles between them stay.
"""

from typing import ClassVar

from torch import Tensor

from peft_lessons.embedding import EmbeddingAdapter
from peft_lessons.exact import exact
from peft_lessons.methods.oft import Rotation


class OFTEmbedding(Rotation, EmbeddingAdapter):
    """An embedding before a rotation. int64 ids (…) → (…, width).

    Raises:
        TypeError: for an embedding with a forward of its own or a largest norm.
        ValueError: when the size or the number of the blocks does not divide the width.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import OFTConfig, OFTEmbedding
        >>> layer = OFTEmbedding(nn.Embedding(10, 6), OFTConfig(block_size=3))
        >>> layer(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 6])
        >>> layer.rotations().shape
        torch.Size([2, 3, 3])
    """

    Q_name: ClassVar[str] = "oft_embedding_Q"

    @property
    def width(self) -> int:
        return self.base_layer.embedding_dim

    def adapted(self, ids: Tensor) -> Tensor:
        y = self.base_layer(ids)
        return self.turned(y).to(y.dtype)

    @exact()
    def folded(self) -> Tensor:
        return self.turned(self.base_layer.weight)
