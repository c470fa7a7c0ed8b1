"""SmolLM2 on the 4-bit codes of its own file: a frozen base that is never dense and loses nothing.

The file's linear weights are Q4_1 (see `gguf_blocks`): 32 weights take 20 bytes, 5 bits a weight. Dequantized, they
are the very numbers that `load_smollm2` gives, so adapters train on this base as on that one, in a fifth of its fp32
bytes.

Left out: the embedding, which is also the output head, is stored in 8 bits and stays dequantized here.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.exact import exact
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.gguf_blocks import Q4_1, from_q4_1
from peft_lessons.models.llama_gguf import hugging_face_name, in_our_row_order
from peft_lessons.models.smollm2 import load_smollm2, weights_path
from peft_lessons.models.tokenizer import Tokenizer


class Q4Linear(nn.Module):
    """A frozen linear layer without a bias that holds Q4_1 blocks and reads like `nn.Linear`.

    `blocks` is uint8 (out_features, in_features / 32 · 20). `weight` is dequantized at each reading, (out_features,
    in_features), in the dtype that the layer was last cast to. `forward` computes in the dtype of x.

    Raises:
        ValueError: for blocks of another shape or dtype.
    """

    blocks: Tensor
    bias = None

    def __init__(self, blocks: Tensor) -> None:
        super().__init__()
        if blocks.dtype != torch.uint8 or blocks.ndim != 2 or blocks.shape[1] % 20 or not blocks.shape[1]:
            raise ValueError(f"Q4_1 blocks are uint8 (out, in / 32 · 20); given {blocks.dtype} {tuple(blocks.shape)}")
        self.register_buffer("blocks", blocks)
        self.out_features, self.in_features = len(blocks), blocks.shape[1] // 20 * 32
        self.dtype = torch.float32

    @property
    def weight(self) -> Tensor:
        return self.dequantized()

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """`weight`, or the same rounded to `dtype` alone, not to the layer's own dtype first."""
        return _weight(self.blocks, dtype or self.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) → (…, out_features)"""
        return _FrozenMatmul.apply(x, self.blocks)

    def _apply(self, fn: Any, recurse: bool = True) -> "Q4Linear":
        """Move as `.to()` and its kin ask: `weight` takes the new dtype, the blocks only a new device."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.blocks.device)).dtype
        return super()._apply(fn, recurse)  # type: ignore[return-value]

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, Q4_1"


class _FrozenMatmul(torch.autograd.Function):
    """x Wᵀ and its derivative g W. Saves the blocks, and dequantizes them again in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor) -> Tensor:
        ctx.save_for_backward(blocks)
        return F.linear(x, _weight(blocks, x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,), (blocks,) = gradients, ctx.saved_tensors
        return gradient @ _weight(blocks, gradient.dtype), None


def _weight(blocks: Tensor, dtype: torch.dtype) -> Tensor:
    return from_q4_1(blocks.view(-1, 20)).view(len(blocks), -1).to(dtype)


@exact()
def load_smollm2_in_4_bits() -> tuple[Decoder, Tokenizer]:
    """As `load_smollm2`, on the CPU, but each of the 210 linear layers of the blocks keeps its codes.

    Examples:
        >>> from peft_lessons.models import load_smollm2_in_4_bits
        >>> model, tokenizer = load_smollm2_in_4_bits()
        >>> model.model.layers[0].self_attn.q_proj
        Q4Linear(in_features=576, out_features=576, Q4_1)
    """
    model, tokenizer = load_smollm2()
    file = GGUFFile(weights_path())
    for name, info in file.tensors.items():
        if info.format is Q4_1:
            ours = hugging_face_name(name.removesuffix(".weight"))
            blocks = in_our_row_order(ours, file.blocks(name).view(info.shape[0], -1).clone(), model.config)
            parent, _, child = ours.rpartition(".")
            setattr(model.get_submodule(parent), child, Q4Linear(blocks))
    return model, tokenizer
