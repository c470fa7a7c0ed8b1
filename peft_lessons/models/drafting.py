"""Speculative decoding (Leviathan et al. 2022, arXiv:2211.17192): a cheap copy of the model guesses, the model decides.

To write one token a decoder reads all its weights, which takes longer than to compute with them: ten tokens at once
take far less than ten times as long as one. So a draft guesses the next few tokens one by one, the model reads them all
in a single pass, and those guesses stay that it would have chosen itself. A wrong guess costs time and never changes
the text. (Sums over ten rows may differ from those over one in the last bit of fp32, as between two computers.)

The draft here is the model with its linear weights in 4 bits, in blocks of 32 within a row, and their inputs in bf16:

    w ≈ (code − 8) · scale + zero,    scale = (max w − min w) / 15,    zero = min w + 8 · scale,    code in 0 … 15.

Weights that come from blocks of Q4_1, as SmolLM2's do, get the codes of their file again. Adapters of low rank are
computed beside the product, as they are at that moment. The codes are kept with the model and made anew when a weight
has changed. A change that leaves no trace (one made through `.data`) makes guesses fail; then the codes are dropped.

Left out: more than one row, other dtypes than fp32, quantized bases, and adapters that are not a product of low rank.
These are generated without a draft. In place of the paper's rejection sampling, draft and model draw with the same
random numbers, so that a sample, too, is the one that the model alone would have drawn.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from peft_lessons.linear import LowRank, low_rank
from peft_lessons.low_rank import is_untouched
from peft_lessons.models.decoder import (
    Attention,
    Block,
    Choice,
    Decoder,
    DecoderStack,
    KeyValueCache,
    SwiGLU,
    rotary_angles,
)
from peft_lessons.quantization.cpu import fresh_memory

SMALLEST = 2**23  # weights: fewer stay in a processor's cache, and a token takes as long as the calls of its functions
FEWEST = 16  # tokens to come for which weights are rounded, which takes as long as to write ten without a draft
BLOCK = 32  # weights with one scale
TILE = 64  # rows: torch's kernel takes weights in tiles of so many
ROWS = 4 * TILE  # that are rounded at once, which keeps the tensors on the way small
Function = Callable[[Tensor], Tensor]
CPU = torch.device("cpu")
LONGEST = 15  # guesses at once: a product of 16 rows takes MKL less time than one of 6
WORTH = 0.2  # share of right guesses below which they cost more time than they save
BEST = 16  # tokens whose logits the draft computes from the exact weights: bf16 has ties at the top


def draft_for(model: Decoder, cache: KeyValueCache, left: int) -> "Draft | None":
    """Return a draft that goes on from `cache` for at most `left` tokens, or None where none would help or be right."""
    if (
        len(cache.layers[0][0]) != 1
        or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512")  # torch has no fast kernel for others
        or torch.is_autocast_enabled("cpu")
        or _has_any_global_hook()
        or not _is_known(model)
        or not all(p.dtype is torch.float32 and p.device.type == "cpu" for p in model.parameters())
    ):
        return None
    groups = []
    for modules in _linear_layers(model):
        group = [layer for module in modules if (layer := low_rank(module)) is not None]
        if len(group) < len(modules):
            return None
        groups.append(group)
    weights = [[layer.linear.weight for layer in group] for group in groups]
    every = [weight for group in weights for weight in group]
    if (
        sum(map(Tensor.numel, every)) < SMALLEST
        or any(map(Tensor.is_inference, every))
        or any(weight.shape[1] % BLOCK for weight in every)
    ):
        return None
    codes = Codes.of(model, weights, make=left >= FEWEST)
    return None if codes is None else Draft(model, groups, codes, cache, left)


def _is_known(model: Decoder) -> bool:
    """Return whether all but linear layers and norms is exactly what `Draft` computes, without hooks or randomness."""
    stack = model.model
    return (
        type(model) is Decoder
        and type(stack) is DecoderStack
        and type(stack.embed_tokens) is nn.Embedding
        and all(
            type(block) is Block and type(block.self_attn) is Attention and type(block.mlp) is SwiGLU
            for block in stack.layers
        )
        and all(is_untouched(module) for module in model.modules())
        and not any(module.training for module in model.modules() if isinstance(module, nn.Dropout))
    )


def _linear_layers(model: Decoder) -> list[list[nn.Module]]:
    """In the order of computation, four groups for each block and the head; those of a group read the same input."""
    groups: list[list[nn.Module]] = []
    for block in model.model.layers:
        assert isinstance(block, Block)
        attention, mlp = block.self_attn, block.mlp
        groups += [[attention.q_proj, attention.k_proj, attention.v_proj], [attention.o_proj]]
        groups += [[mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]
    return [*groups, [model.lm_head]]


class Codes:
    """Groups of weights in 4 bits, each group as one matrix of all its rows: (codes, scales and zeros) for torch."""

    _of_models: ClassVar["WeakKeyDictionary[Decoder, Codes]"] = WeakKeyDictionary()

    def __init__(self, groups: Sequence[Sequence[Tensor]]) -> None:
        self.made_from = _state(groups)
        shapes = [(-(-sum(map(len, group)) // TILE) * TILE, group[0].shape[1]) for group in groups]
        sizes = [rows * columns for rows, columns in shapes]
        # two pieces of memory, which go back to the system with the model
        codes = fresh_memory(sum(sizes) // 2, torch.uint8, CPU).split([size // 2 for size in sizes])
        scales = fresh_memory(sum(sizes) // BLOCK * 2, torch.bfloat16, CPU).split([size // BLOCK * 2 for size in sizes])
        self.matrices = []
        for group, (rows, columns), own_codes, own_scales in zip(groups, shapes, codes, scales, strict=True):
            matrix = own_codes.view(rows, columns // 2), own_scales.view(columns // BLOCK, rows, 2)
            _write([weight.detach() for weight in group], *matrix)
            self.matrices.append(matrix)

    @classmethod
    def of(cls, model: Decoder, groups: Sequence[Sequence[Tensor]], make: bool) -> "Codes | None":
        """Those that are kept with `model`; where they are missing or a weight has changed, new ones if `make`."""
        kept = cls._of_models.get(model)
        if kept is not None and kept.made_from != _state(groups):
            cls.forget(model)
            kept = None
        if kept is None and make:
            kept = cls._of_models[model] = cls(groups)
        return kept

    @classmethod
    def forget(cls, model: Decoder) -> None:
        cls._of_models.pop(model, None)


def _state(groups: Sequence[Sequence[Tensor]]) -> list[tuple[int, int, int]]:
    """Return what changes when a weight is replaced, moved or written to."""
    return [(id(weight), weight.data_ptr(), weight._version) for group in groups for weight in group]


def _write(weights: Sequence[Tensor], codes: Tensor, scales: Tensor) -> None:
    """Write codes (rows, columns / 2), and scales and zeros (columns / 32, rows, 2), of weights below each other.

    Rows beyond those of the weights are filled up with zeros.
    """
    whole = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    parts = zip(whole.split(ROWS), codes.split(ROWS), scales.split(ROWS, dim=1), strict=True)
    for part, own_codes, own_scales in parts:
        if missing := len(own_codes) - len(part):
            part = F.pad(part, (0, 0, 0, missing))
        blocks = part.unflatten(1, (-1, BLOCK))
        low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
        scale = ((high - low) / 15).clamp_min_(1e-30)
        numbers = (blocks - low).div_(scale).round_().flatten(1).int()
        own_codes.copy_(torch._convert_weight_to_int4pack_for_cpu(numbers, 1))
        own_scales.copy_(torch.cat((scale, low + 8 * scale), dim=2).transpose(0, 1))


class Product:
    """The linear layers of a group at once, with what their adapters add: fp32 (1, in) → fp32 (1, out of all)."""

    def __init__(self, matrix: tuple[Tensor, Tensor], layers: Sequence[LowRank]) -> None:
        self.codes, self.scales = matrix
        self.rows = sum(len(layer.left) for layer in layers)
        self.right = torch.cat([layer.right for layer in layers]).T  # (in, all ranks)
        self.left = torch.block_diag(*[layer.left for layer in layers]).T  # (all ranks, out of all)

    def __call__(self, x: Tensor) -> Tensor:
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), self.codes, BLOCK, self.scales)
        y = (y if self.rows == len(self.codes) else y[:, : self.rows]).float()
        return y.addmm_(x @ self.right, self.left) if len(self.left) else y


class Draft:
    """A decoder's forward pass for one token of one sequence, on codes.

    Keeps keys and values of its own: the model's for the tokens that the model has read, and those of its guesses.
    """

    def __init__(
        self, model: Decoder, groups: Sequence[Sequence[LowRank]], codes: Codes, cache: KeyValueCache, left: int
    ) -> None:
        config, stack = model.config, model.model
        self.model, self.config = model, config
        products = [Product(matrix, group) for matrix, group in zip(codes.matrices, groups, strict=True)]
        self.blocks: list[tuple[Function, ...]] = []
        for i, block in enumerate(stack.layers):
            assert isinstance(block, Block)
            norms = _norm(block.input_layernorm), _norm(block.post_attention_layernorm)
            self.blocks.append((*norms, *products[4 * i : 4 * i + 4]))
        self.norm, self.head, self.exact_head = _norm(stack.norm), products[-1], groups[-1][0]
        self.room = min(cache.tokens + left, config.max_position_embeddings)
        like = cache.layers[0][0]
        shape = (config.num_hidden_layers, 1, config.num_key_value_heads, self.room, config.head_dim)
        self.keys, self.values = like.new_empty(shape), like.new_empty(shape)
        cos, sin = rotary_angles(0, self.room, config, like)
        self.cos, self.sin = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)  # (tokens, head_dim)
        self.taken = self.guessed = self.right = 0
        self.count = LONGEST  # guesses next time

    def guess(self, step: Tensor, cache: KeyValueCache, most: int, choice: Choice, eos_id: int | None) -> Tensor:
        """Guess what `choice` will take after `step`, int64 (1, 1), the last token and one that `cache` has not.

        int64 (1, guesses), up to `most`, and none after `eos_id`.
        """
        self._take(cache)
        guesses, choice = [step[:, :0]], choice.copy()
        for position in range(cache.tokens, min(cache.tokens + min(most, self.count), self.room - 1)):
            step = choice(self._logits(step[0], position))
            guesses.append(step)
            if step == eos_id:
                break
        return torch.cat(guesses, dim=1)

    def judge(self, guessed: int, right: int) -> bool:
        """Take in how many of the last guesses were right; whether it is worth while to go on.

        If not, the codes are dropped, too: they may be those of other weights than the model has now.
        """
        self.guessed += guessed
        self.right += right
        self.count = min(2 * (right + 1), LONGEST)
        if self.guessed < 2 * LONGEST or self.right > WORTH * self.guessed:
            return True
        Codes.forget(self.model)
        return False

    def _take(self, cache: KeyValueCache) -> None:
        """Copy keys and values that the model has computed since the last time."""
        new = slice(self.taken, cache.tokens)
        for layer, (keys, values) in cache.layers.items():
            self.keys[layer][:, :, new], self.values[layer][:, :, new] = keys[:, :, new], values[:, :, new]
        self.taken = cache.tokens

    def _logits(self, token: Tensor, position: int) -> Tensor:
        """int64 (1,) at its position → fp32 (1, vocab_size)."""
        config, stack = self.config, self.model.model
        heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        cos, sin = self.cos[position], self.sin[position]
        x = stack.embed_tokens.weight[token]
        for block, all_keys, all_values in zip(self.blocks, self.keys.unbind(), self.values.unbind(), strict=True):
            first, second, qkv, out, gate_up, down = block
            vectors = qkv(first(x)).view(heads + 2 * groups, width)
            turned = vectors[: heads + groups]
            turned = torch.addcmul(turned * cos, turned.view(-1, 2, width // 2).flip(1).view(-1, width), sin)
            all_keys.select(2, position).copy_(turned[heads:])
            all_values.select(2, position).copy_(vectors[heads + groups :])
            # the queries of one group stand where tokens do: all of them see all keys
            mixed = F.scaled_dot_product_attention(
                turned[:heads].view(1, groups, heads // groups, width),
                all_keys.narrow(2, 0, position + 1),
                all_values.narrow(2, 0, position + 1),
            )
            x = x + out(mixed.reshape(1, -1))
            gate, up = gate_up(second(x)).chunk(2, dim=-1)
            x = x + down(F.silu(gate).mul_(up))
        x = self.norm(x)
        logits, (linear, left, right) = self.head(x), self.exact_head
        best = logits.topk(min(BEST, logits.shape[1])).indices[0]
        logits[:, best] = F.linear(x, linear.weight[best]) + F.linear(F.linear(x, right), left[best])
        return logits


def _norm(norm: nn.Module) -> Function:
    """`norm` itself, or the same with fewer calls where it is RMSNorm: x / √(mean x² + ε) · weight"""
    if type(norm) is not nn.RMSNorm or norm.eps is None:
        return norm
    width = norm.weight.numel()
    weight = norm.weight * math.sqrt(width)
    smallest = weight.new_tensor(math.sqrt(width * norm.eps))
    return lambda x: torch.mul(x, weight).div_(torch.linalg.vector_norm(x).hypot_(smallest))
