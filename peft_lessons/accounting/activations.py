"""What a forward pass keeps for backward: the bytes that grow with the batch.

GPT-2 and RoBERTa, 16 bits, dropout: s b h (34 + 5 a s / h) bytes a layer (Korthikanti et al., arXiv:2205.05198, Eq. 2);
34 s b h where attention never stores its s × s scores, as FlashAttention; 2 s b h, the block's input alone, with
checkpointing (§5). Adapters add to it and save nothing of it, as it is counted there.

Llama, Mistral, Qwen2 and Gemma 2: what autograd keeps in this course's decoder, e bytes a number, for each token

    each of the norms       4d + 4, its input in fp32 and 1/rms; 4d more if its weight trains
    attention               e (2 · heads + 2 · kv_heads) head_dim + 4 heads: queries, output, keys, values, log-sums
    SwiGLU                  3 e d_ff: gate, silu(gate), up
    a linear layer          e d_in, its input, once for layers that share it, and only if the weight's gradient (or an
                            adapter's) needs it; for o_proj it is a copy of attention's output, its heads side by side
    an adapter              e · `keeps` of the table in `added`
    the loss                4 V + 8, log-probabilities in fp32 and the target, for each token but the last, as with one
                            cross-entropy over all logits; `training.language_model_loss` keeps less

A frozen linear layer keeps no input, but LoRA on it keeps x again, and r numbers more: for a layer of width d and the
nonlinearity behind it d + r + d against full fine-tuning's d + d, 2.016 against 2 at r = d / 64.

Nothing is kept below the first number that trains. Left out: what does not grow with the batch (copies of adapters in
bf16, rotary angles), the batch itself, what backward needs for a moment, and how a GPU's kernels differ.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from peft_lessons.accounting.added import Added
from peft_lessons.accounting.plan import Method, Plan, Visit, by_layer, lay_out
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.checks import check_count

Attention = Literal["flash", "plain"]
# What each linear layer reads, by a name that those share which read the same; an adapter on a whole MLP has no role.
READS = {"query": "x", "key": "x", "value": "x", "output": "mixed", "gate": "h", "up": "h", "": "h", "down": "gated"}
LABEL = 8  # bytes of a target


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes kept for backward."""

    blocks: int  # in every block, or only their inputs with checkpointing
    recomputed: int  # with checkpointing, the one block that is computed again at a time
    head: int  # final norm, head and loss

    @property
    def total(self) -> int:
        return self.blocks + self.recomputed + self.head


def activations(
    shape: ModelShape,
    method: Method,
    *,
    batch: int,
    tokens: int,
    bytes_per_number: int = 2,
    attention: Attention = "flash",
    checkpointing: bool = False,
) -> Activations:
    """Bytes kept when backward begins, for `batch` sequences of `tokens` tokens, all scored but the first of each.

    With `checkpointing` a block keeps its input alone; while backward is in a block, that block is kept in full.
    Raises ValueError for a count below 1, and for checkpointing with a prefix, which needs a cache.
    """
    for name, value in (("batch", batch), ("tokens", tokens), ("bytes_per_number", bytes_per_number)):
        check_count(name, value)
    if attention not in get_args(Attention):
        raise ValueError(f"attention is {attention!r}; possible: {', '.join(get_args(Attention))}")
    plan = lay_out(shape, method)
    if checkpointing and plan.prefix:
        raise ValueError("prefix tuning puts its keys into a cache, which does not go with gradient checkpointing")
    length = plan.prompt + tokens
    count = _Llama(plan, length, bytes_per_number, attention) if shape.is_llama_like else None
    layers = by_layer(plan)
    ends = layers.pop(None)
    active = [layer for layer in layers.values() if any(visit.output_gradient for visit in layer)]
    block = count.block if count else _korthikanti_block(plan, length, bytes_per_number, attention)
    kept = [block(layer) for layer in active]
    inputs = [length * shape.hidden_size * bytes_per_number for _ in active]
    return Activations(
        blocks=batch * sum(inputs if checkpointing else kept),
        recomputed=batch * max(kept, default=0) if checkpointing else 0,
        head=batch * _head(plan, ends, length, tokens, bytes_per_number),
    )


@dataclass(frozen=True)
class _Llama:
    """Bytes a sequence of a block as in this course's decoder."""

    plan: Plan
    length: int
    e: int
    attention: Attention

    def block(self, visits: list[Visit]) -> int:
        per_token = sum(_norm(visit) for visit in visits if visit.module.kind == "norm")
        per_token += sum(self.e * visit.added.keeps for visit in visits if visit.added)
        per_token += sum(4 * visit.module.in_features for visit in visits if visit.added and self._copies(visit.added))
        per_token += sum(self.e * width for width in self._inputs(visits).values())
        return self.length * per_token + self._attention(visits) + self.length * self._gated(visits)

    def _copies(self, added: Added) -> bool:
        return added.reads_fp32 and self.e != 4

    def _inputs(self, visits: list[Visit]) -> dict[str, int]:
        """Inputs that a weight's gradient needs, each once: where it is read → its width."""
        kept = [
            visit
            for visit in visits
            if visit.trains or (visit.added and visit.added.keeps_input and not self._copies(visit.added))
        ]
        return {READS[v.module.role]: v.module.in_features for v in kept if v.module.kind != "norm"}

    def _attention(self, visits: list[Visit]) -> int:
        shape = self.plan.shape
        q, k, v = (
            any(x.output_gradient for x in visits if x.module.role == role) for role in ("query", "key", "value")
        )
        k, v = k or self.plan.prefix > 0, v or self.plan.prefix > 0
        keys = self.plan.prefix + self.length
        if self.attention == "flash":
            numbers = 2 * self.length * shape.attention_size + 2 * keys * shape.key_value_size
            return (q or k or v) * (self.e * numbers + 4 * self.length * shape.num_attention_heads)
        # fp32, keys and values repeated for each query head; a product keeps a factor for the other one's gradient
        queries, repeated = self.length * shape.attention_size, keys * shape.attention_size
        scores = self.length * keys * shape.num_attention_heads
        return 4 * (k * queries + (q + (q or k)) * repeated + (q or k or v) * scores)

    def _gated(self, visits: list[Visit]) -> int:
        """silu(g) ⊙ u, a token: g and u if g has a gradient, silu(g) if u has one."""
        gate, up = (any(x.output_gradient for x in visits if x.module.role == role) for role in ("gate", "up"))
        return self.e * (2 * gate + up) * self.plan.shape.intermediate_size


def _norm(visit: Visit) -> int:
    """RMSNorm, a token, in fp32: x and 1/rms for the gradient of x, x/rms for that of the weight."""
    trains = visit.trains or visit.added is not None
    return visit.input_gradient * (4 * visit.module.in_features + 4) + trains * 4 * visit.module.in_features


def _korthikanti_block(plan: Plan, length: int, e: int, attention: Attention) -> Callable[[list[Visit]], int]:
    shape = plan.shape
    h, d_ff, a = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads
    dense = length * (e * (8 * h + 2 * d_ff) + 2 * h)  # 34 s h with e = 2 and d_ff = 4h; the last term are masks
    scores = a * length * (plan.prefix + length) * (2 * e + 1) if attention == "plain" else 0

    def block(visits: list[Visit]) -> int:
        return dense + scores + length * e * sum(visit.added.keeps for visit in visits if visit.added)

    return block


def _head(plan: Plan, ends: list[Visit], length: int, tokens: int, e: int) -> int:
    """Final norm, head, and log-probabilities in fp32. RoBERTa here has no head."""
    shape, total = plan.shape, 0
    for visit in ends:
        module = visit.module
        if module.kind == "norm":
            total += length * _norm(visit)
        elif module.role == "head":
            kept = visit.trains or (visit.added is not None and visit.added.keeps_input)
            total += kept * tokens * e * module.in_features
            total += visit.added.keeps * tokens * e if visit.added else 0
            total += visit.output_gradient * (tokens - 1) * (4 * shape.vocab_size + LABEL)
    return total
