"""Prefix tuning: trained keys and values in every layer (Li & Liang 2021, arXiv:2101.00190, §4).

    attention(Q, [P_K; K], [P_V; V])        P_K, P_V (n, kv_heads · head_dim) trained in each layer, the model frozen

Every layer sees n tokens that were never read. Prompt tuning trains what such tokens start as, prefix tuning what each
layer makes of them. A prefix starts as the keys and values of n random tokens: the paper, too, starts from real words.

Not the base at the start, nothing to fold, and a longer key/value cache. Left out: the paper's reparametrization by a
small network in training; gradient checkpointing, which does not go with a cache.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.models.stacks import StackAdapter, call_of, read_words
from peft_lessons.targets import Targets


class PrefixTuning(StackAdapter):
    """A decoder's stack with a past that was never read. Called as that stack is, and returns what it returns.

    For this course's decoder: int64 ids (batch, tokens) → (batch, tokens, hidden_size).
    Raises what `StackAdapter` raises; ValueError when a layer keeps fewer tokens than the prefix has.
    """

    def __init__(self, base_layer: nn.Module, config: "PrefixTuningConfig") -> None:
        super().__init__(base_layer, config)
        with torch.no_grad():
            words = read_words(base_layer, config.tokens)
            if short := [keys.shape[2] for keys, _ in words if keys.shape[2] != config.tokens]:
                raise ValueError(f"a prefix of {config.tokens} tokens: a layer of this model keeps only {short[0]}")
            _, heads, _, head_dim = words[0][0].shape
            # (tokens, layers, key or value, heads, head_dim): the order in which peft stores it
            self.prefix = self.new_parameter(config.tokens, len(words), 2, heads, head_dim)
            for layer, (keys, values) in enumerate(words):
                self.prefix[:, layer, 0] = keys[0].transpose(0, 1)
                self.prefix[:, layer, 1] = values[0].transpose(0, 1)

    def adapted(self, *inputs: Any, **options: Any) -> Any:
        call = call_of(self.base_layer, *inputs, **options)
        if not call.past:
            prefix = self.prefix.to(call.x.dtype).permute(1, 2, 3, 0, 4)  # (layers, 2, heads, tokens, head_dim)
            shape = (len(call.x), *prefix.shape[2:])
            call.remember([(keys.expand(shape), values.expand(shape)) for keys, values in prefix])
        return call.run(len(self.prefix))


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(AdapterConfig):
    """How long the prefix is.

    Raises ValueError for fewer than one token.

    >>> from peft_lessons.models import load_tiny_gpt
    >>> model = inject(load_tiny_gpt()[0], PrefixTuningConfig(tokens=5))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'model.prefix': (5, 4, 2, 2, 40)}
    """

    layer: ClassVar[type[AdapterLayer]] = PrefixTuning
    tokens: int = 20
    targets: Targets = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tokens", self.tokens)
