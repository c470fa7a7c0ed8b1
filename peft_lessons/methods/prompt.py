"""Prompt tuning: trained embeddings in front of every input (Lester et al. 2021, arXiv:2104.08691).

    [p₁, …, p_n, e(x₁), …, e(x_T)]        p_i (hidden_size,) trained, the model frozen

The model reads n tokens that stand for no word. Here their outputs are cut off again, so that logits and labels keep
their places. A prompt starts as the embeddings of n random tokens of the vocabulary; the paper draws from the
5,000 most common ones, and found that better than random numbers but for its largest models.

Not the base at the start: any prompt is read. Nothing to fold: the weights do not change. Every sequence is n tokens
longer. Left out: starting from the words of a text or the names of classes, which the paper found best.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.checks import check_count
from peft_lessons.models.stacks import StackAdapter, call_of, embedded_words
from peft_lessons.targets import Targets


class PromptTuning(StackAdapter):
    """A decoder's stack that reads the prompt first. Called as that stack is, and returns what it returns.

    For this course's decoder: int64 ids (batch, tokens) → (batch, tokens, hidden_size).

    Raises:
        TypeError: when `base_layer` is no stack, as `StackAdapter`.

    Examples:
        >>> import torch
        >>> from peft_lessons import PromptTuningConfig, inject
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> model = inject(model, PromptTuningConfig(tokens=5))
        >>> model.model.prompt.shape
        torch.Size([5, 8])
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 10])
    """

    def __init__(self, base_layer: nn.Module, config: "PromptTuningConfig") -> None:
        super().__init__(base_layer, config)
        with torch.no_grad():
            words = embedded_words(base_layer, config.tokens)
            self.prompt = self.new_parameter(*words.shape)
            self.prompt.copy_(words)

    def adapted(self, *inputs: Any, **options: Any) -> Any:
        call = call_of(self.base_layer, *inputs, **options)
        # a cache has the prompt already
        return call.run(len(self.prompt), prompt=None if call.past else self.prompt)


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(AdapterConfig):
    """How long the prompt is.

    Attributes:
        tokens: n, the embeddings that stand before the text.

    Raises:
        ValueError: for fewer than one token.

    Examples:
        >>> from peft_lessons import PromptTuningConfig, inject, trainable_parameters
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> model = inject(model, PromptTuningConfig(tokens=5))
        >>> [tuple(parameter.shape) for parameter in trainable_parameters(model)]
        [(5, 8)]
    """

    layer: ClassVar[type[AdapterLayer]] = PromptTuning
    tokens: int = 20
    targets: Targets = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tokens", self.tokens)
