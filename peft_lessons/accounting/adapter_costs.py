"""What each method adds to a model: one table, from which parameters, bytes and FLOPs all follow.

How many numbers that are, each method's row in `peft_lessons.methods.registry` says in words. Names and shapes are
those that `inject` makes; the tests compare each of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import singledispatch
from itertools import pairwise
from math import prod

from peft_lessons.accounting.modules import Module, Shapes
from peft_lessons.adapters import AdapterConfig
from peft_lessons.checks import check_rank_fits
from peft_lessons.methods.adalora import AdaLoRAConfig
from peft_lessons.methods.bitfit import BitFitConfig
from peft_lessons.methods.bottleneck import ParallelAdapterConfig, SerialAdapterConfig
from peft_lessons.methods.dora import DoRAConfig
from peft_lessons.methods.ia3 import IA3Config
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.loha import LoHaConfig
from peft_lessons.methods.lokr import LoKrConfig, shapes, split
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.lora_bias import BiasedLoRAConfig
from peft_lessons.methods.lora_fa import LoRAFAConfig
from peft_lessons.methods.miss import MiSSConfig, check_shard
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.methods.pissa import PiSSAConfig
from peft_lessons.methods.vera import VeRAConfig
from peft_lessons.targets import selects


@dataclass(frozen=True)
class Product:
    """A matrix product with one row a token: (tokens, inputs) × (inputs, outputs)."""

    inputs: int
    outputs: int
    trained: bool
    inside: bool = False  # its input depends on trained numbers of the same adapter, so a gradient flows through


@dataclass(frozen=True)
class AdapterCosts:
    """What a method adds to one module, in numbers, not bytes."""

    trained: Shapes
    frozen: Shapes = field(default_factory=dict)
    products: tuple[Product, ...] = ()
    rewrites_input: bool = False  # the layer reads what the adapter makes of x
    keeps_input: bool = False  # backward needs x
    reads_fp32: bool = False  # … in fp32, in a copy of its own where x is not
    keeps: int = 0  # numbers a token that backward needs beside x
    adds_up_weights: bool = False  # the module is called with other weights: its step is not counted here
    weight_flops: tuple[int, int] = (0, 0)  # forward and backward, once a step, whatever the number of tokens


@singledispatch
def adapter_costs(config: AdapterConfig, module: Module) -> AdapterCosts:
    known = sorted(kind.__name__ for kind in adapter_costs.registry if kind not in (AdapterConfig, object))
    raise TypeError(f"no formula for {type(config).__name__}; there are formulas for {', '.join(known)}")


@adapter_costs.register
def _lora(config: LoRAConfig, m: Module) -> AdapterCosts:
    r = config.rank
    check_rank_fits(r, m.in_features, m.out_features)
    return AdapterCosts(
        trained={"lora_A": (r, m.in_features), "lora_B": (m.out_features, r)},
        products=(Product(m.in_features, r, trained=True), Product(r, m.out_features, trained=True, inside=True)),
        keeps_input=True,
        keeps=r,
    )


def parameter_costs(config: LoRAConfig, m: Module) -> AdapterCosts | None:
    """What `target_parameters` adds to the module that holds them; None for a module that holds none."""
    trained: dict[str, tuple[int, ...]] = {}
    for full_name, shape in m.tensors.items():
        if selects(config.target_parameters, full_name):
            name, rank = full_name.removeprefix(f"{m.name}."), config.at(full_name).rank
            if len(shape) < 2:
                raise TypeError(f"{full_name} has the shape {shape}; target_parameters are matrices or stacks of them")
            *experts, outputs, inputs = (*shape[:-2], shape[-1], shape[-2]) if m.stored_transposed else shape
            check_rank_fits(rank, inputs, outputs)
            trained |= {
                f"lora_A.{name}": (prod(experts) * rank, inputs),
                f"lora_B.{name}": (outputs, rank * prod(experts)),
            }
    return AdapterCosts(trained=trained, adds_up_weights=True) if trained else None


@adapter_costs.register
def _biased_lora(config: BiasedLoRAConfig, m: Module) -> AdapterCosts:
    lora = _lora(config, m)
    return replace(lora, trained={**lora.trained, "lora_B_bias": (m.out_features,)})


@adapter_costs.register
def _lora_fa(config: LoRAFAConfig, m: Module) -> AdapterCosts:
    r = config.rank
    check_rank_fits(r, m.in_features, m.out_features)
    return AdapterCosts(
        trained={"lora_B": (m.out_features, r)},
        frozen={"lora_A": (r, m.in_features)},
        products=(Product(m.in_features, r, trained=False), Product(r, m.out_features, trained=True)),
        keeps=r,
    )


@adapter_costs.register
def _pissa(config: PiSSAConfig, m: Module) -> AdapterCosts:
    """s [B − B₀, B₀] [A; A − A₀] x: the products of LoRA at twice the rank."""
    r = config.rank
    return AdapterCosts(
        trained=_lora(config, m).trained,
        frozen={"initial_A": (r, m.in_features), "initial_B": (m.out_features, r)},
        products=(
            Product(m.in_features, 2 * r, trained=True),
            Product(2 * r, m.out_features, trained=True, inside=True),
        ),
        keeps_input=True,
        keeps=2 * r,
    )


@adapter_costs.register
def _dora(config: DoRAConfig, m: Module) -> AdapterCosts:
    r, lora = config.rank, _lora(config, m)
    return AdapterCosts(
        trained={**lora.trained, "magnitude": (m.out_features,)},
        products=lora.products,
        keeps_input=True,
        keeps=r + 2 * m.out_features,  # W₀x and s B A x, which the gradient of m needs
        weight_flops=(2 * r * m.in_features * m.out_features, 0),  # B A, for the norm
    )


@adapter_costs.register
def _adalora(config: AdaLoRAConfig, m: Module) -> AdapterCosts:
    r = config.rank
    check_rank_fits(r, m.in_features, m.out_features)
    return AdapterCosts(
        trained={"lora_A": (r, m.in_features), "lora_E": (r, 1), "lora_B": (m.out_features, r)},
        products=(Product(m.in_features, r, trained=True), Product(r, m.out_features, trained=True, inside=True)),
        keeps_input=True,
        keeps=r,
    )


@adapter_costs.register
def _vera(config: VeRAConfig, m: Module) -> AdapterCosts:
    r = config.rank
    return AdapterCosts(
        trained={"vera_lambda_b": (m.out_features,), "vera_lambda_d": (r,)},
        products=(Product(m.in_features, r, trained=False), Product(r, m.out_features, trained=False, inside=True)),
        keeps=r + m.out_features,  # A x for the gradient of d, B Λ_d A x for that of b
    )


@adapter_costs.register
def _loha(config: LoHaConfig, m: Module) -> AdapterCosts:
    r, d_in, d_out = config.rank, m.in_features, m.out_features
    check_rank_fits(r, d_in, d_out)
    return AdapterCosts(
        trained={"loha_B1": (d_out, r), "loha_A1": (r, d_in), "loha_B2": (d_out, r), "loha_A2": (r, d_in)},
        products=(Product(d_in, d_out, trained=True),),  # x ΔWᵀ, with ΔW formed in full
        keeps_input=True,
        weight_flops=(4 * r * d_in * d_out, 8 * r * d_in * d_out),
    )


@adapter_costs.register
def _lokr(config: LoKrConfig, m: Module) -> AdapterCosts:
    """D on each of in₁ rows of a token, then C on each of out₂ columns; each is one matrix or the product of two."""
    r, trained = config.rank, shapes(config, m.in_features, m.out_features)
    (out_1, out_2), (in_1, in_2) = split(m.out_features, config.factor), split(m.in_features, config.factor)
    products: list[Product] = []
    for whole, rows, inputs, outputs in (("lokr_D", in_1, in_2, out_2), ("lokr_C", out_2, in_1, out_1)):
        widths = (inputs, outputs) if whole in trained else (inputs, r, outputs)
        products += [Product(rows * n, k, trained=True, inside=bool(products or n == r)) for n, k in pairwise(widths)]
    return AdapterCosts(
        trained=trained,
        products=tuple(products),
        keeps_input=True,
        keeps=sum(product.inputs for product in products[1:]),
    )


@adapter_costs.register
def _miss(config: MiSSConfig, m: Module) -> AdapterCosts:
    r = config.rank
    check_shard(r, m.in_features)
    return AdapterCosts(
        trained={"miss_D": (r, m.out_features)},
        products=(Product(r, m.out_features, trained=True),),
        keeps=r,
    )


@adapter_costs.register
def _oft(config: OFTConfig, m: Module) -> AdapterCosts:
    field = "block_size" if config.blocks is None else "blocks"
    if m.in_features % (given := getattr(config, field)):
        raise ValueError(f"{field} {given} does not divide in_features {m.in_features} of {m.name}")
    b = given if config.blocks is None else m.in_features // given
    rotations = 1 if config.shared else m.in_features // b
    product, terms = 2 * b**3 * rotations, config.neumann_terms
    return AdapterCosts(
        trained={"oft_Q": (rotations, b * (b - 1) // 2)},
        products=(Product(m.in_features, b, trained=True),),  # each number meets the b of its block
        rewrites_input=True,
        keeps_input=True,
        reads_fp32=True,
        # one in the gradient of an inverse; a series has one for each power, and two in its gradient but for the first
        weight_flops=(0, product) if terms is None else ((terms - 1) * product, (2 * terms - 3) * product),
    )


@adapter_costs.register
def _ia3(config: IA3Config, m: Module) -> AdapterCosts:
    if selects(config.feedforward_targets, m.name):
        return AdapterCosts(trained={"ia3_l": (m.in_features,)}, rewrites_input=True, keeps_input=True)
    return AdapterCosts(trained={"ia3_l": (m.out_features,)}, keeps=m.out_features)


@adapter_costs.register
def _bitfit(config: BitFitConfig, m: Module) -> AdapterCosts:
    return AdapterCosts(trained={"bias_delta": (m.out_features,)})


@adapter_costs.register
def _layer_norm(config: LayerNormTuningConfig, m: Module) -> AdapterCosts:
    return AdapterCosts(trained={name.replace(m.name, "tuned"): shape for name, shape in m.tensors.items()})


@adapter_costs.register
def _serial(config: SerialAdapterConfig, m: Module) -> AdapterCosts:
    return AdapterCosts(
        **_bottleneck(config.bottleneck, m.out_features, m.out_features), keeps=m.out_features + config.bottleneck
    )


@adapter_costs.register
def _parallel(config: ParallelAdapterConfig, m: Module) -> AdapterCosts:
    return AdapterCosts(
        **_bottleneck(config.bottleneck, m.in_features, m.out_features), keeps_input=True, keeps=config.bottleneck
    )


def _bottleneck(m: int, inputs: int, outputs: int) -> dict:
    return {
        "trained": {
            "down_weight": (m, inputs),
            "down_bias": (m,),
            "up_weight": (outputs, m),
            "up_bias": (outputs,),
        },
        "products": (Product(inputs, m, trained=True), Product(m, outputs, trained=True, inside=True)),
    }
