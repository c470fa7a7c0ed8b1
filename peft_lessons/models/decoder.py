"""The Llama decoder (arXiv:2302.13971 §2.2), one page for both models of the course.

A block is pre-norm: x + attention(RMSNorm(x)), then x + SwiGLU(RMSNorm(x)). RMSNorm is arXiv:1910.07467, rotary
positions (RoPE) are arXiv:2104.09864 in Llama's half-split order, grouped-query attention is arXiv:2305.13245, and
SwiGLU is arXiv:2002.05202. Modules carry Hugging Face's names, so that adapters and checkpoints fit there too.

Left out, since no model here uses them: biases, dropout, scaled rotary frequencies, sliding windows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The shape of a decoder, with the field names of Hugging Face's `config.json`.

    Attributes:
        vocab_size: Tokens that the model knows.
        hidden_size: Width of the hidden states: heads times head_dim.
        intermediate_size: Width inside of the feed-forward part.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads of queries.
        num_key_value_heads: Heads of keys and values, which groups of query heads share; divides
            `num_attention_heads`.
        max_position_embeddings: The longest text, in tokens.
        rope_theta: Base of the rotary frequencies (arXiv:2104.09864, Eq. 15).
        rms_norm_eps: What RMSNorm adds to the mean square.
        tie_word_embeddings: Whether the head has the weight of the embedding.
        initializer_range: Standard deviation of new weights.

    Raises:
        ValueError: for a `hidden_size` that does not split into heads of even size, and for query heads that do not
            split into groups.

    Examples:
        >>> from peft_lessons.models import DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1).head_dim
        4
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int = 2048
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_attention_heads} heads of even size"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key/value heads evenly"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


class KeyValueCache:
    """Rotated keys and values of all tokens so far, for each layer (batch, kv_heads, tokens, head_dim).

    Examples:
        >>> import torch
        >>> from peft_lessons.models import Decoder, DecoderConfig, KeyValueCache
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> cache = KeyValueCache()
        >>> _ = model(torch.tensor([[1, 2, 3]]), cache=cache)
        >>> cache.tokens
        3
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rooms: dict[int, tuple[Tensor, Tensor]] = {}  # the same with room behind: a token need not copy the rest

    @property
    def tokens(self) -> int:
        return self.layers[0][0].shape[2] if self.layers else 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add new tokens to a layer; returns keys and values of all its tokens."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            if torch.is_grad_enabled():  # a backward pass may need what the room would overwrite
                keys, values = torch.cat((old_keys, keys), dim=2), torch.cat((old_values, values), dim=2)
                self._rooms.pop(layer, None)
            else:
                key_room, value_room = self._rooms.get(layer, (old_keys, old_values))
                key_room, keys = _written(key_room, old_keys, keys)
                value_room, values = _written(value_room, old_values, values)
                self._rooms[layer] = key_room, value_room
        self.layers[layer] = (keys, values)
        return keys, values

    def cut(self, tokens: int) -> None:
        """Forget all but the first `tokens`."""
        for layer, (keys, values) in self.layers.items():
            self.layers[layer] = keys[:, :, :tokens], values[:, :, :tokens]


def _written(room: Tensor, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """`new` written behind `old` at the start of `room`: the room, of twice the tokens if it was full, and both."""
    used, total = old.shape[2], old.shape[2] + new.shape[2]
    if total > room.shape[2]:
        room = old.new_empty(*old.shape[:2], 2 * total, old.shape[3])
        room[:, :, :used] = old
    room[:, :, used:total] = new
    return room, room[:, :, :total]


@dataclass(frozen=True)
class Context:
    """What every layer needs to know about the tokens of one forward pass."""

    cos: Tensor  # (tokens, head_dim / 2), or (batch, 1, tokens, head_dim / 2) where padding moves positions
    sin: Tensor  # of the same shape
    visible: Tensor | None  # bool, (batch or 1, 1, tokens, all tokens); None: each token sees itself and those before
    cache: KeyValueCache | None


class Attention(nn.Module):
    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        width = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        queries = rotate(self._heads(self.q_proj(x)), context.cos, context.sin)
        keys = rotate(self._heads(self.k_proj(x)), context.cos, context.sin)
        values = self._heads(self.v_proj(x))
        if context.cache is not None:
            keys, values = context.cache.append(self.layer, keys, values)
        causal = context.visible is None and queries.shape[2] > 1  # one token sees all
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=context.visible, is_causal=causal, enable_gqa=True
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads · head_dim) → (batch, heads, tokens, head_dim)"""
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


class SwiGLU(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: DecoderConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x))


class DecoderStack(nn.Module):
    """Token ids to hidden states: all of the decoder but its last linear map.

    With `gradient_checkpointing` set, training keeps only each block's input and computes the block again in backward
    (arXiv:1604.06174).
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """int64 ids (batch, tokens) → hidden states (batch, tokens, hidden_size); see `Decoder.forward`."""
        return self.from_embeddings(self.embed(input_ids), attention_mask, cache)

    def embed(self, input_ids: Tensor) -> Tensor:
        """int64 ids (batch, tokens) → embeddings (batch, tokens, hidden_size)."""
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be (batch, tokens); got shape {tuple(input_ids.shape)}")
        try:
            return self.embed_tokens(input_ids)
        except IndexError as error:
            raise ValueError(
                f"input_ids go from {input_ids.min()} to {input_ids.max()}; this model knows the ids 0 to "
                f"{self.config.vocab_size - 1} (encoded with another model's tokenizer?)"
            ) from error

    def from_embeddings(
        self, x: Tensor, attention_mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Embeddings (batch, tokens, hidden_size) → hidden states of the same shape."""
        past = cache.tokens if cache else 0
        total = past + x.shape[1]
        if total > self.config.max_position_embeddings:
            raise ValueError(f"{total} tokens; this model takes at most {self.config.max_position_embeddings}")
        visible = _visible(past, total, attention_mask, x.device)
        if attention_mask is None:
            cos, sin = rotary_angles(past, total, self.config, x)
        else:  # padding has no position: a token is as far from a prompt before the padding as without it
            positions = (attention_mask.bool().cumsum(1) - 1).clamp(min=0)[:, past:]
            cos, sin = (angles[positions][:, None] for angles in rotary_angles(0, total, self.config, x))
        context = Context(cos, sin, visible, cache)
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled() and cache is None
        for block in self.layers:  # checkpoints without re-entry find trainable weights below frozen embeddings too
            x = checkpoint(block, x, context, use_reentrant=False) if checkpointing else block(x, context)
        return self.norm(x)


class Decoder(nn.Module):
    """A language model: `model`, the stack of blocks, and `lm_head`, which may share its weight with the embedding.

    A new decoder has normal weights of standard deviation `config.initializer_range`; `from_tensors` takes given ones.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import Decoder, DecoderConfig
        >>> sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
        >>> model = Decoder(DecoderConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))
        >>> model(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 3, 10])
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.model = DecoderStack(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tie()
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=config.initializer_range)

    @classmethod
    def from_tensors(cls, config: DecoderConfig, tensors: Mapping[str, Tensor]) -> "Decoder":
        """A decoder in eval mode that holds `tensors` (not copies), by Hugging Face's parameter names.

        Raises:
            ValueError: unless names and shapes fit exactly; `lm_head.weight` may be absent when it is tied.
        """
        with torch.device("meta"):
            decoder = cls(config)
        shapes = {name: parameter.shape for name, parameter in decoder.named_parameters()}
        given = dict(tensors)
        head = given.pop("lm_head.weight", None) if config.tie_word_embeddings else None
        problems = [f"missing {name}" for name in shapes if name not in given]
        problems += [f"unexpected {name}" for name in given if name not in shapes]
        problems += [
            f"{name} is {tuple(given[name].shape)}, expected {tuple(shape)}"
            for name, shape in shapes.items()
            if name in given and given[name].shape != shape
        ]
        if head is not None and not torch.equal(head, given.get("model.embed_tokens.weight", head)):
            problems.append("lm_head.weight differs from the embedding that it is tied to")
        if problems:
            more = f"; and {len(problems) - 6} more" if len(problems) > 6 else ""
            raise ValueError(f"these weights do not fit this decoder: {'; '.join(problems[:6])}{more}")
        decoder.load_state_dict(given, assign=True, strict=False)
        decoder._tie()
        return decoder.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """int64 ids (batch, tokens) → logits (batch, tokens, vocab_size): what may follow each token.

        `attention_mask` (batch, all tokens) is 1 for a token and 0 for padding; logits at padding mean nothing, and
        positions count tokens alone. Padding on the right needs no mask, since no token sees what follows it. With a
        `cache` the ids continue the tokens that it holds, and are added to it.
        """
        return self.lm_head(self.model(input_ids, attention_mask, cache))

    def _tie(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight


def rotary_angles(start: int, end: int, config: DecoderConfig, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of position · theta^(−2i / head_dim), each (end − start, head_dim / 2), in the dtype of `like`.

    The angles are computed in fp32 whatever the dtype (arXiv:2104.09864, equation 15).
    """
    exponents = torch.arange(0, config.head_dim, 2, device=like.device).float() / config.head_dim
    angles = torch.outer(torch.arange(start, end, device=like.device).float(), 1 / config.rope_theta**exponents)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + head_dim/2]) of (batch, heads, tokens, head_dim) by the angle of its position."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _visible(past: int, total: int, attention_mask: Tensor | None, device: torch.device) -> Tensor | None:
    """Which of all tokens each new token sees; None for the cases without a mask, which have a faster kernel."""
    if attention_mask is None and (past == 0 or total == past + 1):
        return None
    causal = torch.ones(total - past, total, dtype=torch.bool, device=device).tril(past)[None, None]
    if attention_mask is None:
        return causal
    if attention_mask.ndim != 2 or attention_mask.shape[1] != total:
        raise ValueError(f"attention_mask must be (batch, {total}); got shape {tuple(attention_mask.shape)}")
    itself = causal ^ causal.tril(past - 1)  # padding on the left sees at least itself: an empty softmax is NaN
    return causal & attention_mask[:, None, None, :].bool() | itself


def generate(
    model: Decoder,
    input_ids: Tensor,
    max_new_tokens: int,
    eos_id: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Continue `input_ids`, int64 (batch, tokens) without padding; returns the new ids alone, (batch, new tokens).

    Takes the likeliest token each time, or samples with `seed` when `temperature` > 0. A row that has reached `eos_id`
    (which is kept) is filled up with it; when all rows have, generation stops. Every token is chosen by the logits of
    `model` itself, in its own dtype, even where a draft has guessed ahead (see `drafting`).

    Raises:
        ValueError: for a temperature below 0.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import generate, load_tiny_gpt
        >>> model, tokenizer = load_tiny_gpt()
        >>> prompt = torch.tensor([tokenizer.encode("It was a truth")])
        >>> generate(model, prompt, max_new_tokens=8).shape
        torch.Size([1, 8])
    """
    steps = list(generate_steps(model, input_ids, max_new_tokens, eos_id, temperature, seed))
    none = torch.empty(len(input_ids), 0, dtype=torch.long, device=next(model.parameters()).device)
    return torch.cat((none, *steps), dim=1)


@torch.no_grad()
def generate_steps(
    model: Decoder,
    input_ids: Tensor,
    max_new_tokens: int,
    eos_id: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Tensor]:
    """What `generate` returns, token by token, as soon as each is known: int64 (batch, 1).

    Raises:
        ValueError: for a temperature below 0.

    Examples:
        >>> import torch
        >>> from peft_lessons.models import generate_steps, load_tiny_gpt
        >>> model, tokenizer = load_tiny_gpt()
        >>> prompt = torch.tensor([tokenizer.encode("It was a truth")])
        >>> [tuple(step.shape) for step in generate_steps(model, prompt, max_new_tokens=2)]
        [(1, 1), (1, 1)]
    """
    from peft_lessons.models.drafting import draft_for  # which needs the classes of this file

    if temperature < 0:
        raise ValueError(f"temperature must be 0 (the likeliest token) or above; got {temperature}")
    choice = Choice(temperature, torch.Generator().manual_seed(seed))
    cache, draft = KeyValueCache(), None
    step = input_ids.to(next(model.parameters()).device)
    done = torch.zeros(len(step), 1, dtype=torch.bool, device=step.device)
    left = max_new_tokens
    while left > 0:
        guess = step[:, :0] if draft is None else draft.guess(step, cache, left - 1, choice, eos_id)
        known = cache.tokens
        hidden = model.model(torch.cat((step, guess), dim=1), cache=cache)
        logits = model.lm_head(hidden[:, -1 - guess.shape[1] :])  # (batch, 1 + guesses, vocab_size)
        for i in range(logits.shape[1]):
            step = choice(logits[:, i])
            if eos_id is not None:
                step = step.masked_fill(done, eos_id)
                done |= step == eos_id
            left -= 1
            yield step
            if left == 0 or done.all():
                return
            if not torch.equal(step, guess[:, i : i + 1]):
                break
        if draft is not None:
            cache.cut(known + 1 + i)
            draft = draft if draft.judge(guess.shape[1], i) else None
        elif known == 0:
            draft = draft_for(model, cache, left)


@dataclass(frozen=True)
class Choice:
    """The likeliest token of logits (batch, vocab_size), or a random one if `temperature` > 0: int64 (batch, 1)."""

    temperature: float
    generator: torch.Generator

    def __call__(self, logits: Tensor) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1, keepdim=True)
        probabilities = (logits.float().cpu() / self.temperature).softmax(-1)
        return torch.multinomial(probabilities, 1, generator=self.generator).to(logits.device)

    def copy(self) -> "Choice":
        """One that will draw the same random numbers."""
        return Choice(self.temperature, torch.Generator().set_state(self.generator.get_state()))
