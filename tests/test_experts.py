"""LoRA on stacks of experts, against Hugging Face peft on small random models of several families."""

import copy
import json
import pickle
import warnings
from functools import partial

import peft
import pytest
import torch
import transformers
from parity import named_gradients, perturb_either
from safetensors.torch import load_file
from torch import nn

from peft_lessons import (
    DoRAConfig,
    LoRAConfig,
    LoRAFAConfig,
    adapter_state_dict,
    adapters_disabled,
    add_adapter,
    concatenate,
    inject,
    load_adapter,
    load_adapters,
    merge,
    remove_adapters,
    save_adapter,
    save_named_adapter,
    trainable_parameters,
    using,
)
from peft_lessons.adapters import load_adapter_state_dict, named_adapters
from peft_lessons.checkpoints.files import read_adapter, read_config
from peft_lessons.checkpoints.weights import tensor_places
from peft_lessons.experts import LoRAExperts

COMMON = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = {
    "qwen3_moe": COMMON | {"moe_intermediate_size": 16, "num_experts": 5, "num_experts_per_tok": 2},
    "mixtral": COMMON | {"num_local_experts": 5, "num_experts_per_tok": 2},
    "gpt_oss": COMMON | {"num_local_experts": 5, "num_experts_per_tok": 2},  # (experts, in, out)
    "llama4_text": COMMON | {"num_local_experts": 5, "intermediate_size_mlp": 30},
}
STACKS = ("experts.gate_up_proj", "experts.down_proj")
IDS = torch.arange(14).view(2, 7) * 4

each_family = pytest.mark.parametrize("family", FAMILIES)


def moe(family: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    config = transformers.AutoConfig.for_model(family, **FAMILIES[family])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (0.3 * torch.randn(parameter.shape, generator=generator)).to(dtype)
    return model.to(dtype).eval()


def theirs(family: str, dtype: torch.dtype = torch.float32, **settings) -> peft.PeftModel:
    """Peft's model with random adapters."""
    settings = {"r": 3, "lora_alpha": 7, "target_modules": [], "target_parameters": list(STACKS)} | settings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(moe(family, dtype), peft.LoraConfig(**settings)).eval()
    perturb_either(model)
    return model


def close(actual: torch.Tensor, expected: torch.Tensor, bound: float = 5e-6) -> None:
    torch.testing.assert_close(actual.float(), expected.float(), rtol=0, atol=bound * expected.abs().max().item())


SETTINGS = {
    "both stacks": {},
    "one stack": {"target_parameters": ["experts.gate_up_proj"]},
    "with modules": {"target_modules": ["q_proj", "v_proj"]},
    "ranks": {"rank_pattern": {"experts.down_proj": 2}, "alpha_pattern": {"layers.1.mlp.experts.gate_up_proj": 5}},
    "stabilised": {"use_rslora": True},
    "router": {"target_parameters": ["mlp.gate.weight", "experts.down_proj"]},
    "layer 0": {"target_parameters": ["layers.0.mlp.experts.down_proj"]},
}
CASES = [*((family, "both stacks") for family in FAMILIES), *(("qwen3_moe", name) for name in list(SETTINGS)[1:])]
each_case = pytest.mark.parametrize(("family", "name"), CASES)


@each_case
def test_files_outputs_and_gradients(family: str, name: str, tmp_path) -> None:
    reference = theirs(family, **SETTINGS[name])
    reference.save_pretrained(tmp_path / "theirs")
    mine = load_adapter(moe(family), tmp_path / "theirs")
    expected = reference(IDS).logits
    assert (expected - moe(family)(IDS).logits).abs().max() > 0.02 * expected.abs().max()  # it does something
    close(mine(IDS).logits, expected)

    for model in (mine, reference):
        model(IDS).logits.square().mean().backward()
    gradients, layout = named_gradients(reference), read_adapter(tmp_path / "theirs").layout
    for place in tensor_places(list(named_adapters(mine)), layout):
        close(place.tensor.grad, gradients.pop(place.name), 5e-5)
    assert not gradients, "what else trains in peft"

    save_adapter(mine, read_config(tmp_path / "theirs"), tmp_path / "ours")
    first, second = (load_file(tmp_path / who / "adapter_model.safetensors") for who in ("theirs", "ours"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    again = peft.PeftModel.from_pretrained(moe(family), tmp_path / "ours")
    close(again(IDS).logits, expected)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merged_weights(family: str, name: str, dtype: torch.dtype, tmp_path) -> None:
    reference = theirs(family, dtype, **SETTINGS[name])
    reference.save_pretrained(tmp_path)
    mine = load_adapter(moe(family, dtype), tmp_path)
    adapted = mine(IDS).logits
    merge(mine)
    assert not list(named_adapters(mine))
    assert not trainable_parameters(mine)
    merged, expected = mine.state_dict(), reference.merge_and_unload().state_dict()
    assert merged.keys() == expected.keys()
    for key, tensor in merged.items():
        assert tensor.dtype == expected[key].dtype == dtype
        close(tensor, expected[key], 1e-6 if dtype == torch.float32 else 0.01)
    if dtype == torch.float32:
        close(mine(IDS).logits, adapted)


CONFIG = LoRAConfig(rank=3, alpha=7, targets=(), target_parameters=STACKS)


@each_family
def test_start_and_what_trains(family: str) -> None:
    model = inject(moe(family), CONFIG)
    base = moe(family)
    assert torch.equal(model(IDS).logits, base(IDS).logits)
    reference = peft.get_peft_model(
        moe(family), peft.LoraConfig(r=3, target_modules=[], target_parameters=list(STACKS))
    )
    trained = {name: tuple(p.shape) for name, p in adapter_state_dict(model).items()}
    assert sum(p.numel() for p in trainable_parameters(model)) == reference.get_nb_trainable_parameters()[0]
    assert sorted(trained.values()) == sorted(tuple(p.shape) for p in reference.parameters() if p.requires_grad)
    assert not any("gate." in name or "router" in name for name in trained), "the router trains"
    for name, parameter in remove_adapters(model).named_parameters():
        assert torch.equal(parameter, base.get_parameter(name))


def random_adapter(model: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainable_parameters(model):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def test_one_pair_an_expert() -> None:
    """Written out: expert e reads rows e·r … of A, and every fifth column of B from column e on."""
    model = random_adapter(inject(moe("qwen3_moe"), CONFIG))
    layer = model.model.layers[0].mlp.experts
    A, B = layer.lora_A["down_proj"], layer.lora_B["down_proj"]
    W = moe("qwen3_moe").model.layers[0].mlp.experts.down_proj
    for e in range(5):
        close(layer.down_proj[e], W[e] + 7 / 3 * B[:, e::5] @ A[3 * e : 3 * e + 3], 1e-6)


def test_switched_off_copied_and_restored() -> None:
    model = random_adapter(inject(moe("qwen3_moe"), CONFIG))
    expected, base = model(IDS).logits, moe("qwen3_moe")(IDS).logits
    with adapters_disabled(model):
        assert torch.equal(model(IDS).logits, base)
        assert torch.equal(
            model.model.layers[0].mlp.experts.down_proj, model.model.layers[0].mlp.experts.base_layer.down_proj
        )
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(IDS).logits, expected)
    fresh = inject(moe("qwen3_moe"), CONFIG)
    load_adapter_state_dict(fresh, adapter_state_dict(model))
    assert torch.equal(fresh(IDS).logits, expected)


@each_family
def test_adapters_stay_fp32_on_a_bf16_base(family: str) -> None:
    model = random_adapter(inject(moe(family, torch.bfloat16), CONFIG))
    assert {p.dtype for p in trainable_parameters(model)} == {torch.float32}
    y = model(IDS).logits
    y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trainable_parameters(model))
    with torch.autocast("cpu", torch.bfloat16):
        layer = next(layer for _, layer in named_adapters(inject(moe(family), CONFIG)))
        assert layer.updated("down_proj", torch.float32).dtype == torch.float32, "autocast rounds the weight"


def test_it_learns_with_checkpointing() -> None:
    """The same gradients, though each block is computed again."""
    grads = []
    for checkpointing in (False, True):
        model = random_adapter(inject(moe("qwen3_moe"), CONFIG)).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(IDS, labels=IDS).loss.backward()
        grads.append([p.grad for p in trainable_parameters(model)])
    for first, second in zip(*grads, strict=True):
        close(first, second)


def test_a_routers_other_attributes_are_read() -> None:
    """DeepSeek's block adds the correction that its router holds."""
    sizes = {"moe_intermediate_size": 20, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
    latent = {"kv_lora_rank": 10, "q_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 14}
    rest = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4, "head_dim": 4}
    config = transformers.AutoConfig.for_model("deepseek_v3", **COMMON | sizes | latent | rest)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    expected = model(IDS).logits
    inject(model, LoRAConfig(rank=2, targets=(), target_parameters=("gate.weight", "experts.down_proj")))
    assert torch.equal(model(IDS).logits, expected)
    random_adapter(model)
    adapted = model(IDS).logits
    assert not torch.equal(adapted, expected)
    close(merge(model)(IDS).logits, adapted)


def test_several_adapters(tmp_path) -> None:
    one, two = (random_adapter(inject(moe("qwen3_moe"), CONFIG), seed) for seed in (1, 2))
    for name, model in (("one", one), ("two", two)):
        save_adapter(model, CONFIG, tmp_path / name)
    both = load_adapters(moe("qwen3_moe"), {name: tmp_path / name for name in ("one", "two")})
    add_adapter(both, "attention", LoRAConfig(rank=2, targets=("q_proj",)))
    assert torch.equal(both(IDS).logits, moe("qwen3_moe")(IDS).logits)
    for name, alone in (("one", one), ("two", two)):
        with using(both, name):
            assert torch.equal(both(IDS).logits, alone(IDS).logits)
    save_named_adapter(both, "two", tmp_path / "again")
    close(load_adapter(moe("qwen3_moe"), tmp_path / "again")(IDS).logits, two(IDS).logits)
    for which in (["one", "two"], {"one": 0.5, "two": 0.5}):
        with using(both, which), pytest.raises(TypeError, match="adapters of a Qwen3MoeExperts are used alone"):
            both(IDS)
    with pytest.raises(TypeError, match="only LoRA on linear layers can be added up, 'one' has a LoRAExperts"):
        concatenate(both, {"one": 1.0, "two": 1.0})


parameters = partial(LoRAConfig, rank=2, targets=())


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            parameters(target_parameters=("experts.up_proj",)),
            ValueError,
            r"no parameter ends with 'experts.up_proj'; this model has 'model.layers.0.mlp.experts.gate_up_proj'",
        ),
        (
            parameters(target_parameters=("proj",)),
            ValueError,
            "no parameter ends with 'proj'",
        ),
        (
            parameters(target_parameters=("input_layernorm.weight",)),
            TypeError,
            r"layers.0.input_layernorm: weight of Qwen3MoeRMSNorm is torch.float32 \(24,\); target_parameters are",
        ),
        (
            parameters(target_parameters=STACKS, rank_pattern={"experts.down_proj": 17}),
            ValueError,
            r"layers.0.mlp.experts: rank 17 is above min\(in, out\) = 16",
        ),
        (
            parameters(target_parameters=STACKS, rank_pattern={"experts.up_proj": 21}),
            ValueError,
            "rank_pattern names 'experts.up_proj', which is none of model.layers.0.mlp.experts",
        ),
        (
            LoRAConfig(rank=2, targets=("q_proj",), target_parameters=("q_proj.weight",)),
            ValueError,
            "layers.0.self_attn.q_proj is meant by targets, and its parameter by target_parameters: name it once",
        ),
        (
            parameters(target_parameters=STACKS, modules_to_save=("mlp",)),
            ValueError,
            "nothing is left to adapt",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_adapted(config, error, message: str) -> None:
    model = moe("qwen3_moe")
    with pytest.raises(error, match=message):
        inject(model, config)
    assert not list(named_adapters(model))
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("config", [DoRAConfig, LoRAFAConfig, partial(LoRAConfig, dropout=0.1)])
def test_what_does_not_go_with_parameters(config) -> None:
    with pytest.raises(ValueError, match="target_parameters go with a plain LoRAConfig without dropout"):
        config(targets=(), target_parameters=STACKS)


def test_names_are_a_tuple_and_something_is_named() -> None:
    with pytest.raises(TypeError, match="target_parameters is a tuple of names"):
        parameters(target_parameters="experts.down_proj")
    with pytest.raises(ValueError, match="targets is empty"):
        parameters()


def test_peft_says_null_where_no_module_is_meant(tmp_path) -> None:
    reference = theirs("gpt_oss", target_modules=None)
    reference.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["target_modules"] is None
    mine = load_adapter(moe("gpt_oss"), tmp_path)
    assert {type(layer) for _, layer in named_adapters(mine)} == {LoRAExperts}
    close(mine(IDS).logits, reference(IDS).logits)
