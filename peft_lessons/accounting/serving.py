"""Bytes in serving: the base once, adapters beside it, and the keys and values of every token that is still in use.

For L layers with k key/value heads of width d, each token of each conversation keeps

    2 · L · k · d numbers                          a key and a value in every layer
    L · (r + d_rotary) numbers                     in latent attention, which keeps what both are made from (§2.1 of
                                                   arXiv:2405.04434)

What is computed in passing, and what a server keeps in reserve, is not counted. Nor is that layers with a sliding
window forget: of them this counts too much, once a conversation is longer than the window.
"""

from dataclasses import dataclass

from peft_lessons.accounting.memory import TRAIN_BF16, model_states
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.accounting.storage import BF16, Dense, Storage
from peft_lessons.adapters import AdapterConfig
from peft_lessons.checks import check_count


@dataclass(frozen=True, kw_only=True)
class Serving:
    """Bytes of a server, as `serving_memory` counts them.

    Examples:
        >>> from peft_lessons.accounting import Serving
        >>> Serving(base=100, adapters=20, cache=30).total
        150
    """

    base: int
    adapters: int
    cache: int

    @property
    def total(self) -> int:
        return self.base + self.adapters + self.cache


def serving_memory(
    shape: ModelShape,
    adapter: AdapterConfig,
    *,
    adapters: int,
    conversations: int,
    tokens: int,
    storage: Storage | None = None,
    cache: Dense = BF16,
) -> Serving:
    """Count what a server holds: one base, so many adapters in 16 bits, and conversations of so many tokens each.

    `storage` is that of the base's linear layers, as in `model_states`; `cache` that of keys and values.

    Raises:
        ValueError: for counts below 0, and as `model_states`.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import model_shape, serving_memory
        >>> shape, rank16 = model_shape("Llama-3.1-8B"), LoRAConfig(rank=16)
        >>> held = serving_memory(shape, rank16, adapters=100, conversations=20, tokens=2048)
        >>> [round(part / 1e9, 1) for part in (held.base, held.adapters, held.cache)]
        [16.1, 8.4, 5.4]
    """
    check_count("adapters", adapters, least=0)
    states = model_states(shape, adapter, precision=TRAIN_BF16, storage=storage)
    return Serving(
        base=states.base,
        adapters=adapters * states.adapter,
        cache=cache_bytes(shape, conversations=conversations, tokens=tokens, cache=cache),
    )


def cache_bytes(shape: ModelShape, *, conversations: int = 1, tokens: int = 1, cache: Dense = BF16) -> int:
    """Count the bytes of keys and values, by the formulas above.

    Raises:
        ValueError: for counts below 0.

    Examples:
        >>> from peft_lessons.accounting import cache_bytes, model_shape
        >>> cache_bytes(model_shape("Llama-3.1-8B"))
        131072
    """
    check_count("conversations", conversations, least=0)
    check_count("tokens", tokens, least=0)
    if shape.latent:
        numbers = shape.latent.key_value_rank + shape.latent.rotary_dim
    else:
        numbers = shape.key_value_size + shape.value_size
    return cache.nbytes(1, shape.num_hidden_layers * numbers) * conversations * tokens
