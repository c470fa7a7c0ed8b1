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
    Raises what `StackAdapter` raises.
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

    Raises ValueError for fewer than one token.

    >>> from peft_lessons.models import load_tiny_gpt
    >>> model = inject(load_tiny_gpt()[0], PromptTuningConfig(tokens=5))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'model.prompt': (5, 160)}
    """

    layer: ClassVar[type[AdapterLayer]] = PromptTuning
    tokens: int = 20
    targets: Targets = ("model",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("tokens", self.tokens)
