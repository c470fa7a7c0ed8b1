"""Which modules a config means, beside peft as the oracle, and what is refused."""

import copy
import re
import warnings

import peft
import pytest
import torch
from parity import decoders, inputs, outputs, perturb_either
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from peft_lessons import (
    ALL_LINEAR,
    IA3Config,
    LoHaConfig,
    LoRAConfig,
    LoRALinear,
    SeveralConfig,
    VeRAConfig,
    adapters_disabled,
    inject,
    load_adapter,
    load_adapters,
    merge,
    save_adapter,
    using,
)
from peft_lessons.adapters import TrainedWhole, named_adapters
from peft_lessons.checkpoints.files import read_config
from peft_lessons.targets import own_names

QV = ["q_proj", "v_proj"]
SETTINGS = {
    "names": {"target_modules": QV},
    "whole names": {"target_modules": ["model.layers.1.mlp.up_proj", "model.layers.0.self_attn.q_proj"]},
    "a regular expression": {"target_modules": r".*layers\.1\.(self_attn|mlp)\.(q|up)_proj"},
    "what a fine-tuning tool writes": {
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)|"
        r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|mlp)\.(?:(?:q_proj|v_proj|up_proj)))"
    },
    "a name alone is a whole one": {"target_modules": "lm_head"},
    "all-linear": {"target_modules": "all-linear"},
    "ALL-LINEAR": {"target_modules": "ALL-LINEAR"},
    "exclude": {"target_modules": QV, "exclude_modules": ["layers.0.self_attn.q_proj"]},
    "exclude by a regular expression": {"target_modules": QV, "exclude_modules": r"model\.layers\.0\..*"},
    "exclude from all-linear": {"target_modules": "all-linear", "exclude_modules": ["q_proj", "down_proj"]},
    "a layer": {"target_modules": QV, "layers_to_transform": 1},
    "layers": {"target_modules": QV, "layers_to_transform": [0, 1]},
    "a layer of a list": {"target_modules": QV, "layers_to_transform": [1], "layers_pattern": "layers"},
    "a layer of lists": {"target_modules": QV, "layers_to_transform": [0], "layers_pattern": ["blocks", "layers"]},
    "a whole name beside layers": {"target_modules": ["lm_head", "q_proj"], "layers_to_transform": [1]},
    "ranks": {"target_modules": QV, "rank_pattern": {"v_proj": 2, "q_proj": 6}},
    "ranks by regular expressions": {"target_modules": QV, "rank_pattern": {r"layers\.\d+\.self_attn\.v_proj": 2}},
    "the first rank counts": {"target_modules": QV, "rank_pattern": {"layers.0.self_attn.q_proj": 2, "q_proj": 6}},
    "alphas": {"target_modules": QV, "alpha_pattern": {"v_proj": 2, "layers.1.self_attn.q_proj": 0.5}},
    "ranks and alphas": {
        "target_modules": "all-linear",
        "rank_pattern": {"q_proj": 2, "down_proj": 7},
        "alpha_pattern": {"q_proj": 5},
        "use_rslora": True,
    },
    "DoRA with ranks": {"target_modules": QV, "use_dora": True, "rank_pattern": {"v_proj": 2}},
    "a head that trains": {"target_modules": QV, "modules_to_save": ["lm_head"]},
    "embedding and head": {"target_modules": "all-linear", "modules_to_save": ["lm_head", "embed_tokens"]},
    "a block that trains": {"target_modules": [*QV, "up_proj"], "modules_to_save": ["mlp"]},
}


def theirs(settings: dict, folder, dtype: torch.dtype = torch.float32) -> peft.PeftModel:
    """Peft's model with random adapters of rank 4, saved to `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = peft.LoraConfig(r=4, lora_alpha=12, **copy.deepcopy(settings))
        model = peft.get_peft_model(decoders(dtype)[1], config, autocast_adapter_dtype=False).eval()
        perturb_either(model)
        model.save_pretrained(folder)
    return model


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Float32 through two blocks, in another order: relative to the largest entry."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_we_mean_what_peft_means(settings: dict, tmp_path) -> None:
    """The same modules with the same ranks and scalings, and the same numbers, there and back."""
    reference, ids = theirs(settings, tmp_path / "theirs"), inputs("decoder")
    mine = load_adapter(decoders()[0], tmp_path / "theirs").eval()
    expected = {
        name.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for name, module in reference.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    adapters = dict(named_adapters(mine))
    found = {n: (one.config.rank, one.scaling) for n, one in adapters.items() if isinstance(one, LoRALinear)}
    assert found == expected
    whole = [name for name, layer in adapters.items() if isinstance(layer, TrainedWhole)]
    assert sorted(name.split(".")[-1] for name in whole) == sorted(
        name.split(".")[-1] for name in settings.get("modules_to_save", []) for _ in range(2 if name == "mlp" else 1)
    )
    close(outputs(mine, ids), outputs(reference, ids))
    save_adapter(mine, read_config(tmp_path / "theirs"), tmp_path / "ours")
    again = peft.PeftModel.from_pretrained(decoders()[1], tmp_path / "ours").eval()
    close(outputs(again, ids), outputs(mine, ids))


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in named_adapters(model)]


def test_patterns_are_compiled_or_named() -> None:
    """A string is refused, since peft reads one as a regular expression and others as a name."""
    model = inject(decoders()[0], LoRAConfig(rank=2, targets=re.compile(r".*\.1\..*\.[qv]_proj")))
    assert names(model) == [f"model.layers.1.self_attn.{name}" for name in QV]
    model = inject(decoders()[0], LoRAConfig(rank=2, targets=ALL_LINEAR, exclude=("mlp.down_proj",)))
    assert len(names(model)) == 12
    with pytest.raises(TypeError, match=r"exclude is a tuple of names, such as \('q_proj',\); .*re\.compile"):
        LoRAConfig(exclude="q_proj")
    with pytest.raises(TypeError, match=r"modules_to_save is a tuple of names, such as \('score',\); got the string"):
        LoRAConfig(modules_to_save="score")


REFUSED = {
    "a layer that is not there": (
        {"layers": (0, 5)},
        r"no target lies in layers \[5\]; they lie in \[0, 1\]",
    ),
    "a pattern that fits nothing": (
        {"targets": re.compile("q_proj")},
        r"the regular expression 'q_proj' matches no module's whole name; this model has 'model\.layers\.0\.self_attn",
    ),
    "all taken out": ({"targets": ("q_proj",), "exclude": ("q_proj",)}, "nothing is left to adapt: 'model.layers.0"),
    "a module to save that is not there": ({"modules_to_save": ("score",)}, "no module ends with 'score'; this model"),
    "a rank for nothing": ({"rank_pattern": {"w_proj": 2}}, "rank_pattern names 'w_proj', which is none of model"),
    "an alpha for what is not adapted": ({"alpha_pattern": {"lm_head": 2}}, "alpha_pattern names 'lm_head', which is"),
    "a rank above the matrix": ({"rank_pattern": {"k_proj": 25}}, r"k_proj: rank 25 is above min\(in, out\) = 24"),
    "a whole module inside of another": ({"modules_to_save": ("mlp", "up_proj")}, "lies inside of .*mlp, and both"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_adapts_nothing_is_an_error(change: dict, message: str) -> None:
    model = decoders()[0]
    before = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        inject(model, LoRAConfig(**{"rank": 2, **change}))
    assert dict(model.named_modules()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"layers": ("1",)}, TypeError, "layers holds whole numbers, got '1'"),
        ({"layers": 1}, TypeError, "layers is a tuple of whole numbers, got 1"),
        ({"targets": None}, TypeError, "targets is a tuple of names, got None"),
        ({"trainable_tokens": [1, 2]}, TypeError, r"trainable_tokens maps embeddings to their rows, .*; got \[1, 2\]"),
        ({"trainable_tokens": {"embed_tokens": ("a",)}}, TypeError, "trainable_tokens holds whole numbers, got 'a'"),
        ({"targets": ("q_proj", 3)}, TypeError, "targets holds names, got 3"),
        ({"layers": (1,), "targets": ALL_LINEAR}, ValueError, r"goes with a tuple of names as targets; got AllLinear"),
        ({"layers_pattern": ("h",)}, ValueError, r"layers_pattern \('h',\) says where numbers stand, but layers"),
        ({"rank_pattern": {"q_proj": 0}}, ValueError, r"rank_pattern\['q_proj'\] must be at least 1, got 0"),
        ({"alpha_pattern": {"q_proj": -1}}, ValueError, r"alpha_pattern\['q_proj'\] must be positive"),
        ({"rank_pattern": {"(": 2}}, ValueError, r"rank_pattern names '\(', which is no regular expression"),
        ({"rank_pattern": 5}, TypeError, r"rank_pattern maps names to numbers, such as \{'q_proj': 4\}; got 5"),
    ],
)
def test_a_config_refuses(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        LoRAConfig(**change)


def test_configs_with_patterns_are_values() -> None:
    config = LoRAConfig(targets=re.compile("a"), rank_pattern={"a": 2}, alpha_pattern={"a": 3.0}, exclude=("b",))
    same = copy.deepcopy(config)
    assert (config, hash(config)) == (same, hash(same))
    assert config.at("x.a") == LoRAConfig(**{**vars(config), "rank": 2, "alpha": 3.0})
    assert config.at("x.a").scaling == 1.5
    assert config.at("b") is config


def test_the_head_alone_is_left_out_of_all_linear() -> None:
    """Without a head, all: and never the projection that attention does not call."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.first, self.last = nn.MultiheadAttention(4, 2), nn.Linear(4, 4), nn.Linear(4, 4)

    assert names(inject(Model(), LoRAConfig(rank=1, targets=ALL_LINEAR))) == ["first", "last"]
    model = Model()
    model.get_output_embeddings = lambda: model.last  # what transformers calls it
    assert names(inject(model, LoRAConfig(rank=1, targets=ALL_LINEAR))) == ["first"]


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(targets=re.compile(r".*_proj"), feedforward_targets=re.compile(r".*\.down_proj")),
        LoHaConfig(rank=2, targets=("q_proj", "v_proj"), rank_pattern={"v_proj": 3}, layers=(1,)),
        VeRAConfig(rank=4, targets=ALL_LINEAR, modules_to_save=("lm_head",)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_other_methods_have_places_too(config, tmp_path) -> None:
    model, ids = inject(decoders()[0], config), inputs("decoder")
    perturb_either(model)
    save_adapter(model, config, tmp_path)
    loaded = load_adapter(decoders()[0], tmp_path)
    assert {layer.config for _, layer in named_adapters(loaded)} == {layer.config for _, layer in named_adapters(model)}
    assert torch.equal(loaded(ids), model(ids))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = peft.PeftModel.from_pretrained(decoders()[1], tmp_path).eval()
    close(outputs(reference, ids), outputs(model, ids))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (IA3Config(layers=(1,)), r"files of the type IA3 cannot say layers=\(1,\): say it in targets"),
        (VeRAConfig(rank=4, exclude=("q_proj",)), r"files of the type VERA cannot say exclude=\('q_proj',\)"),
    ],
)
def test_what_a_file_cannot_say_is_refused(config, said: str, tmp_path) -> None:
    with pytest.raises(ValueError, match=said):
        save_adapter(inject(decoders()[0], config), config, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_several_adapters_each_have_their_places(tmp_path) -> None:
    ids, folders = inputs("decoder"), {}
    configs = {
        "red": LoRAConfig(rank=2, targets=ALL_LINEAR, modules_to_save=("lm_head",), rank_pattern={"q_proj": 3}),
        "blue": LoRAConfig(rank=3, targets=re.compile(r".*\.1\..*\.[qv]_proj")),
    }
    for name, config in configs.items():
        model = inject(decoders()[0], config)
        perturb_either(model)
        folders[name] = save_adapter(model, config, tmp_path / name)
    both = load_adapters(decoders()[0], folders)
    for name, folder in folders.items():
        with using(both, name):
            assert torch.equal(both(ids), load_adapter(decoders()[0], folder)(ids))
    assert isinstance(inject(decoders()[0], SeveralConfig(adapters=configs)), nn.Module)


# A module that trains whole.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_module_trains_whole(dtype: torch.dtype) -> None:
    """Equal to its base at first, trained beside it in fp32, foldable, and never written to the base."""
    model, ids = decoders(dtype)[0], inputs("decoder")
    before = model(ids)
    head = model.lm_head.weight.clone()
    inject(model, LoRAConfig(rank=2, modules_to_save=("lm_head", "norm")))
    assert torch.equal(model(ids), before)
    assert model.lm_head.trained.weight.dtype == torch.float32
    model(ids).float().square().mean().backward()
    assert model.lm_head.trained.weight.grad.abs().sum() > 0
    assert model.lm_head.base_layer.weight.grad is None
    perturb_either(model)
    changed = model(ids)
    assert changed.dtype == dtype
    assert not torch.allclose(changed, before, atol=1e-2)
    assert torch.equal(model.lm_head.weight, model.lm_head.trained.weight.to(dtype)), "the weight that computes"
    assert model.lm_head.weight.requires_grad, "what reads it trains it"
    assert model.lm_head.bias is None and model.lm_head.out_features == 61, "other attributes are the module's own"
    with adapters_disabled(model):
        assert torch.equal(model(ids), before)
        assert torch.equal(model.lm_head.weight, head)
    twin = copy.deepcopy(model)
    assert torch.equal(model.lm_head.base_layer.weight, head)
    merge(model)
    assert type(model.lm_head) is nn.Linear
    assert model.lm_head.weight.dtype == dtype
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.lm_head.weight, twin.lm_head.trained.weight.to(dtype)), "rounded once"
    assert torch.equal(twin(ids), changed)
    if dtype == torch.float32:  # in bf16, merging the LoRA layers rounds their weights
        close(model(ids), changed)


def test_tied_weights_train_apart() -> None:
    """As in peft: a head that trains leaves the embedding that it was tied to as it is."""
    model = decoders()[0]
    model.lm_head.weight = model.model.embed_tokens.weight
    table = model.model.embed_tokens.weight.clone()
    inject(model, LoRAConfig(rank=2, modules_to_save=("lm_head",)))
    perturb_either(model)
    assert torch.equal(model.model.embed_tokens.weight, table)
    merge(model)
    assert torch.equal(model.model.embed_tokens.weight, table)
    assert not torch.equal(model.lm_head.weight, table)


def test_codes_do_not_train_whole() -> None:
    from peft_lessons import quantize_model

    model = quantize_model(nn.ModuleDict({"q": nn.Linear(8, 8), "v": nn.Linear(8, 8)}), targets=("v",))
    with pytest.raises(TypeError, match="v: QuantizedLinear cannot train as a whole: it has quantized weights"):
        inject(model, LoRAConfig(rank=1, targets=("q",), modules_to_save=("v",)))


# Wrappers.


class Sharded(nn.Module):
    """Named like FSDP, which needs other processes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = model

    def forward(self, *inputs):
        return self._fsdp_wrapped_module(*inputs)


def wrapped(how: str, model: nn.Module) -> nn.Module:
    match how:
        case "compile":
            return torch.compile(model)
        case "blocks":
            for i, block in enumerate(model.model.layers):
                model.model.layers[i] = torch.compile(block)
            return model
        case "checkpointing":
            for i, block in enumerate(model.model.layers):
                model.model.layers[i] = checkpoint_wrapper(block)
            return model
        case "parallel":
            return nn.DataParallel(model)
        case "fsdp":
            return Sharded(model)
        case "both":
            return nn.DataParallel(torch.compile(model))
    raise KeyError(how)


WRAPPERS = ["fsdp", "compile", "blocks", "checkpointing", "parallel", "both"]


@pytest.mark.parametrize("how", WRAPPERS)
@pytest.mark.parametrize(
    "targets", [("layers.1.self_attn.q_proj",), re.compile(r"model\.layers\.1\.self_attn\.q_proj")]
)
def test_wrappers_leave_names_alone(how: str, targets, tmp_path) -> None:
    """Adapters before and after wrapping are saved under the names of the model itself, and load into either."""
    config = LoRAConfig(rank=2, targets=targets)
    plain = inject(decoders()[0], config)
    perturb_either(plain)
    expected = save_adapter(plain, config, tmp_path / "plain")
    for number, model in enumerate((wrapped(how, plain), load_adapter(wrapped(how, decoders()[0]), expected))):
        folder = save_adapter(model, config, tmp_path / str(number))
        for file in expected.iterdir():
            assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_module_may_be_called_module() -> None:
    model = nn.ModuleDict({"module": nn.ModuleDict({"q": nn.Linear(4, 4)})})
    assert [name for name, _ in own_names(model)] == ["", "module", "module.q"]
    assert [name for name, _ in own_names(nn.DataParallel(model))] == ["", "module", "module.q"]


def test_a_seed_starts_adapters_target_by_target() -> None:
    """The order in which they draw their random numbers: stored experiments depend on it."""
    model = nn.Sequential(
        nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}), nn.ModuleDict({"a": nn.Linear(4, 4)})
    )
    config = LoRAConfig(rank=2, targets=("b", "a"))
    assert list(config.modules(model).values()) == ["0.b", "0.a", "1.a"]
