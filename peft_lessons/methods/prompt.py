"""Prompt tuning: trained embeddings in front of every input (Lester et al. 2021, arXiv:2104.08691).

    [p₁, …, p_n, e(x₁), …, e(x_T)]        p_i (hidden_size,) trained, the model frozen

The model reads n tokens that stand for no word. Here their outputs are cut off again, so that logits and labels keep
their places. A prompt starts as the embeddings of n random tokens of the vocabulary; the paper draws from the
5,000 most common ones, and found that better than random numbers but for its largest models.

Not the base at the start: any prompt is read. Nothing to fold: the weights do not change. Every sequence is n tokens
longer. Left out: starting from the words of a text or the names of classes, which the paper found best.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.models.decoder import DecoderStack, KeyValueCache
from peft_lessons.targets import Targets


class PromptTuning(AdapterLayer):
    """A decoder's stack that reads the prompt first. int64 ids (batch, tokens) → (batch, tokens, hidden_size).

    Raises TypeError when `base_layer` is no DecoderStack.
    """

    base_layer: DecoderStack

    def __init__(self, base_layer: nn.Module, config: "PromptTuningConfig") -> None:
        base_layer = require_stack(base_layer, type(self).__name__)
        super().__init__(base_layer, config)
        self.prompt = self.new_parameter(config.tokens, base_layer.config.hidden_size)
        with torch.no_grad():
            self.prompt.copy_(base_layer.embed(random_words(base_layer, config.tokens))[0])

    def adapted(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        x = self.base_layer.embed(input_ids)
        mask = mask_with_prefix(attention_mask, len(self.prompt))
        if cache is not None and cache.tokens:
            return self.base_layer.from_embeddings(x, mask, cache)  # the cache has the prompt already
        x = torch.cat((self.prompt.to(x.dtype).expand(len(x), -1, -1), x), dim=1)
        return self.base_layer.from_embeddings(x, mask, cache)[:, len(self.prompt) :]


def require_stack(module: nn.Module, method: str) -> DecoderStack:
    if not isinstance(module, DecoderStack):
        raise TypeError(f"{method} adapts the DecoderStack of a Decoder, its `model`; got {type(module).__name__}")
    return module


def random_words(stack: DecoderStack, count: int) -> Tensor:
    """(1, count) ids, drawn evenly from the vocabulary."""
    return torch.randint(stack.config.vocab_size, (1, count), device=stack.embed_tokens.weight.device)


def mask_with_prefix(attention_mask: Tensor | None, count: int) -> Tensor | None:
    """The mask of the tokens with `count` visible ones before them."""
    if attention_mask is None:
        return None
    return torch.cat((attention_mask.new_ones(len(attention_mask), count), attention_mask), dim=1)


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(AdapterConfig):
    """How long the prompt is.

    Raises ValueError for fewer than one token.
    """

    layer: ClassVar[type[AdapterLayer]] = PromptTuning
    tokens: int = 20
    targets: Targets = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tokens", self.tokens)
