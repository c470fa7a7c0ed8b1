"""Parameters: the tables of the papers, transformers' models and what `inject` makes."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from accounting_cases import ADAPTERS, METHODS, SHAPE, TINY, meta_decoder, prepared, tiny, transformers_model
from method_cases import COUNTS

from peft_lessons.accounting import (
    MODELS,
    FullFineTuning,
    HeadOnly,
    LastLayers,
    decoder_shape,
    flops_break_even_rank,
    lay_out,
    model_shape,
    parameter_break_even_rank,
    trained_parameters,
)
from peft_lessons.accounting.modules import size
from peft_lessons.adapters import AdapterConfig, named_adapters
from peft_lessons.methods.bitfit import BitFitConfig
from peft_lessons.methods.bottleneck import SerialAdapterConfig
from peft_lessons.methods.layer_norm import LayerNormTuningConfig
from peft_lessons.methods.loftq import LoftQConfig
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.oft import OFTConfig
from peft_lessons.targets import ALL_LINEAR

TOTALS = {  # parameters, and those that LoRA trains at rank 16 on every linear layer of the blocks
    "GPT-2 small": (124_439_808, 2_654_208),
    "GPT-3 175B": (174_604_259_328, 339_738_624),
    "RoBERTa-large": (354_310_144, 7_077_888),
    "LLaMA-7B": (6_738_415_616, 39_976_960),
    "LLaMA-13B": (13_015_864_320, 62_586_880),
    "LLaMA-33B": (32_528_943_616, 121_896_960),
    "LLaMA-65B": (65_285_660_672, 199_884_800),
    "Llama-3.1-8B": (8_030_261_248, 41_943_040),
    "Llama-3.1-70B": (70_553_706_496, 207_093_760),
    "Llama-3.1-405B": (405_853_388_800, 623_443_968),
    "Llama-3.2-3B": (3_212_749_824, 24_313_856),
    "Mistral-7B v0.1": (7_241_732_096, 41_943_040),
    "Qwen2.5-7B": (7_615_616_512, 40_370_176),
    "Qwen2.5-72B": (72_706_203_648, 210_534_400),
    "SmolLM2-135M": (134_515_008, 4_884_480),
    "SmolLM2-360M": (361_821_120, 8_683_520),
    "SmolLM2-1.7B": (1_711_376_384, 18_087_936),
    "Gemma-2-9B": (9_241_705_984, 54_018_048),
}


@pytest.mark.parametrize("name", TOTALS)
def test_published_totals(name):
    shape = model_shape(name)
    lora = LoRAConfig(rank=16, targets=shape.linear_targets)
    assert (trained_parameters(shape, FullFineTuning()), trained_parameters(shape, lora)) == TOTALS[name]


def test_every_model_is_in_the_table():
    assert set(MODELS) == set(TOTALS)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_is_that_of_transformers(name):
    shape = model_shape(name)
    theirs = {name: tuple(tensor.shape) for name, tensor in transformers_model(shape).named_parameters()}
    ours = {}
    for module in shape.modules:
        for tensor, dimensions in module.tensors.items():
            ours[tensor] = dimensions[::-1] if module.stored_transposed else dimensions
    assert ours == theirs


def test_biases_of_llama_are_counted_as_in_transformers():
    shape = replace(SHAPE, attention_bias=True, mlp_bias=True)
    assert shape.parameters == sum(p.numel() for p in transformers_model(shape).parameters())


def test_a_decoder_says_its_shape():
    decoder = tiny(FullFineTuning())
    assert decoder_shape(TINY).parameters == sum(p.numel() for p in decoder.parameters())


# ----------------------------------------------------------------------------------------------------- golden integers


@pytest.mark.parametrize(
    ("model_name", "config", "count"), COUNTS, ids=lambda value: getattr(type(value), "__name__", "")
)
def test_golden_counts(model_name, config, count):
    assert trained_parameters(model_shape(model_name), config) == count


@pytest.mark.parametrize(("rank", "millions"), [(1, 4.7), (2, 9.4), (4, 18.87), (8, 37.7)])
def test_lora_on_gpt3_as_its_paper_counts(rank, millions):
    """arXiv:2106.09685, Tables 4 and 15: q and v apart, although GPT-2's code keeps them in one matrix."""
    count = trained_parameters(model_shape("GPT-3 175B"), LoRAConfig(rank=rank, targets=("c_attn.q", "c_attn.v")))
    assert count == rank * 2 * 96 * 2 * 12288
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_fused_matrix_of_gpt2_counts_whole():
    fused = LoRAConfig(rank=16, targets=("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"))
    assert trained_parameters(model_shape("GPT-2 small"), fused) == 12 * 16 * (4 * 768 + 2 * 768 + 2 * 5 * 768)


def test_adapters_on_gpt3_as_in_loras_paper():
    """arXiv:2106.09685, Table 4: 7.08 M at m = 1, two adapters a block, 2L (2dm + m + d)."""
    method = SerialAdapterConfig(bottleneck=1, targets=("attn", "mlp"))
    assert trained_parameters(model_shape("GPT-3 175B"), method) == 2 * 96 * (2 * 12288 + 1 + 12288) == 7_078_080


def test_loras_paper_on_roberta():
    assert trained_parameters(model_shape("RoBERTa-large"), LoRAConfig(rank=8, targets=("query", "value"))) == 786_432


def test_bias_and_norm_counts_of_biased_models():
    shape = model_shape("RoBERTa-large")
    assert trained_parameters(shape, BitFitConfig(targets=("query", "value"))) == 24 * 2 * 1024
    assert trained_parameters(shape, LayerNormTuningConfig(targets=("LayerNorm",))) == (2 * 24 + 1) * 2 * 1024


# ------------------------------------------------------------------------------------------ what `inject` really makes


def adapter_tensors(model, trained):
    """{name: shape} of all adapters, a shared tensor under its first name."""
    found, seen = {}, set()
    for name, layer in named_adapters(model):
        for key, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
            if not key.startswith("base_layer.") and tensor.requires_grad == trained and id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{name}.{key}"] = tuple(tensor.shape)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["SmolLM2-135M", "Llama-3.2-3B"])
@pytest.mark.parametrize("name", [name for name, method in ADAPTERS.items() if not isinstance(method, LoftQConfig)])
def test_formulas_equal_what_inject_makes(name, model_name):
    """LoftQ reads the weights that it quantizes, and so cannot be made on the meta device: see below."""
    shape, method = model_shape(model_name), ADAPTERS[name]
    model, plan = prepared(meta_decoder(shape), method), lay_out(shape, method)
    assert adapter_tensors(model, trained=True) == plan.adapter_trained
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained_parameters(shape, method)
    frozen = adapter_tensors(model, trained=False)
    assert sorted(frozen.values()) == sorted(plan.adapter_frozen.values())


@pytest.mark.parametrize("name", METHODS)
def test_formulas_equal_a_real_model(name):
    """On a small decoder with weights, tied or not: also methods without an adapter, and LoftQ."""
    method = METHODS[name]
    plan = lay_out(SHAPE, method)
    model = tiny(method)
    trained = {key: tuple(p.shape) for key, p in model.named_parameters() if p.requires_grad}
    assert trained == plan.all_trained
    assert size(plan.adapter_frozen) == sum(torch.Size(s).numel() for s in adapter_tensors(model, False).values())


def test_a_tied_head_is_copied_before_it_trains():
    shape = model_shape("SmolLM2-135M")
    model = prepared(meta_decoder(shape), HeadOnly())
    assert sum(p.numel() for p in model.parameters()) == shape.parameters + trained_parameters(shape, HeadOnly())


# ------------------------------------------------------------------------------------------------------- break-even


def test_parameter_break_even():
    assert parameter_break_even_rank(4096, 4096) == 2048
    assert parameter_break_even_rank(4096, 1024) == 4096 * 1024 / 5120
    for d_in, d_out in ((768, 3072), (512, 512)):
        rank = parameter_break_even_rank(d_in, d_out)
        assert rank * (d_in + d_out) == pytest.approx(d_in * d_out)


def test_flops_break_even_of_a_square_matrix_is_a_sixth():
    assert flops_break_even_rank(4096, 4096) == pytest.approx(4096 / 6)
    assert round(flops_break_even_rank(4096, 4096)) == 683


# ------------------------------------------------------------------------------------------------------ wrong input


def test_an_unknown_model_lists_the_known():
    with pytest.raises(ValueError, match=r"'Llama-9'.*GPT-2 small.*Gemma-2-9B.*shape_from_config"):
        model_shape("Llama-9")


def test_an_unknown_target_lists_what_there_is():
    with pytest.raises(ValueError, match="'q_prj'; llama has q_proj, k_proj, v_proj, o_proj, gate_proj"):
        trained_parameters(SHAPE, LoRAConfig(targets=("q_prj",)))


@pytest.mark.parametrize(
    ("model_name", "shown"),
    [("GPT-2 small", "gpt2 has c_attn, c_attn.q, c_attn.k, c_attn.v, attn.c_proj"), ("RoBERTa-large", "query, key")],
)
def test_llamas_default_targets_do_not_silently_mean_other_layers(model_name, shown):
    with pytest.raises(ValueError, match=shown):
        trained_parameters(model_shape(model_name), LoRAConfig())


def test_a_linear_method_does_not_adapt_norms_nor_the_other_way_round():
    with pytest.raises(ValueError, match="'input_layernorm'"):
        trained_parameters(SHAPE, LoRAConfig(targets=("input_layernorm",)))
    with pytest.raises(ValueError, match="'q_proj'; llama has input_layernorm, post_attention_layernorm, norm"):
        trained_parameters(SHAPE, LayerNormTuningConfig(targets=("q_proj",)))


def test_sizes_that_inject_would_refuse_are_refused():
    with pytest.raises(ValueError, match="rank 17 is above"):
        trained_parameters(SHAPE, LoRAConfig(rank=17, targets=("k_proj",)))
    with pytest.raises(ValueError, match="block_size 32 does not divide in_features 48"):
        trained_parameters(SHAPE, OFTConfig(block_size=32))
    with pytest.raises(ValueError, match="3 blocks; asked to train the last 4"):
        trained_parameters(SHAPE, LastLayers(4))
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        LastLayers(0)


@pytest.mark.parametrize(
    "where",
    [
        {"targets": re.compile(".*q_proj")},
        {"targets": ALL_LINEAR},
        {"exclude": ("q_proj",)},
        {"layers": (0,)},
        {"modules_to_save": ("lm_head",)},
        {"trainable_tokens": {"embed_tokens": (1,)}},
    ],
)
def test_places_that_are_not_counted_are_refused(where):
    with pytest.raises(TypeError, match="only methods with names as targets are counted, without exclude, layers, or"):
        trained_parameters(SHAPE, LoRAConfig(rank=2, **where))


def test_what_is_no_method_is_named():
    class OtherConfig(AdapterConfig):
        pass

    with pytest.raises(TypeError, match="no formula for OtherConfig; there are formulas for AdaLoRAConfig"):
        trained_parameters(SHAPE, OtherConfig(targets=("q_proj",)))
    with pytest.raises(TypeError, match=r"str is no method; possible: AdaLoRAConfig, .* FullFineTuning"):
        trained_parameters(SHAPE, "lora")


@pytest.mark.parametrize("change", [{"hidden_size": 0}, {"num_hidden_layers": -1}, {"vocab_size": 0}])
def test_impossible_shapes_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be at least 1"):
        replace(SHAPE, **change)


def test_heads_that_do_not_share_evenly_are_refused():
    with pytest.raises(ValueError, match="6 query heads cannot share 4"):
        replace(SHAPE, num_key_value_heads=4)


@pytest.mark.slow
def test_importing_loads_no_notebook_library():
    check = (
        "import sys, peft_lessons.accounting; print({'matplotlib', 'IPython', 'transformers', 'peft'} & {*sys.modules})"
    )
    output = subprocess.run([sys.executable, "-c", check], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "set()"
