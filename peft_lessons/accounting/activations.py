"""What a forward pass keeps for backward: the bytes that grow with the batch.

GPT-2 and RoBERTa, 16 bits, dropout: s b h (34 + 5 a s / h) bytes a layer (Korthikanti et al., arXiv:2205.05198, Eq. 2);
34 s b h where attention never stores its s × s scores, as FlashAttention; 2 s b h, the block's input alone, with
checkpointing (§5). Adapters add to it and save nothing of it, as it is counted there.

Llama and its kin: what autograd keeps in this course's decoder, e bytes a number, for each token

    each of the norms       4d + 4, its input in fp32 and 1/rms; 4d more if its weight trains
    attention               e (2 · heads + 2 · kv_heads) head_dim + 4 heads: queries, output, keys, values, log-sums
    SwiGLU                  3 e d_ff: gate, silu(gate), up; with experts, for each that the token is sent to
    a linear layer          e d_in, its input, once for layers that share it, and only if the weight's gradient (or an
                            adapter's) needs it; for o_proj it is a copy of attention's output, its heads side by side
    an adapter              e · `keeps` of the table in `adapter_costs`; with dropout its input, which it then shares
                            with no other, and d_in bytes of mask where its input has a gradient
    the loss                4 V + 8, log-probabilities in fp32 and the target, for each token but the last, as with one
                            cross-entropy over all logits; `training.language_model_loss` keeps less

A frozen linear layer keeps no input, but LoRA on it keeps x again, and r numbers more: for a layer of width d and the
nonlinearity behind it d + r + d against full fine-tuning's d + d, 2.016 against 2 at r = d / 64.

Hugging Face's peft brings x to the adapter's dtype, fp32, in each layer anew. Where the model computes in 16 bits every
adapter then keeps a copy of its own, 4 (d_in + r) bytes a token, or e (d_in + r) under autocast, which makes another.

Nothing is kept below the first number that trains. Left out: what does not grow with the batch (copies of adapters in
bf16, rotary angles), the batch itself, what sends tokens to experts, what backward needs for a moment, and how a GPU's
kernels differ.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from peft_lessons.accounting.plan import Method, Plan, Visit, attention_gradients, by_layer, check_length, lay_out_step
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.checks import check_count
from peft_lessons.methods.lora import LoRAConfig

Attention = Literal["flash", "plain"]
Adapters = Literal["ours", "peft", "peft, autocast"]
LABEL = 8  # bytes of a target
GATED = {"gate": 2, "up": 1, "gate_up": 1.5}  # silu(g) ⊙ u: numbers kept for each output: g and silu(g), u, all three


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes kept for backward.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import Activations, activations, model_shape
        >>> kept = activations(model_shape("SmolLM2-135M"), LoRAConfig(), batch=1, tokens=512)
        >>> isinstance(kept, Activations)
        True
        >>> kept.total == kept.blocks + kept.head
        True
    """

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
    adapters: Adapters = "ours",
    checkpointing: bool = False,
) -> Activations:
    """Bytes kept when backward begins, for `batch` sequences of `tokens` tokens, all scored but the first of each.

    `adapters` says whose LoRA it is: that of this course, that of Hugging Face's peft with adapters in fp32, or peft's
    under autocast to the model's 16 bits. With `checkpointing` a block keeps its input alone; while backward is in a
    block, that block is kept in full.

    Warns about a text longer than the model was made for.

    Raises:
        ValueError: for a count below 1, for a text that a table of positions has no rows for, for a method that is
            not counted as peft has it, and for checkpointing with a prefix, which needs a cache.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import activations, model_shape
        >>> shape = model_shape("SmolLM2-135M")
        >>> plain = activations(shape, LoRAConfig(), batch=1, tokens=512)
        >>> activations(shape, LoRAConfig(), batch=1, tokens=512, checkpointing=True).total < plain.total
        True
    """
    for name, value in (("batch", batch), ("tokens", tokens), ("bytes_per_number", bytes_per_number)):
        check_count(name, value)
    if attention not in get_args(Attention):
        raise ValueError(f"attention is {attention!r}; possible: {', '.join(get_args(Attention))}")
    if adapters not in get_args(Adapters):
        raise ValueError(f"adapters is {adapters!r}; possible: {'; '.join(get_args(Adapters))}")
    plan = lay_out_step(shape, method)
    if adapters != "ours" and plan.modules and type(method) is not LoRAConfig:
        raise ValueError(f"what peft keeps of {type(method).__name__} is not counted here, only of LoRAConfig")
    if checkpointing and plan.prefix:
        raise ValueError("prefix tuning puts its keys into a cache, which does not go with gradient checkpointing")
    length = check_length(plan, tokens)
    own = _Adapter(plan, bytes_per_number, adapters)
    layers = by_layer(plan)
    ends = layers.pop(None)
    active = [layer for layer in layers.values() if any(visit.output_gradient for visit in layer)]
    kind = _Llama if shape.is_llama_like else _Korthikanti
    block = kind(plan, length, bytes_per_number, attention, own).block
    kept = [block(layer) for layer in active]
    inputs = [length * shape.hidden_size * bytes_per_number for _ in active]
    return Activations(
        blocks=batch * sum(inputs if checkpointing else kept),
        recomputed=batch * max(kept, default=0) if checkpointing else 0,
        head=batch * _head(plan, ends, length, tokens, bytes_per_number, own),
    )


@dataclass(frozen=True)
class _Adapter:
    """Bytes a token that an adapter keeps for itself, and whether it needs its layer's input beside them."""

    plan: Plan
    e: int
    adapters: Adapters

    def keeps(self, visit: Visit) -> int:
        if visit.adapter is None:
            return 0
        d, adapter = visit.module.in_features, visit.adapter
        kept = self._bytes * adapter.keeps
        if self.plan.drops:
            kept += visit.input_gradient * d
        if adapter.keeps_input and not self.shares_input(visit):
            kept += (4 if adapter.reads_fp32 else self._bytes) * d
        return kept

    def shares_input(self, visit: Visit) -> bool:
        """Return whether it keeps x itself, of which there is one for all that read it."""
        if visit.adapter is None or not visit.adapter.keeps_input or self.plan.drops:
            return False
        return self.e == 4 or (self.adapters == "ours" and not visit.adapter.reads_fp32)

    @property
    def _bytes(self) -> int:
        """Of a number in an adapter's products."""
        return 4 if self.adapters == "peft" else self.e


@dataclass(frozen=True)
class _Block:
    """Bytes a sequence of a block."""

    plan: Plan
    length: int
    e: int
    attention: Attention
    own: _Adapter

    def block(self, visits: list[Visit]) -> int:
        raise NotImplementedError


class _Llama(_Block):
    """As in this course's decoder."""

    def block(self, visits: list[Visit]) -> int:
        per_token = sum(_norm(visit) for visit in visits if visit.module.kind == "norm")
        per_token += sum(self.own.keeps(visit) for visit in visits)
        per_token += sum(self.e * width for width in self._inputs(visits).values())
        per_token += sum(self._gated(visit) for visit in visits)
        return self.length * per_token + self._attention(visits)

    def _inputs(self, visits: list[Visit]) -> dict[str, int]:
        """Return the inputs that a weight's gradient needs, each once: what is read → its width."""
        kept = [visit for visit in visits if visit.trains or self.own.shares_input(visit)]
        return {v.module.reads or "h": v.module.in_features * v.module.times for v in kept if v.module.kind != "norm"}

    def _attention(self, visits: list[Visit]) -> int:
        shape = self.plan.shape
        q, k, v = attention_gradients(self.plan, visits)
        keys = self.plan.prefix + self.length
        if self.attention == "flash":
            queries_and_output = self.length * (shape.attention_size + shape.mixed_size)
            numbers = queries_and_output + keys * (shape.key_value_size + shape.value_size)
            return (q or k or v) * (self.e * numbers + 4 * self.length * shape.num_attention_heads)
        # fp32, keys and values repeated for each query head; a product keeps a factor for the other one's gradient
        queries, repeated = self.length * shape.attention_size, keys * shape.attention_size
        values, scores = keys * shape.mixed_size, self.length * keys * shape.num_attention_heads
        return 4 * (k * queries + q * repeated + (q or k) * values + (q or k or v) * scores)

    def _gated(self, visit: Visit) -> int:
        """Of what is multiplied by the gate; of a feed-forward part that trains in experts, what `down` reads, too."""
        module = visit.module
        if module.kind == "experts":
            return visit.output_gradient * self.e * module.times * module.out_features * (3 + visit.trains)
        return int(visit.output_gradient * self.e * module.out_features * GATED.get(module.role, 0))


def _norm(visit: Visit) -> int:
    """RMSNorm, a token, in fp32: x and 1/rms for the gradient of x, x/rms for that of the weight."""
    trains, width = visit.trains or visit.adapter is not None, 4 * visit.module.in_features
    return visit.module.times * (visit.input_gradient * (width + 4) + trains * width)


class _Korthikanti(_Block):
    """As in GPT-2."""

    def block(self, visits: list[Visit]) -> int:
        shape, length, e = self.plan.shape, self.length, self.e
        h, d_ff, a = shape.hidden_size, shape.intermediate_size, shape.num_attention_heads
        dense = length * (e * (8 * h + 2 * d_ff) + 2 * h)  # 34 s h with e = 2 and d_ff = 4h; the last term are masks
        scores = a * length * (self.plan.prefix + length) * (2 * e + 1) if self.attention == "plain" else 0
        return dense + scores + length * sum(self.own.keeps(visit) for visit in visits)


def _head(plan: Plan, ends: list[Visit], length: int, tokens: int, e: int, own: _Adapter) -> int:
    """Count the bytes of final norm, head, and log-probabilities in fp32. BERT and RoBERTa here have no head."""
    shape, total = plan.shape, 0
    for visit in ends:
        module = visit.module
        if module.kind == "norm":
            total += length * _norm(visit)
        elif module.role == "head":
            total += (visit.trains or own.shares_input(visit)) * tokens * e * module.in_features
            total += own.keeps(visit) * tokens
            total += visit.output_gradient * (tokens - 1) * (4 * shape.vocab_size + LABEL)
    return total
