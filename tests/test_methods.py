"""What each method promises beside the contract: counts, starts, formulas of the papers, schedules."""

import copy
import pickle

import peft
import pytest
import torch
import torch.nn.functional as F
from accounting_cases import meta_decoder
from contract import DECODER, METHODS, network, perturb, sample
from method_cases import COUNTS, REFUSED
from parity import decoders
from torch import nn

import peft_lessons
from peft_lessons import (
    AdaLoRAConfig,
    AdapterConfig,
    DoRAConfig,
    IA3Config,
    LayerNormTuningConfig,
    LoftQConfig,
    LoHaConfig,
    LoRAConfig,
    LoRAFAConfig,
    OFTConfig,
    ParallelAdapterConfig,
    PiSSAConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    RankAllocator,
    SerialAdapterConfig,
    VeRAConfig,
    adapter_state_dict,
    dequantize,
    full_fine_tuning,
    head_only,
    inject,
    integer_codebook,
    last_layers,
    lora_plus_groups,
    merge,
    normal_codebook,
    quantize,
    quantize_model,
    remove_adapters,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.accounting import model_shape
from peft_lessons.adapters import named_adapters
from peft_lessons.methods.oft import cayley
from peft_lessons.methods.pissa import principal_part
from peft_lessons.models import Decoder, generate
from peft_lessons.models.decoder import KeyValueCache


def trained(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in trainable_parameters(model))


# ------------------------------------------------------------------------------------------------------------- counts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_name", "config", "count"), COUNTS, ids=lambda value: getattr(type(value), "__name__", "")
)
def test_trainable_parameters_of_real_shapes(model_name: str, config: AdapterConfig, count: int) -> None:
    if isinstance(config, LoftQConfig):
        pytest.skip("its start is made of numbers, and on the meta device there are none")
    assert trained(inject(meta_decoder(model_shape(model_name)), config)) == count


# ---------------------------------------------------------------------------------------- PiSSA, LoftQ, LoRA-FA, LoRA+


def wide_layer(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(96, 64)


def test_pissa_starts_as_pefts() -> None:
    """A and B up to the sign of each singular vector, which no formula fixes."""
    base = nn.Sequential(wide_layer())
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=4, lora_alpha=12, target_modules=["0"], init_lora_weights="pissa")
    ).base_model.model[0]
    ours = inject(base, PiSSAConfig(rank=4, alpha=12, targets=("0",)))[0]
    sign = (ours.lora_A * theirs.lora_A["default"].weight).sum(dim=1).sign()
    torch.testing.assert_close(sign[:, None] * ours.lora_A, theirs.lora_A["default"].weight, rtol=0, atol=2e-6)
    torch.testing.assert_close(sign * ours.lora_B, theirs.lora_B["default"].weight, rtol=0, atol=2e-6)
    residual = ours.base_layer.weight - ours.scaling * ours.initial_B @ ours.initial_A
    torch.testing.assert_close(residual, theirs.base_layer.weight, rtol=0, atol=2e-6)


def test_pissa_trains_both_matrices_from_the_first_step() -> None:
    for config, moves in ((LoRAConfig(rank=4, targets=("0",)), False), (PiSSAConfig(rank=4, targets=("0",)), True)):
        layer = inject(nn.Sequential(wide_layer()), config)[0]
        layer(torch.randn(5, 96)).square().sum().backward()
        assert bool(layer.lora_A.grad.abs().max() > 0) == moves
        assert layer.lora_B.grad.abs().max() > 0


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_principal_part_is_the_best_of_its_rank(rank: int) -> None:
    """Eckart-Young: what is left has the norm of the singular values that were left out."""
    weight = wide_layer().weight.detach().double()
    B, A = principal_part(weight, rank)
    tail = torch.linalg.svdvals(weight)[rank:].square().sum().sqrt()
    torch.testing.assert_close((weight - B @ A).norm(), tail, rtol=1e-10, atol=0)


def gaussian_error(iterations: int, codebook: peft_lessons.Codebook = peft_lessons.NF4) -> float:
    """‖W − (Q + sBA)‖ / ‖W‖ of a Gaussian layer after LoftQ; without it when there are no iterations."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 256, bias=False)
    nn.init.normal_(layer.weight)
    weight = layer.weight.detach()
    if not iterations:
        approximation = dequantize(quantize(weight, codebook))
    else:
        config = LoftQConfig(rank=16, alpha=5, codebook=codebook, iterations=iterations, targets=("0",))
        approximation = merge(inject(nn.Sequential(layer), config))[0].weight
    return float((weight - approximation).norm() / weight.norm())


def test_loftq_loses_less_than_quantizing_alone() -> None:
    plain, once, five = (gaussian_error(iterations) for iterations in (0, 1, 5))
    assert (plain, once, five) == pytest.approx((0.0920, 0.0817, 0.0715), abs=0.0015)
    two_bits = normal_codebook(2)
    assert gaussian_error(1, two_bits) < gaussian_error(0, two_bits)


def test_loftq_equals_pefts() -> None:
    """peft's own function wants a GPU: its loop over its decomposition and bitsandbytes' NF4, on a CPU.

    At alpha = rank, since peft's start leaves the scaling out of account.
    """
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit
    from peft.utils.loftq_utils import _low_rank_decomposition

    torch.manual_seed(0)
    layer = nn.Linear(128, 64, bias=False)
    weight = residual = layer.weight.detach().clone()
    for _ in range(3):
        quantized = dequantize_4bit(*quantize_4bit(residual, quant_type="nf4", blocksize=64))
        parts = _low_rank_decomposition(weight - quantized, reduced_rank=4)
        residual = weight - parts["L"] @ parts["R"]
    ours = inject(nn.Sequential(layer), LoftQConfig(rank=4, alpha=4, iterations=3, targets=("0",)))[0]
    torch.testing.assert_close(ours.base_layer.weight, quantized, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.delta(), parts["L"] @ parts["R"], rtol=0, atol=1e-6)


def test_loftq_with_one_iteration_keeps_the_quantized_base() -> None:
    plain = quantize_model(network("lora", "dense"))
    loftq = inject(network("loftq", "dense"), LoftQConfig(rank=4, iterations=1, targets=("first", "second")))
    x = sample("loftq")
    assert torch.equal(remove_adapters(loftq)(x), plain(x))


def test_loftq_wants_the_unrounded_weight() -> None:
    with pytest.raises(TypeError, match="first: LoftQLinear starts from the unrounded weight"):
        inject(network("lora", "nf4"), METHODS["loftq"])


def test_lora_fa_keeps_no_input_for_the_backward_pass() -> None:
    """rows · rank numbers and the weights, where LoRA keeps rows · in_features as well."""
    rows, kept = 512, {}
    for config in (LoRAConfig(rank=4, targets=("0",)), LoRAFAConfig(rank=4, targets=("0",))):
        model = perturb(inject(nn.Sequential(wide_layer()), config))
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor, storages: dict[int, int] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = model(torch.randn(rows, 96))
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept[type(config).__name__] = sum(numel for place, numel in storages.items() if place not in weights)
        assert y.requires_grad
    assert kept == {"LoRAConfig": rows * 96 + rows * 4, "LoRAFAConfig": rows * 4}


def test_lora_plus_groups_are_pefts() -> None:
    from peft.optimizers import create_loraplus_optimizer

    model, base = decoders()
    groups = lora_plus_groups(inject(model, LoRAConfig(rank=4)), 1e-3, ratio=8)
    theirs = create_loraplus_optimizer(
        peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=list(LoRAConfig().targets))),
        torch.optim.AdamW,
        lr=1e-3,
        loraplus_lr_ratio=8,
    )
    expected: dict[float, int] = {}
    for group in theirs.param_groups:
        expected[group["lr"]] = expected.get(group["lr"], 0) + sum(p.numel() for p in group["params"])
    assert {group["lr"]: sum(p.numel() for p in group["params"]) for group in groups} == {
        rate: count for rate, count in expected.items() if count
    }
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(
        id(p) for p in trainable_parameters(model)
    )


def test_lora_plus_moves_the_update_by_its_ratio_at_the_first_step() -> None:
    """A's gradient is zero at the start, so ΔW after Adam's first step is that of B's rate alone."""
    updates = []
    for ratio in (1.0, 16.0):
        torch.manual_seed(0)
        model = inject(nn.Sequential(nn.Linear(12, 8)), LoRAConfig(rank=2, targets=("0",)))
        optimizer = torch.optim.Adam(lora_plus_groups(model, 1e-3, ratio))
        model(torch.ones(3, 12)).square().sum().backward()
        optimizer.step()
        updates.append(model[0].delta())
    torch.testing.assert_close(updates[1], 16 * updates[0], rtol=1e-4, atol=1e-9)


def test_lora_plus_refuses_what_it_cannot_group() -> None:
    with pytest.raises(ValueError, match="no LoRA layer of this model trains one"):
        lora_plus_groups(inject(network("ia3", "dense"), METHODS["ia3"]), 1e-3)
    with pytest.raises(ValueError, match="ratio must be positive and finite, got 0"):
        lora_plus_groups(inject(network("lora", "dense"), METHODS["lora"]), 1e-3, ratio=0)


# ------------------------------------------------------------------------------------------------------ DoRA, IA³, OFT


def test_dora_rows_have_the_length_of_m() -> None:
    layer = perturb(inject(nn.Sequential(wide_layer()), DoRAConfig(rank=4, alpha=12, targets=("0",))))[0]
    torch.testing.assert_close(layer.merged().weight.norm(dim=1), layer.magnitude.abs().detach(), rtol=1e-5, atol=1e-6)


def test_dora_gradient_is_that_of_a_constant_norm() -> None:
    """The formula of the paper with the norm detached, written out; with the norm attached it differs."""
    layer = perturb(inject(nn.Sequential(wide_layer().double()), DoRAConfig(rank=4, alpha=12, targets=("0",))))[0]
    x = torch.randn(5, 96, dtype=torch.float64)
    layer(x).square().sum().backward()
    gradients = []
    for detached in (True, False):
        A, B, m = (t.detach().clone().requires_grad_() for t in (layer.lora_A, layer.lora_B, layer.magnitude))
        V = layer.base_layer.weight + 3.0 * B @ A
        norm = V.norm(dim=1)
        y = F.linear(x, (m / (norm.detach() if detached else norm))[:, None] * V, layer.base_layer.bias)
        gradients.append(torch.autograd.grad(y.square().sum(), (A, B, m)))
    for ours, constant in zip((layer.lora_A, layer.lora_B, layer.magnitude), gradients[0], strict=True):
        torch.testing.assert_close(ours.grad, constant, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(gradients[0][0], gradients[1][0])


def test_rows_rescaled_need_a_scale_and_not_a_rank() -> None:
    """The target is W with each row scaled: DoRA and IA³ learn it exactly, LoRA of rank 1 cannot."""
    errors = {}
    for name, config in (
        ("lora", LoRAConfig(rank=1, targets=("0",))),
        ("dora", DoRAConfig(rank=1, targets=("0",))),
        ("ia3", IA3Config(targets=("0",), feedforward_targets=())),
    ):
        torch.manual_seed(0)
        base = nn.Linear(32, 32, bias=False)
        target = (0.5 + torch.rand(32, 1)) * base.weight.detach()
        model = inject(nn.Sequential(base), config)
        optimizer = torch.optim.Adam(trainable_parameters(model), lr=0.02)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            optimizer.zero_grad()
            loss = (model(torch.eye(32)) - target.T).square().sum() / (target - base.weight).square().sum()
            loss.backward()
            optimizer.step()
            schedule.step()
        errors[name] = loss.item()
    assert errors["dora"] < 1e-3
    assert errors["ia3"] < 1e-3
    assert errors["lora"] > 0.5


def test_oft_rotates() -> None:
    layer = perturb(inject(nn.Sequential(wide_layer().double()), OFTConfig(block_size=8, targets=("0",))))[0]
    R = layer.rotations()
    assert R.shape == (12, 8, 8)
    torch.testing.assert_close(R @ R.mT, torch.eye(8, dtype=torch.float64).expand_as(R), rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_series_nears_the_inverse() -> None:
    Q = torch.randn(3, 8, 8, dtype=torch.float64) * 0.02
    Q = Q - Q.mT
    exact = cayley(Q, None)
    errors = [(cayley(Q, terms) - exact).abs().max().item() for terms in (4, 6, 8)]
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


def test_oft_says_which_blocks_fit() -> None:
    with pytest.raises(
        ValueError, match=r"0: block_size 7 does not divide the width 96; possible: \[2, 3, 4, 6, 8, 12"
    ):
        inject(nn.Sequential(wide_layer()), OFTConfig(block_size=7, targets=("0",)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_oft_turns_what_an_embedding_looks_up(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embedding, ids = nn.Embedding(11, 24, padding_idx=0).to(dtype), torch.tensor([[0, 3, 3], [10, 1, 2]])
    base = embedding(ids)
    model = inject(nn.Sequential(embedding), OFTConfig(block_size=8, targets=("0",)))
    assert torch.equal(model(ids), base)
    turned = perturb(model)(ids)
    assert turned.dtype == dtype
    assert (turned - base).abs().max() > 0.01
    if dtype == torch.float64:
        torch.testing.assert_close(turned @ turned.mT, base @ base.mT, rtol=0, atol=1e-12)  # lengths and angles stay
        torch.testing.assert_close(turned[0, 1], base[0, 1] @ torch.block_diag(*model[0].rotations()))
    merged = merge(model)[0]
    torch.testing.assert_close(merged(ids), turned, rtol=0, atol=1e-12 if dtype == torch.float64 else 0.02)
    assert (type(merged), merged.padding_idx, merged.weight.dtype) == (nn.Embedding, 0, dtype)


def test_oft_on_an_embedding_says_which_blocks_fit() -> None:
    with pytest.raises(
        ValueError, match=r"0: block_size 32 does not divide the width 24; possible: \[2, 3, 4, 6, 8, 12"
    ):
        inject(nn.Sequential(nn.Embedding(11, 24)), OFTConfig(targets=("0",)))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_adalora_on_convolutions_folds_into_the_kernel(dimensions: int) -> None:
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions](4, 6, 3, padding=1, stride=2)
    x = torch.randn(2, 4, *[5] * dimensions)
    base = conv(x)
    model = inject(nn.Sequential(conv), AdaLoRAConfig(rank=3, target_rank=2, targets=("0",)))
    assert torch.equal(model(x), base)
    expected = perturb(model)(x)
    assert not torch.allclose(expected, base, atol=0.01)
    torch.testing.assert_close(merge(model)(x), expected, rtol=0, atol=1e-5)
    assert type(model[0]) is type(conv)


def test_adaloras_budget_is_shared_with_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 6, 3), nn.Flatten(), nn.Linear(18, 8))
    config = AdaLoRAConfig(rank=4, target_rank=1, total_steps=10, targets=("0", "2"))
    allocator = RankAllocator(perturb(inject(model, config)))
    for step in range(1, 11):
        model(torch.randn(2, 4, 5)).square().mean().backward()
        allocator.step(step)
        model.zero_grad()
    assert sum(allocator.ranks) == 2


def test_adalora_on_convolutions_says_what_it_cannot() -> None:
    with pytest.raises(TypeError, match="0: AdaLoRAConv adapts convolutions of one group, got groups=2"):
        inject(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), AdaLoRAConfig(rank=2, target_rank=1, targets=("0",)))
    with pytest.raises(ValueError, match="rank 12 is above"):
        inject(nn.Sequential(nn.Conv2d(4, 6, 3)), AdaLoRAConfig(targets=("0",)))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_loha_on_convolutions_folds_into_the_kernel(dimensions: int, groups: int, effective: bool) -> None:
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions](4, 6, 3, groups=groups, padding=1, stride=2)
    x = torch.randn(2, 4, *[5] * dimensions)
    base, kernel = conv(x), conv.weight.clone()
    model = inject(nn.Sequential(conv), LoHaConfig(rank=2, effective=effective, targets=("0",)))
    assert torch.equal(model(x), base)
    nn.init.normal_(model[0].loha_A2)
    expected = model(x)
    assert not torch.allclose(expected, base, atol=0.01)
    torch.testing.assert_close(merge(model)(x), expected, rtol=0, atol=2e-6)
    assert type(model[0]) is type(conv)
    assert torch.equal(conv.weight, kernel)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("feedforward", [(), ("0",)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ia3_on_convolutions_folds_into_the_kernel(dimensions: int, feedforward, groups: int) -> None:
    torch.manual_seed(0)
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions](4, 6, 3, groups=groups)
    x = torch.randn(2, 4, *[5] * dimensions)
    base, kernel = conv(x), conv.weight.clone()
    model = inject(nn.Sequential(conv), IA3Config(targets=("0",), feedforward_targets=feedforward))
    assert torch.equal(model(x), base)
    with torch.no_grad():
        model[0].ia3_l.copy_(torch.linspace(0.5, 2, len(model[0].ia3_l)))
    expected = model(x)
    assert not torch.allclose(expected, base, atol=0.1)
    torch.testing.assert_close(merge(model)(x), expected, rtol=0, atol=2e-6)
    assert type(model[0]) is type(conv)
    assert torch.equal(conv.weight, kernel)


def test_ia3_scales_inputs_where_it_is_told() -> None:
    model = inject(decoders()[0], IA3Config())
    shapes = {name.rpartition(".")[2]: tuple(layer.ia3_l.shape) for name, layer in named_adapters(model)}
    assert shapes == {"k_proj": (24,), "v_proj": (24,), "down_proj": (72,)}
    with pytest.raises(ValueError, match=r"feedforward_targets \['mlp'\] are not among the targets \['k_proj'\]"):
        IA3Config(targets=("k_proj",), feedforward_targets=("mlp",))


def test_bitfit_gives_a_bias_to_a_layer_without_one() -> None:
    model = perturb(inject(network("bitfit", "dense"), METHODS["bitfit"]))
    assert model.second.base_layer.bias is None
    delta = model.second.bias_delta.detach().clone()
    merged = merge(model)
    assert torch.equal(merged.second.bias, delta)
    assert merged.second.bias.shape == (48,)


# ---------------------------------------------------------------------------------------------------------------- VeRA


@pytest.mark.parametrize("how", ["as it is", "to", "deepcopy", "pickle"])
def test_vera_has_one_pair_for_all_layers(how: str, tmp_path) -> None:
    model = inject(decoders()[0], VeRAConfig(rank=16))
    model = {
        "as it is": lambda: model,
        "to": lambda: model.to(torch.float64),
        "deepcopy": lambda: copy.deepcopy(model),
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
    }[how]()
    layers = [layer for _, layer in named_adapters(model)]
    assert len(layers) == 14
    assert len({id(layer.vera_A) for layer in layers}) == len({id(layer.vera_B) for layer in layers}) == 1
    assert layers[0].vera_A.shape == (16, 72)  # as wide as the widest input
    assert layers[0].vera_B.shape == (72, 16)
    save_adapter(model, VeRAConfig(rank=16), tmp_path)
    stored = sum(tensor.numel() for tensor in peft_lessons.checkpoints.files.read_adapter(tmp_path).tensors.values())
    assert stored == trained(model) + 2 * 16 * 72


def test_vera_draws_the_same_pair_as_peft() -> None:
    model, base = decoders()
    ours = next(named_adapters(inject(model, VeRAConfig(rank=16, seed=5))))[1]
    theirs = peft.get_peft_model(
        base, peft.VeraConfig(r=16, target_modules=list(VeRAConfig().targets), projection_prng_key=5)
    ).base_model
    assert torch.equal(ours.vera_A, theirs.vera_A["default"])
    assert torch.equal(ours.vera_B, theirs.vera_B["default"])


# ------------------------------------------------------------------------------------------------------------- AdaLoRA


def test_adalora_budget_is_pefts_and_ends_at_the_target() -> None:
    config = AdaLoRAConfig(rank=6, target_rank=2, total_steps=40, warmup_steps=5, final_steps=8)
    theirs = peft.AdaLoraConfig(
        init_r=6, target_r=2, total_step=40, tinit=5, tfinal=8, target_modules=list(config.targets)
    )
    allocator = peft.get_peft_model(decoders()[1], theirs).base_model.rankallocator
    budgets = [config.budget(step, layers=14) for step in range(1, 41)]
    assert budgets == [allocator.budget_schedule(step)[0] for step in range(1, 41)]
    assert budgets[:5] == [6 * 14] * 5
    assert budgets[-8:] == [2 * 14] * 8
    assert sorted(budgets, reverse=True) == budgets


@pytest.mark.slow
@pytest.mark.parametrize("interval", [1, 3])
def test_adalora_cuts_the_triplets_that_peft_cuts(interval: int) -> None:
    """The same weights and the same data, forty steps: the same singular values are zero after each."""
    ours, base = decoders()
    settings = {"total_step": 40, "tinit": 5, "tfinal": 8, "deltaT": interval, "beta1": 0.8, "beta2": 0.9}
    names = list(AdaLoRAConfig().targets)
    theirs = peft.get_peft_model(
        base, peft.AdaLoraConfig(init_r=4, target_r=2, lora_alpha=12, target_modules=names, **settings)
    ).base_model
    config = AdaLoRAConfig(
        rank=4, target_rank=2, alpha=12, total_steps=40, warmup_steps=5, final_steps=8, interval=interval,
        sensitivity_decay=0.8, uncertainty_decay=0.9,
    )  # fmt: skip
    inject(ours, config)
    twins = [(layer, theirs.model.get_submodule(name)) for name, layer in named_adapters(ours)]
    for layer, twin in twins:
        for name in ("lora_A", "lora_B", "lora_E"):
            getattr(layer, name).data.copy_(getattr(twin, name)["default"])
    allocator, ranks = RankAllocator(ours), []
    models = (
        (ours, torch.optim.SGD(trainable_parameters(ours), lr=0.5)),
        (theirs, torch.optim.SGD([p for p in theirs.parameters() if p.requires_grad], lr=0.5)),
    )
    for step in range(1, 41):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(61, (4, 8), generator=generator)
        for model, optimizer in models:
            optimizer.zero_grad()
            output = model(ids)
            logits = output if isinstance(output, torch.Tensor) else output.logits
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()
        allocator.step(step)
        theirs.update_and_allocate(step)
        ranks.append(sum(allocator.ranks))
        for layer, twin in twins:
            assert torch.equal(layer.lora_E == 0, twin.lora_E["default"] == 0), step
    assert ranks[4] == 4 * 14
    assert ranks[-1] == 2 * 14


def test_adalora_penalty_is_the_papers() -> None:
    layer = perturb(inject(nn.Sequential(wide_layer()), AdaLoRAConfig(rank=3, target_rank=2, targets=("0",))))[0]
    P, Q = layer.lora_B.detach(), layer.lora_A.detach()
    expected = sum((one - torch.eye(3)).norm() ** 2 for one in (P.T @ P, Q @ Q.T))
    torch.testing.assert_close(layer.orthogonality_penalty().detach(), expected)
    U, _, Vh = torch.linalg.svd(torch.randn(64, 96), full_matrices=False)
    layer.lora_B.data, layer.lora_A.data = U[:, :3], Vh[:3]
    assert layer.orthogonality_penalty() < 1e-9


def test_adalora_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="the model has no AdaLoRA layers"):
        RankAllocator(inject(network("lora", "dense"), METHODS["lora"]))
    with pytest.raises(ValueError, match="no gradients to judge ranks by"):
        RankAllocator(inject(network("adalora", "dense"), METHODS["adalora"])).step(1)


# ------------------------------------------------------------------------------------------ bottlenecks, norms, prompts


@pytest.mark.parametrize("kind", ["serial", "parallel"])
def test_bottlenecks_compute_their_formula(kind: str) -> None:
    config = (SerialAdapterConfig if kind == "serial" else ParallelAdapterConfig)(bottleneck=3, targets=("mlp",))
    model = perturb(inject(decoders()[0], config))
    layer = model.model.layers[0].mlp
    x = torch.randn(2, 5, 48)
    f = layer.base_layer(x)
    D, c, U, e = layer.down_weight, layer.down_bias, layer.up_weight, layer.up_bias
    expected = f + (F.relu(f @ D.T + c) @ U.T + e if kind == "serial" else 4 * (F.relu(x @ D.T + c) @ U.T + e))
    torch.testing.assert_close(layer(x), expected)


def test_a_bottleneck_needs_a_width() -> None:
    with pytest.raises(
        TypeError, match="norm: a bottleneck needs a linear layer, or a module with some; got LayerNorm"
    ):
        inject(network("serial", "dense"), SerialAdapterConfig(targets=("norm",)))


def test_only_norms_are_tuned_as_norms() -> None:
    with pytest.raises(TypeError, match="first: LayerNormTuning trains the vectors of a norm, got Linear"):
        inject(network("lora", "dense"), LayerNormTuningConfig(targets=("first",)))


@pytest.mark.parametrize(
    "config", [PromptTuningConfig(tokens=4), PrefixTuningConfig(tokens=4)], ids=["prompt", "prefix"]
)
class TestPrompts:
    @pytest.fixture
    def model(self, config: AdapterConfig) -> Decoder:
        return perturb(inject(decoders()[0], config)).eval()

    @pytest.fixture
    def ids(self) -> torch.Tensor:
        return torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(4))

    def test_starts_as_if_words_stood_before(self, config: AdapterConfig, ids: torch.Tensor) -> None:
        """The words are drawn anew with the same seed."""
        base, _ = decoders()
        torch.manual_seed(7)
        words = torch.randint(61, (1, 4)).expand(2, -1)
        model, _ = decoders()
        torch.manual_seed(7)
        adapted = inject(model, config)
        expected = base(torch.cat((words, ids), dim=1))[:, 4:]
        torch.testing.assert_close(adapted(ids), expected, rtol=0, atol=1e-5)

    def test_generation_with_a_cache_is_that_without(self, model: Decoder, ids: torch.Tensor) -> None:
        written = generate(model, ids, 6)
        for _ in range(6):
            ids = torch.cat((ids, model(ids)[:, -1:].argmax(-1)), dim=1)
        assert torch.equal(written, ids[:, -6:])

    def test_a_padded_row_is_what_it_is_alone(self, model: Decoder, ids: torch.Tensor) -> None:
        """Padding lies between the prompt and the text, and yet moves nothing: positions count what is seen."""
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        with torch.no_grad():
            padded, alone = model(ids, attention_mask=mask), model(ids[:1, 3:])
            torch.testing.assert_close(padded[:1, 3:], alone, rtol=0, atol=1e-5)
            torch.testing.assert_close(padded[1:], model(ids[1:]), rtol=0, atol=1e-5)
            other = ids.clone()
            other[0, :3] = 5
            assert torch.equal(padded[:, 3:], model(other, attention_mask=mask)[:, 3:])

    def test_a_padded_row_goes_on_in_a_cache(self, model: Decoder, ids: torch.Tensor) -> None:
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        cache = KeyValueCache()
        with torch.no_grad():
            pieces = [model(ids[:, :5], mask[:, :5], cache), model(ids[:, 5:7], mask[:, :7], cache)]
            pieces += [model(ids[:, 7:8], mask[:, :8], cache), model(ids[:, 8:], mask, cache)]
            torch.testing.assert_close(torch.cat(pieces, 1)[:1, 3:], model(ids[:1, 3:]), rtol=0, atol=1e-5)

    def test_a_mask_without_padding_hides_nothing(self, model: Decoder, ids: torch.Tensor) -> None:
        with torch.no_grad():
            torch.testing.assert_close(model(ids, attention_mask=torch.ones_like(ids)), model(ids), rtol=0, atol=1e-5)

    def test_it_can_be_learnt(self, model: Decoder, ids: torch.Tensor) -> None:
        optimizer = torch.optim.Adam(trainable_parameters(model), lr=0.05)
        losses = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    def test_it_wants_a_decoder(self, config: AdapterConfig) -> None:
        with pytest.raises(TypeError, match="adapts the DecoderStack of a Decoder, its `model`; got Linear"):
            inject(nn.ModuleDict({"model": wide_layer()}), config)

    def test_the_context_still_ends(self, model: Decoder) -> None:
        with pytest.raises(ValueError, match="65 tokens; this model takes at most 64"):
            model(torch.zeros(1, 61, dtype=torch.long))


# ----------------------------------------------------------------------------------------------------------- contrasts


def test_full_fine_tuning_trains_everything() -> None:
    model = full_fine_tuning(inject(decoders()[0], LoRAConfig()).requires_grad_(False))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_alone() -> None:
    model, _ = decoders()
    x = torch.randint(61, (2, 5))
    before, table = model(x), model.model.embed_tokens.weight.clone()
    head_only(model)
    assert torch.equal(model(x), before)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]
    model(x).square().sum().backward()
    torch.optim.SGD(trainable_parameters(model), lr=0.1).step()
    assert torch.equal(model.model.embed_tokens.weight, table), "the tied embedding trained with the head"
    assert trained(model) == 61 * 48


def test_the_last_layers() -> None:
    model = last_layers(Decoder(DECODER), 1)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert names
    assert all(name.startswith("model.layers.1.") for name in names)
    assert trained(model) == sum(p.numel() for p in model.model.layers[1].parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: last_layers(model, 3), "'model.layers' holds 2 blocks; asked to train the last 3"),
        (lambda model: last_layers(model, 0), "count must be at least 1, got 0"),
        (
            lambda model: last_layers(model, 1, "blocks"),
            "the model has no 'blocks'; it has 'model', 'model.embed_tokens'",
        ),
        (lambda model: last_layers(model, 1, "model"), "'model' is a DecoderStack, not a list of blocks"),
        (lambda model: head_only(model, "classifier"), "the model has no 'classifier'; it has 'model'"),
    ],
)
def test_contrasts_say_what_there_is(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(Decoder(DECODER))


# -------------------------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize(("config", "settings", "error", "message"), REFUSED)
def test_configs_refuse(config, settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        config(**settings)


@pytest.mark.parametrize("method", ["lora", "loha", "adalora", "dora", "pissa", "loftq"])
def test_a_rank_that_no_matrix_has(method: str) -> None:
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"first: rank 34 is above min\(in, out\) = 33"):
        inject(network(method, "dense"), replace(METHODS[method], rank=34))


def test_integer_bases_take_every_method_too() -> None:
    """Three bits, blocks that straddle rows: a base that reads like a linear layer is enough."""
    for method in ("dora", "vera", "oft", "ia3"):
        model = quantize_model(network(method, "dense"), codebook=integer_codebook(3), block_size=32)
        x = sample(method)
        before = model(x)
        assert torch.equal(inject(model, METHODS[method])(x), before)
        assert adapter_state_dict(model)


def test_quantized_weights_are_not_trained_in_secret() -> None:
    for train_what in (full_fine_tuning, lambda model: last_layers(model, 1)):
        with pytest.raises(TypeError, match=r"quantized weights do not train, and \S+q_proj is: inject an adapter"):
            train_what(quantize_model(Decoder(DECODER)))


def test_lora_plus_is_a_larger_alpha_under_adam() -> None:
    """Without ε and weight decay, twenty steps in float64: ratio 4 at α is ratio 1 at 4α."""
    updates = []
    for ratio, alpha in ((4.0, 6.0), (1.0, 24.0)):
        torch.manual_seed(0)
        model = inject(nn.Sequential(nn.Linear(12, 8).double()), LoRAConfig(rank=2, alpha=alpha, targets=("0",)))
        optimizer = torch.optim.Adam(lora_plus_groups(model, 1e-3, ratio), eps=1e-30)
        x = torch.randn(5, 12, dtype=torch.float64)
        for _ in range(20):
            optimizer.zero_grad()
            (model(x) - 1).square().sum().backward()
            optimizer.step()
        updates.append(model[0].delta().detach())
    torch.testing.assert_close(updates[0], updates[1], rtol=1e-9, atol=1e-12)
    assert updates[0].abs().max() > 1e-3


def test_dora_takes_a_row_of_zeros() -> None:
    base = wide_layer()
    base.weight.data[3] = 0
    x = torch.randn(5, 96)
    before = base(x)
    model = inject(nn.Sequential(base), DoRAConfig(rank=4, targets=("0",)))
    assert torch.equal(model(x), before)
    assert model[0].merged().weight.isfinite().all()


def test_a_serial_adapter_after_attention() -> None:
    model = inject(decoders()[0], SerialAdapterConfig(bottleneck=3, targets=("self_attn",)))
    ids = torch.randint(61, (2, 5))
    assert torch.equal(model(ids), decoders()[0](ids))


def test_an_allocator_cannot_begin_at_the_end() -> None:
    config = AdaLoRAConfig(rank=4, target_rank=2, total_steps=20, final_steps=5, targets=("0",))
    model = perturb(inject(nn.Sequential(wide_layer()), config))
    with pytest.raises(ValueError, match="nothing was measured yet"):
        RankAllocator(model).step(18)
    assert int(model[0].lora_E.count_nonzero()) == 4
