"""Floating-point operations of a training step, counted as torch's FlopCounterMode counts them.

A product (n, k) × (k, m) is 2 n k m operations; whatever is not a matrix product counts nothing. For P weights in
matrices and T trained numbers of LoRA's, each token costs

    forward                 2P + 2T
    gradients of inputs     2P + 2T        from the last layer down to the first that has a trained number before it
    gradients of weights    2P if all train, else 2T

so 6P for full fine-tuning, 4P with a frozen base, 4P + 6T for LoRA, and 2P + 2T more with checkpointing. For one matrix
N × N of rank r that is 4N² + 12 N r against 6N²: two thirds at best, and no gain from r = N/6 on.

Attention costs 4 · length · keys · heads · head_dim forward and twice that backward, all positions counted though half
are masked: what the unfused kernel does. FlashAttention computes the scores a second time in backward, and
FlopCounterMode has no formula for its CPU version, which it counts as nothing. Dequantizing a base adds no product.
"""

from dataclasses import dataclass

from peft_lessons.accounting.adapter_costs import Product, adapter_costs
from peft_lessons.accounting.modules import Module
from peft_lessons.accounting.plan import (
    FullFineTuning,
    Method,
    Plan,
    Visit,
    attention_gradients,
    by_layer,
    check_length,
    lay_out_step,
    parameter_break_even_rank,
)
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.adapters import AdapterConfig
from peft_lessons.checks import check_count


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Operations of one step, by what they compute.

    Examples:
        >>> from peft_lessons.accounting import Flops
        >>> Flops(forward=2, input_gradients=2, weight_gradients=1).total
        5
    """

    forward: int
    input_gradients: int
    weight_gradients: int
    recomputed: int = 0  # the forward pass of the blocks again, with checkpointing

    @property
    def backward(self) -> int:
        return self.input_gradients + self.weight_gradients + self.recomputed

    @property
    def total(self) -> int:
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(
            forward=self.forward + other.forward,
            input_gradients=self.input_gradients + other.input_gradients,
            weight_gradients=self.weight_gradients + other.weight_gradients,
            recomputed=self.recomputed + other.recomputed,
        )


NOTHING = Flops(forward=0, input_gradients=0, weight_gradients=0)


def step_flops(shape: ModelShape, method: Method, *, batch: int, tokens: int, checkpointing: bool = False) -> Flops:
    """Forward and backward of `batch` sequences of `tokens` tokens; the optimizer's few operations are left out.

    OFT's inverses are left out of the forward pass, as FlopCounterMode leaves them out. With checkpointing torch stops
    computing a block again once it has all that backward asks for, which spares a part of its last layer; here the
    whole block counts. Warns and raises as `activations` for texts that are too long.

    Raises:
        ValueError: as `activations`, and for checkpointing with a prefix, which needs a cache.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import FullFineTuning, model_shape, step_flops
        >>> shape = model_shape("Llama-3.1-8B")
        >>> full = step_flops(shape, FullFineTuning(), batch=1, tokens=512)
        >>> lora = step_flops(shape, LoRAConfig(), batch=1, tokens=512)
        >>> round(lora.total / full.total, 2)
        0.67
    """
    check_count("batch", batch)
    check_count("tokens", tokens)
    plan = lay_out_step(shape, method)
    if checkpointing and plan.prefix:
        raise ValueError("prefix tuning puts its keys into a cache, which does not go with gradient checkpointing")
    length = check_length(plan, tokens)
    total = NOTHING
    for layer, inside in by_layer(plan).items():
        rows = batch * (tokens if layer is None else length)  # a prompt's outputs are cut off before the head
        flops = sum((_visit(visit, rows) for visit in inside), NOTHING)
        if layer is not None:
            flops += _attention(plan, inside, batch, length)
            if checkpointing and any(visit.output_gradient for visit in inside):
                flops += Flops(forward=0, input_gradients=0, weight_gradients=0, recomputed=flops.forward)
        total += flops
    return total


def linear_flops(
    d_in: int,
    d_out: int,
    method: AdapterConfig | FullFineTuning | None = None,
    *,
    tokens: int,
    input_gradient: bool = True,
) -> Flops:
    """One linear layer: frozen without a method, trained by FullFineTuning, or with an adapter.

    `input_gradient` is false where nothing before the layer trains, as in a first layer.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import FullFineTuning, linear_flops
        >>> [linear_flops(64, 64, method, tokens=1).total for method in (FullFineTuning(), LoRAConfig(rank=4))]
        [24576, 19456]
    """
    for name, value in (("d_in", d_in), ("d_out", d_out), ("tokens", tokens)):
        check_count(name, value)
    layer = Module("layer", "linear", d_in, d_out)
    adapter = adapter_costs(method, layer) if isinstance(method, AdapterConfig) else None
    return _visit(Visit(layer, input_gradient, isinstance(method, FullFineTuning), adapter), tokens)


def flops_break_even_rank(d_in: int, d_out: int) -> float:
    """Return the rank at which LoRA's step costs as much as full fine-tuning's; N / 6 for a square matrix.

    4 d_in d_out + 6 r (d_in + d_out) = 6 d_in d_out

    Examples:
        >>> from peft_lessons.accounting import flops_break_even_rank
        >>> flops_break_even_rank(600, 600)
        100.0
    """
    return parameter_break_even_rank(d_in, d_out) / 3


def _visit(visit: Visit, rows: int) -> Flops:
    module, total = visit.module, NOTHING
    reads_trained = visit.adapter is not None and visit.adapter.rewrites_input
    for outputs, inputs in module.matrices:
        base = Product(inputs, outputs, visit.trains, inside=reads_trained)
        total += _product(rows * module.times, base, visit.input_gradient)
    if visit.adapter:
        for product in visit.adapter.products:
            total += _product(rows, product, visit.input_gradient)
        forward, backward = visit.adapter.weight_flops
        total += Flops(forward=forward, input_gradients=0, weight_gradients=backward)
    return total


def _product(rows: int, product: Product, input_gradient: bool) -> Flops:
    flops = 2 * rows * product.inputs * product.outputs
    through = input_gradient or product.inside
    return Flops(forward=flops, input_gradients=flops * through, weight_gradients=flops * product.trained)


def _attention(plan: Plan, visits: list[Visit], batch: int, length: int) -> Flops:
    """Scores and mixture: two products forward, and backward one more for each factor that has a gradient."""
    q, k, v = attention_gradients(plan, visits)
    pairs = 2 * batch * length * (plan.prefix + length)
    scores, mixture = pairs * plan.shape.attention_size, pairs * plan.shape.mixed_size
    return Flops(
        forward=scores + mixture,
        input_gradients=scores * (q + k) + mixture * ((q or k) + v),
        weight_gradients=0,
    )
