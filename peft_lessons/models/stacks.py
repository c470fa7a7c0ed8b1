"""One way to call a decoder's stack, this course's or one of transformers, with tokens in front that nobody wrote.

Positions count what is seen: the tokens in front, then those of the text. Padding on the left, which lies between them,
has none, so that a padded row is what it is alone.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.models.decoder import DecoderStack, KeyValueCache

# model_type of those stacks of transformers that are tried in the tests
THEIRS = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "olmo2",
    "smollm3",
    "mixtral",
    "qwen3_moe",
    "gpt2",
)
KeysAndValues = list[tuple[Tensor, Tensor]]
"""Of each layer, (batch, kv_heads, tokens, head_dim)."""


class StackAdapter(AdapterLayer):
    """An adapter of a whole stack, which is called as that stack is and returns what it returns.

    Raises:
        TypeError: when `base_layer` is no DecoderStack, nor a stack of transformers that is known.
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        if not is_stack(base_layer):
            kind = _model_type(base_layer)
            raise TypeError(
                f"{type(self).__name__} adapts the DecoderStack of a Decoder, its `model`; got "
                f"{type(base_layer).__name__}{f' of a {kind}' if kind else ''}. Of transformers it takes the stacks of "
                f"{', '.join(THEIRS)}"
            )
        super().__init__(base_layer, config)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of embeddings, which transformers asks the stack of a model for."""
        return _table(self.base_layer)


def is_stack(module: nn.Module) -> bool:
    """Return whether `module` is a DecoderStack, or a stack of transformers that is known."""
    return isinstance(module, DecoderStack) or _model_type(module) in THEIRS


def embedded_words(stack: nn.Module, count: int) -> Tensor:
    """Return the embeddings (count, hidden_size) of tokens that are drawn evenly from the vocabulary."""
    return _embed(stack, _random_words(stack, count))[0]


def read_words(stack: nn.Module, count: int) -> KeysAndValues:
    """Return the keys and values of such tokens, read as a text."""
    words = _random_words(stack, count)
    call = call_of(stack, words) if isinstance(stack, DecoderStack) else call_of(stack, input_ids=words)
    with _without_dropout(stack):
        call.remember([])
        call.run(0)
    if isinstance(call.cache, KeyValueCache):
        return list(call.cache.layers.values())
    return [(layer.keys, layer.values) for layer in call.cache.layers]


def call_of(stack: nn.Module, *inputs: Any, **options: Any) -> "Call":
    """Return what `stack` has been called with."""
    if isinstance(stack, DecoderStack):
        return _OurCall.of(stack, *inputs, **options)
    return _TheirCall.of(stack, *inputs, **options)


@dataclass
class Call:
    """One call of a stack."""

    stack: Any
    x: Tensor  # embeddings (batch, tokens, hidden_size)
    mask: Tensor | None  # (batch, all tokens of the text), 1 for a token and 0 for padding
    cache: Any

    @property
    def past(self) -> int:
        """Tokens in the cache."""
        raise NotImplementedError

    def remember(self, prefix: KeysAndValues) -> None:
        """Put keys and values in front of everything, into a cache that is made if there is none."""
        raise NotImplementedError

    def run(self, before: int, prompt: Tensor | None = None) -> Any:
        """Compute with `before` tokens in front: the embeddings `prompt`, or what the cache holds.

        The outputs of a prompt are cut off. Returns what the stack returns.
        """
        raise NotImplementedError

    def _with_prompt(self, prompt: Tensor | None) -> Tensor:
        if prompt is None:
            return self.x
        return torch.cat((prompt.to(self.x.dtype).expand(len(self.x), -1, -1), self.x), dim=1)

    def _whole_mask(self, before: int) -> Tensor | None:
        """Return the mask of the text with `before` visible tokens in front."""
        if self.mask is None:
            return None
        return torch.cat((self.mask.new_ones(len(self.mask), before), self.mask), dim=1)


class _OurCall(Call):
    @classmethod
    def of(
        cls,
        stack: DecoderStack,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> "_OurCall":
        return cls(stack, stack.embed(input_ids), attention_mask, cache)

    @property
    def past(self) -> int:
        return self.cache.tokens if self.cache else 0

    def remember(self, prefix: KeysAndValues) -> None:
        self.cache = KeyValueCache() if self.cache is None else self.cache
        for layer, (keys, values) in enumerate(prefix):
            self.cache.append(layer, keys, values)

    def run(self, before: int, prompt: Tensor | None = None) -> Tensor:
        outputs = self.stack.from_embeddings(self._with_prompt(prompt), self._whole_mask(before), self.cache)
        return outputs if prompt is None else outputs[:, before:]


@dataclass
class _TheirCall(Call):
    positions: Tensor | None  # of the tokens, as the caller counts them
    rest: dict[str, Any]

    @classmethod
    def of(
        cls,
        stack: nn.Module,
        input_ids: Tensor | None = None,
        *,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **rest: Any,
    ) -> "_TheirCall":
        if attention_mask is not None and (not isinstance(attention_mask, Tensor) or attention_mask.ndim != 2):
            raise ValueError(
                "attention_mask must be (batch, tokens): nothing can stand before a text with a static cache"
            )
        x = _embed(stack, input_ids) if inputs_embeds is None else inputs_embeds
        return cls(stack, x, attention_mask, past_key_values, position_ids, rest)

    @property
    def past(self) -> int:
        return 0 if self.cache is None else self.cache.get_seq_length()

    def remember(self, prefix: KeysAndValues) -> None:
        if self.stack.training and self.stack.gradient_checkpointing:
            raise ValueError("a prefix lies in a cache, which transformers drops with gradient checkpointing")
        if self.cache is None:  # transformers is loaded, since the stack is one of its own
            self.cache = sys.modules["transformers"].DynamicCache(config=self.stack.config)
        for layer, (keys, values) in enumerate(prefix):
            self.cache.update(keys, values, layer)

    def run(self, before: int, prompt: Tensor | None = None) -> Any:
        x = self._with_prompt(prompt)
        total = x.shape[1] + self.past
        if total > (most := self.stack.config.max_position_embeddings):
            raise ValueError(f"{total} tokens; this model takes at most {most}")
        output = self.stack(
            inputs_embeds=x,
            attention_mask=self._whole_mask(before),
            position_ids=self._positions(before, prompt),
            past_key_values=self.cache,
            **self.rest,
        )
        if self.rest.get("use_cache") is False and not isinstance(output, tuple):
            output.past_key_values = None  # a prefix has needed one
        return output if prompt is None else _cut(output, before)

    def _positions(self, before: int, prompt: Tensor | None) -> Tensor | None:
        """None, where transformers counts all tokens, is right without a mask."""
        tokens = self.x.shape[1]
        positions = self.positions
        if positions is None and self.mask is not None:
            positions = (self.mask.bool().cumsum(1) - 1).clamp(min=0)[:, -tokens:]
        if positions is None:
            return None
        positions = positions + before
        if prompt is None:
            return positions
        first = torch.arange(before, device=positions.device).expand(len(positions), -1)
        return torch.cat((first, positions), dim=1)


def _cut(output: Any, count: int) -> Any:
    """Cut the first `count` tokens from what transformers' stacks return."""
    if isinstance(output, tuple):
        return (output[0][:, count:], *output[1:])
    output.last_hidden_state = output.last_hidden_state[:, count:]
    if output.get("hidden_states") is not None:
        output.hidden_states = tuple(states[:, count:] for states in output.hidden_states)
    return output


def _embed(stack: nn.Module, input_ids: Any) -> Tensor:
    return stack.embed(input_ids) if isinstance(stack, DecoderStack) else _table(stack)(input_ids)


def _table(stack: Any) -> Any:
    return stack.embed_tokens if isinstance(stack, DecoderStack) else stack.get_input_embeddings()


def _random_words(stack: nn.Module, count: int) -> Tensor:
    """(1, count) ids, drawn evenly from the vocabulary."""
    weight = _table(stack).weight
    return torch.randint(len(weight), (1, count), device=weight.device)


@contextmanager
def _without_dropout(stack: nn.Module) -> Iterator[None]:
    training = [module for module in stack.modules() if module.training]
    stack.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _model_type(module: nn.Module) -> str | None:
    """Of a stack of transformers that reads embeddings and keeps a cache; None for other modules."""
    if not hasattr(module, "get_input_embeddings") or hasattr(module, "lm_head"):
        return None
    return getattr(getattr(module, "config", None), "model_type", None)
