"""Prefix tuning: trained keys and values in every layer (Li & Liang 2021, arXiv:2101.00190, §4).

    attention(Q, [P_K; K], [P_V; V])        P_K, P_V (n, kv_heads · head_dim) trained in each layer, the model frozen

Every layer sees n tokens that were never read. Prompt tuning trains what such tokens start as, prefix tuning what each
layer makes of them. A prefix starts as the keys and values of n random tokens: the paper, too, starts from real words.

Not the base at the start, nothing to fold, and a longer key/value cache. Left out: the paper's reparametrization by a
small network in training; gradient checkpointing, which does not go with a cache.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.methods.prompt import mask_with_prefix, random_words, require_stack
from peft_lessons.models.decoder import DecoderStack, KeyValueCache
from peft_lessons.targets import Targets


class PrefixTuning(AdapterLayer):
    """A decoder's stack with a past that was never read. int64 ids (batch, tokens) → (batch, tokens, hidden_size).

    Raises TypeError when `base_layer` is no DecoderStack.
    """

    base_layer: DecoderStack

    def __init__(self, base_layer: nn.Module, config: "PrefixTuningConfig") -> None:
        base_layer = require_stack(base_layer, type(self).__name__)
        super().__init__(base_layer, config)
        shape = base_layer.config
        # (tokens, layers, key or value, heads, head_dim): the order in which peft stores it
        self.prefix = self.new_parameter(
            config.tokens, shape.num_hidden_layers, 2, shape.num_key_value_heads, shape.head_dim
        )
        with torch.no_grad():
            cache = KeyValueCache()
            base_layer(random_words(base_layer, config.tokens), cache=cache)
            for layer, (keys, values) in cache.layers.items():
                self.prefix[:, layer, 0] = keys[0].transpose(0, 1)
                self.prefix[:, layer, 1] = values[0].transpose(0, 1)

    def adapted(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        cache = KeyValueCache() if cache is None else cache
        if not cache.tokens:
            dtype = self.base_layer.embed_tokens.weight.dtype
            prefix = self.prefix.to(dtype).permute(1, 2, 3, 0, 4)  # (layers, 2, heads, tokens, head_dim)
            for layer, (keys, values) in enumerate(prefix):
                cache.append(layer, keys.expand(len(input_ids), -1, -1, -1), values.expand(len(input_ids), -1, -1, -1))
        return self.base_layer(input_ids, mask_with_prefix(attention_mask, len(self.prefix)), cache)


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(AdapterConfig):
    """How long the prefix is.

    Raises ValueError for fewer than one token.
    """

    layer: ClassVar[type[AdapterLayer]] = PrefixTuning
    tokens: int = 20
    targets: Targets = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tokens", self.tokens)
