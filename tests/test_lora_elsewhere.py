"""LoRA and DoRA on embeddings and convolutions: against peft, against its own merged layer, and what is refused."""

import copy

import peft
import pytest
import torch
from contract import perturb
from parity import named_gradients, perturb_either
from torch import nn

from peft_lessons import (
    BiasedLoRAConfig,
    DoRAConfig,
    IA3Config,
    LoHaConfig,
    LoRAConfig,
    LoRAConv,
    LoRAEmbedding,
    adapter_state_dict,
    adapters_disabled,
    inject,
    load_adapter,
    merge,
    save_adapter,
    trainable_parameters,
)
from peft_lessons.adapters import named_adapters

LAYERS = {
    "embedding": lambda: nn.Embedding(20, 12),
    "padded embedding": lambda: nn.Embedding(20, 12, padding_idx=3),
    "conv1d": lambda: nn.Conv1d(6, 8, 3),
    "conv2d": lambda: nn.Conv2d(6, 8, (3, 2), stride=2, padding=(1, 0), bias=False),
    "conv2d of one place": lambda: nn.Conv2d(6, 8, 1),
    "patches": lambda: nn.Conv2d(6, 8, 2, stride=2),
    "same": lambda: nn.Conv2d(6, 8, 3, padding="same"),
    "conv3d": lambda: nn.Conv3d(6, 8, 2),
    "groups": lambda: nn.Conv2d(6, 8, 3, groups=2, padding=1),
    "groups of one dimension": lambda: nn.Conv1d(6, 6, 3, groups=2),
}
OF_OUR_OWN = {  # peft makes A without dilation, and pads it with zeros
    "dilated": lambda: nn.Conv2d(6, 8, 2, dilation=2),
    "circular": lambda: nn.Conv1d(6, 8, 3, padding=1, padding_mode="circular"),
}
EVERY = {**LAYERS, **OF_OUR_OWN}
GROUPED = ("groups", "groups of one dimension")
OPTIONS = {"rank": 4, "alpha": 12, "targets": ("layer",)}
CONFIG = LoRAConfig(**OPTIONS)
VARIANTS = {"lora": CONFIG, "dora": DoRAConfig(**OPTIONS), "bias": BiasedLoRAConfig(**OPTIONS)}
THERE = {"lora": {}, "dora": {"use_dora": True}, "bias": {"lora_bias": True}}


def pairs(layers: dict, grouped: bool = True) -> list[tuple[str, str]]:
    """Each variant on each layer that it can adapt."""
    refused = {("dora", name) for name in GROUPED} | {("bias", name) for name in layers if "embedding" in name}
    return [
        (variant, name)
        for variant in VARIANTS
        for name in layers
        if (variant, name) not in refused and (grouped or name not in GROUPED)
    ]


def model(name: str, dtype: torch.dtype = torch.float32) -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"layer": EVERY[name]()}).to(dtype)


class Caller(nn.Module):
    """A model with a forward, which peft needs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = model(name)["layer"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def inputs(name: str, dtype: torch.dtype = torch.float32, batch: tuple[int, ...] = (5,)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    if "embedding" in name:
        return torch.randint(20, (*batch, 7), generator=generator)
    dimensions = EVERY[name]().weight.ndim - 2
    return torch.randn(*batch, 6, *([6] * dimensions), generator=generator).to(dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, bound: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound * expected.abs().max().item())


WITH_DROPOUT = [  # of DoRA, peft's dropout reaches the base's product, too
    (*pair, dropout) for dropout in (0.0, 0.5) for pair in pairs(LAYERS) if pair[0] != "dora" or not dropout
]


@pytest.mark.parametrize(("variant", "name", "dropout"), WITH_DROPOUT)
def test_outputs_gradients_and_files_are_those_of_peft(variant: str, name: str, dropout: float, tmp_path) -> None:
    config = peft.LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules=["layer"], **THERE[variant])
    reference = peft.get_peft_model(Caller(name), config)
    perturb_either(reference)
    reference.save_pretrained(tmp_path / "theirs")
    mine, x = load_adapter(Caller(name), tmp_path / "theirs"), inputs(name)
    results = []
    for one in (mine.train(), reference.train()):
        torch.manual_seed(3)  # of dropout
        y = one(x)
        y.square().mean().backward()
        results.append(y)
    close(*results, 1e-6)
    gradients = named_gradients(reference)
    for key, parameter in mine.layer.named_parameters():
        if parameter.requires_grad:
            ending = {"magnitude": "lora_magnitude_vector", "lora_B_bias": "lora_B.bias"}.get(key)
            ending = ending or (key if "embedding" in key else f"{key}.weight")
            close(parameter.grad, gradients.pop(f"base_model.model.layer.{ending}"), 1e-5)
    assert not gradients
    save_adapter(mine.eval(), next(named_adapters(mine))[1].config, tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(Caller(name), tmp_path / "ours").eval()
    expected = reference.eval()(x)
    close(again(x), expected, 1e-6)
    if name in GROUPED or (variant == "bias" and mine.layer.base_layer.bias is None):
        return  # peft does not fold these
    merged, theirs = merge(mine).state_dict(), reference.merge_and_unload().state_dict()
    assert merged.keys() == theirs.keys()
    for key, tensor in theirs.items():
        close(merged[key], tensor, 2e-6)


@pytest.mark.parametrize(("variant", "name"), pairs(EVERY))
def test_it_starts_as_its_base(variant: str, name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        base, x = model(name, dtype), inputs(name, dtype)
        before = base["layer"](x)
        with torch.autocast("cpu", torch.bfloat16):
            under_autocast = base["layer"](x)
            adapted = inject(base, VARIANTS[variant])["layer"]
        assert isinstance(adapted, LoRAEmbedding if "embedding" in name else LoRAConv)
        assert torch.equal(adapted(x), before) and adapted(x).dtype == dtype
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(adapted(x), under_autocast) and adapted(x).dtype == under_autocast.dtype
        assert {parameter.dtype for parameter in trainable_parameters(base)} == {torch.float32}


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.02)], ids=str
)
@pytest.mark.parametrize(("variant", "name"), pairs(EVERY, grouped=False))
def test_merged_equals_forward(variant: str, name: str, dtype: torch.dtype, bound: float) -> None:
    adapted = perturb(inject(model(name, dtype), VARIANTS[variant]))
    plain, layer = model(name, dtype)["layer"], adapted["layer"]
    for batch in ((5,), ()):  # convolutions take a sample without a batch, too
        x = inputs(name, dtype, batch)
        expected = layer(x)
        with torch.autocast("cpu", torch.bfloat16):
            merged = merge(copy.deepcopy(adapted))["layer"]
        close(merged(x), expected, bound)
        with adapters_disabled(adapted):
            assert torch.equal(layer(x), plain(x))
    assert type(merged) is type(plain)
    assert variant == "bias" or repr(merged) == repr(plain), "a bias may be new"
    assert merged.weight.dtype == dtype and not any(p.requires_grad for p in merged.parameters())
    assert torch.equal(layer.weight, merged.weight) and layer.weight.requires_grad
    assert torch.equal(layer.base_layer.weight, plain.weight)


@pytest.mark.parametrize(("variant", "name"), [pair for pair in pairs(EVERY) if pair[0] != "dora"])
def test_gradients_in_float64(variant: str, name: str) -> None:
    """DoRA holds a norm constant, which differences do not see: peft is its oracle above."""
    adapted, x = perturb(inject(model(name, torch.float64), VARIANTS[variant])), inputs(name, torch.float64, (2,))
    names, parameters = zip(*adapter_state_dict(adapted).items(), strict=True)

    def outputs(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(
            adapted["layer"], dict(zip((n[6:] for n in names), values, strict=True)), (x,)
        )

    parameters = [parameter.detach().requires_grad_() for parameter in parameters]
    padded = name == "padded embedding"  # whose column is held constant, which differences do not see
    assert padded or torch.autograd.gradcheck(outputs, parameters, fast_mode=True)


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_each_module_has_its_own_rank_and_alpha(variant: str) -> None:
    base = nn.ModuleDict({"conv": model("conv2d")["layer"], "words": model("embedding")["layer"]})
    options = {"rank": 2, "alpha": 6, "rank_pattern": {"words": 3}, "alpha_pattern": {"conv": 5}}
    inject(base, type(VARIANTS[variant])(targets=("conv", "words"), **options))
    assert base["conv"].lora_A.shape == (2, 6, 3, 2) and base["conv"].config.scaling == 5 / 2
    assert base["words"].lora_embedding_A.shape == (3, 20) and base["words"].config.scaling == 6 / 3


def test_padding_learns_nothing() -> None:
    adapted = perturb(inject(model("padded embedding"), CONFIG))
    adapted["layer"](torch.tensor([[3, 4]])).sum().backward()
    gradient = adapted["layer"].lora_embedding_A.grad
    assert not gradient[:, 3].any() and gradient[:, 4].any()


def test_a_tied_head_keeps_its_weight() -> None:
    base = nn.ModuleDict({"layer": nn.Embedding(20, 12), "head": nn.Linear(12, 20, bias=False)})
    base["head"].weight = base["layer"].weight
    table = base["head"].weight.clone()
    merge(perturb(inject(base, CONFIG)))
    assert torch.equal(base["head"].weight, table) and not torch.equal(base["layer"].weight, table)


class Scaled(nn.Embedding):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return 3 * super().forward(ids)


class Halved(nn.Conv1d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


def test_what_all_channels_meet_in_is_not_folded() -> None:
    adapted = perturb(inject(model("groups"), CONFIG))
    layer = adapted["layer"]
    with pytest.raises(TypeError, match="layer: the update of a convolution with groups=2 reads all channels"):
        merge(adapted)
    assert adapted["layer"] is layer


@pytest.mark.parametrize(
    ("layer", "config", "error", "message"),
    [
        (Scaled(20, 12), CONFIG, TypeError, "layer: LoRAEmbedding adapts .*, got Scaled"),
        (nn.Embedding(20, 12, max_norm=1.0), CONFIG, TypeError, "without max_norm, got Embedding with max_norm=1.0"),
        (nn.Conv2d(9, 9, 3, groups=3), CONFIG, ValueError, "layer: rank 4 must be a multiple of .* groups=3"),
        (nn.Conv2d(8, 8, 3, groups=2), VARIANTS["dora"], TypeError, "layer: the update .* groups=2 reads all channels"),
        (nn.LazyConv2d(8, 3), LoHaConfig(**OPTIONS), TypeError, "layer: LazyConv2d has no weight yet: run the model"),
        (Halved(6, 8, 3), CONFIG, TypeError, "layer: LoRAConv adapts .*, got Halved"),
        (Halved(6, 8, 3), LoHaConfig(**OPTIONS), TypeError, "layer: LoHaConv adapts .*, got Halved"),
        (Halved(6, 8, 3), IA3Config(targets=("layer",), feedforward_targets=()), TypeError, "IA3Conv .*, got Halved"),
        (nn.Embedding(20, 3), CONFIG, ValueError, r"layer: rank 4 is above min\(in, out\) = 3"),
        (nn.Conv1d(1, 8, 3), CONFIG, ValueError, r"layer: rank 4 is above min\(in, out\) = 3"),
        (nn.Embedding(20, 12), VARIANTS["bias"], TypeError, "BiasedLoRALinear adapts linear layers, got Embedding"),
        (nn.ConvTranspose2d(8, 8, 3), CONFIG, TypeError, "LoRALinear adapts linear layers, got ConvTranspose2d"),
    ],
)
def test_what_is_refused(layer: nn.Module, config: LoRAConfig, error: type[Exception], message: str) -> None:
    base = nn.ModuleDict({"layer": layer})
    with pytest.raises(error, match=message):
        inject(base, config)
    assert base["layer"] is layer
