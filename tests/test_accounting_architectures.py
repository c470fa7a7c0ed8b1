"""Every architecture that the planner knows, against transformers' own model of the same file, on the meta device."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from peft_lessons import adapter_state_dict, inject, trainable_parameters
from peft_lessons.accounting import (
    BF16,
    NF4,
    TRAIN_FP32,
    FullFineTuning,
    HeadOnly,
    activations,
    model_shape,
    model_states,
    shape_from_config,
    step_flops,
    trained_parameters,
    training_memory,
)
from peft_lessons.accounting.architectures import LAYOUTS
from peft_lessons.accounting.plan import lay_out
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.prefix import PrefixTuningConfig

# no two widths alike; heads that are not hidden_size / heads wide
DENSE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 112,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = DENSE | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 16}
SPARSE = WIDE | {"moe_intermediate_size": 20, "num_experts": 5, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 6,
    "kv_lora_rank": 10,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 14,
    "moe_intermediate_size": 20,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LLAMA4 = {"intermediate_size_mlp": 130, "num_local_experts": 4}
TINY = {
    "llama": [WIDE, WIDE | {"attention_bias": True, "mlp_bias": True}],
    "mistral": [WIDE],
    "qwen2": [GROUPED],
    "gemma2": [WIDE, WIDE | {"attention_bias": True}],
    "gpt2": [{"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 40}],
    "roberta": [DENSE | {"type_vocab_size": 1, "max_position_embeddings": 34}],
    "bert": [DENSE | {"max_position_embeddings": 32}],
    "gemma": [WIDE, WIDE | {"tie_word_embeddings": False}],
    "gemma3_text": [WIDE, WIDE | {"attention_bias": True}],
    "qwen3": [WIDE, WIDE | {"attention_bias": True, "tie_word_embeddings": True}],
    "phi3": [GROUPED, DENSE | {"tie_word_embeddings": True}],
    "olmo2": [GROUPED, DENSE | {"attention_bias": True}],
    "smollm3": [GROUPED],
    "mixtral": [WIDE | {"num_local_experts": 5}],
    "qwen2_moe": [
        SPARSE | {"shared_expert_intermediate_size": 24},
        SPARSE | {"shared_expert_intermediate_size": 24, "qkv_bias": False, "decoder_sparse_step": 2},
    ],
    "qwen3_moe": [SPARSE, SPARSE | {"mlp_only_layers": [1, 2], "attention_bias": True}],
    "deepseek_v3": [
        DENSE | LATENT | {"q_lora_rank": 22},
        DENSE | LATENT | {"q_lora_rank": None, "attention_bias": True},
    ],
    "llama4_text": [
        WIDE | LLAMA4,
        WIDE | LLAMA4 | {"interleave_moe_layer_step": 2},
        WIDE | LLAMA4 | {"moe_layers": [0, 3]},
    ],
}
CASES = [(model_type, i) for model_type, settings in TINY.items() for i in range(len(settings))]
ENCODERS = ("bert", "roberta")


def theirs(model_type, **settings):
    """transformers' model on the meta device."""
    config = transformers.AutoConfig.for_model(model_type, **settings)
    with torch.device("meta"):
        if model_type in ENCODERS:
            return transformers.AutoModel.from_config(config, add_pooling_layer=False)
        return transformers.AutoModelForCausalLM.from_config(config)


def shapes_of(shape):
    """Its tensors as transformers holds them."""
    return {
        tensor: (*size[:-2], size[-1], size[-2]) if module.stored_transposed and len(size) > 1 else size
        for module in shape.modules
        for tensor, size in module.tensors.items()
    }


def read(folder, settings):
    (folder / "config.json").write_text(json.dumps(settings))
    return shape_from_config(folder)


def tiny_shape(folder, model_type, i=0):
    return read(folder, {"model_type": model_type} | TINY[model_type][i])


def test_all_are_tried():
    assert set(TINY) == set(LAYOUTS)


@pytest.mark.parametrize(("model_type", "i"), CASES)
def test_every_tensor_of_a_small_model(model_type, i, tmp_path):
    """From a file with what the model needs, and from the one that transformers writes."""
    model = theirs(model_type, **TINY[model_type][i])
    expected = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert shapes_of(tiny_shape(tmp_path, model_type, i)) == expected
    model.config.save_pretrained(tmp_path)
    assert shapes_of(shape_from_config(tmp_path)) == expected


PUBLISHED = {  # parameters: all, and those that a token passes, as the models' makers round them, in billions
    "Qwen3-8B": (8.19, 8.19),
    "Qwen3-30B-A3B": (30.5, 3.3),
    "Qwen1.5-MoE-A2.7B": (14.3, 2.7),
    "Mixtral-8x7B": (46.7, 12.9),
    "DeepSeek-V3": (671, 37),
    "Llama-4-Scout": (107.8, 17.2),  # the text model of 109 and 17
    "Gemma-3-4B": (3.88, 3.88),  # the text model of 4.3
    "Gemma-7B": (8.54, 8.54),
    "Phi-3-mini": (3.82, 3.82),
    "OLMo-2-7B": (7.30, 7.30),
}
FILES = {
    "Qwen3-8B": ("qwen3", {"intermediate_size": 12288, "num_hidden_layers": 36, "num_key_value_heads": 8}),
    "Qwen3-30B-A3B": ("qwen3_moe", {"head_dim": 128, "num_hidden_layers": 48}),
    "Qwen1.5-MoE-A2.7B": ("qwen2_moe", {}),
    "Mixtral-8x7B": ("mixtral", {}),
    "DeepSeek-V3": ("deepseek_v3", {}),
    "Llama-4-Scout": ("llama4_text", {}),
    "Gemma-3-4B": ("gemma3_text", {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}),
    "Gemma-7B": ("gemma", {}),
    "Phi-3-mini": ("phi3", {}),
    "OLMo-2-7B": ("olmo2", {"vocab_size": 100352}),
}


@pytest.mark.parametrize("name", FILES)
def test_published_sizes(name, tmp_path):
    """The files are transformers' own defaults, but for what is named."""
    model_type, settings = FILES[name]
    model = theirs(model_type, **settings)
    model.config.save_pretrained(tmp_path)
    shape = shape_from_config(tmp_path)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    every, active = PUBLISHED[name]
    assert shape.parameters / 1e9 == pytest.approx(every, rel=0.006)
    # some count the embedding as passed, some do not
    embedding = shape.vocab_size * shape.hidden_size / 1e9
    assert active - 0.1 <= shape.active_parameters / 1e9 <= active + embedding + 0.1


@pytest.mark.parametrize(("model_type", "part"), [("gemma3", "gemma3_text"), ("llama4", "llama4_text")])
def test_of_a_model_that_sees_the_text_part_counts_and_that_is_said(model_type, part, tmp_path):
    settings = {"model_type": model_type, "text_config": {"model_type": part} | TINY[part][0], "vision_config": {}}
    with pytest.warns(UserWarning, match="only the text model is counted"):
        shape = read(tmp_path, settings)
    assert shape.parameters == tiny_shape(tmp_path, part).parameters


def test_a_file_of_gemma_3_leaves_much_out(tmp_path):
    """As google/gemma-3-4b-it has it."""
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34}
    with pytest.warns(UserWarning, match="only the text model"):
        shape = read(tmp_path, {"model_type": "gemma3", "text_config": text})
    settings = {name: value for name, value in text.items() if name != "model_type"}
    assert shape.parameters == sum(p.numel() for p in theirs("gemma3_text", **settings).parameters())


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("qwen3_moe", {"num_experts": None}, "num_local_experts is missing"),
        ("qwen3_moe", {"num_experts_per_tok": 6}, "a token cannot be sent to 6 of 5 experts"),
        ("qwen3_moe", {"mlp_only_layers": ["0"]}, "mlp_only_layers is .*, not a list of whole numbers"),
        ("deepseek_v3", {"kv_lora_rank": 0}, "kv_lora_rank is 0; possible: 1 to"),
        ("llama4_text", {"moe_layers": 3}, "moe_layers is '3', not a list"),
        ("qwen2_moe", {"qkv_bias": 1}, "qkv_bias is '1', not true or false"),
        ("gemma", {"head_dim": None}, "head_dim is missing"),
    ],
)
def test_what_does_not_fit_is_named(model_type, change, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {"model_type": model_type} | TINY[model_type][0] | change)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    shape = tiny_shape(tmp_path / "model", "qwen3")
    assert shape_from_config("~/model") == shape_from_config("~/model/config.json") == shape


# --------------------------------------------------------------------------------------------------- plans of all kinds


@pytest.mark.parametrize("model_type", TINY)
def test_every_architecture_can_be_planned(model_type, tmp_path):
    shape = tiny_shape(tmp_path, model_type)
    lora = LoRAConfig(rank=2, targets=shape.linear_targets)
    linear = [m for m in shape.block_linears if m.out_features > 1]
    if model_type != "gpt2":
        assert trained_parameters(shape, lora) == sum(2 * (m.in_features + m.out_features) for m in linear)
    for method in (lora, FullFineTuning()):
        for checkpointing in (False, True):
            memory = training_memory(
                shape, method, batch=2, tokens=16, precision=TRAIN_FP32, checkpointing=checkpointing
            )
            assert memory.activations > 0
            assert step_flops(shape, method, batch=2, tokens=16, checkpointing=checkpointing).forward > 0
    full = model_states(shape, FullFineTuning(), precision=TRAIN_FP32)
    assert full.weights == 4 * shape.parameters


@pytest.mark.parametrize("model_type", ["qwen3", "phi3", "olmo2", "mixtral", "qwen2_moe", "deepseek_v3", "llama4_text"])
def test_forward_operations_are_those_of_transformers(model_type, tmp_path):
    shape = tiny_shape(tmp_path, model_type)
    config = transformers.AutoConfig.for_model(model_type, **TINY[model_type][0])
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # Llama 4 leaves its experts empty
        torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.randint(97, (2, 8))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    counted = step_flops(shape, FullFineTuning(), batch=2, tokens=8).forward
    if (
        model_type == "llama4_text"
    ):  # sends every token to all of its experts, and multiplies what was not asked for by 0
        rest = [m for m in shape.modules if m.kind == "experts"]
        counted += sum(2 * 16 * 3 * m.in_features * m.out_features * (m.count - m.times) for m in rest)
    rotary = 2 * 2 * 8 * _rotary_width(shape) // 2  # angles, as a product of positions and frequencies
    assert counter.get_total_flops() - counted in (0, rotary, rotary // 2)


def _rotary_width(shape):
    return shape.latent.rotary_dim if shape.latent else shape.head_dim


def test_norms_of_heads_are_kept_for_each_head(tmp_path):
    """x in fp32 and 1/rms for each head, beside what Llama's block keeps."""
    qwen = tiny_shape(tmp_path, "qwen3")
    llama = replace(qwen, model_type="llama")
    options = {"batch": 1, "tokens": 8}
    lora = LoRAConfig(rank=2, targets=("q_proj",))
    more = activations(qwen, lora, **options).blocks - activations(llama, lora, **options).blocks
    keys = 3 * 2  # of the first layer no key has a gradient
    assert more == 8 * (4 * qwen.head_dim + 4) * (4 * 6 + keys)


def test_a_prefix_of_latent_keys_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a prefix of deepseek_v3's latent keys"):
        trained_parameters(tiny_shape(tmp_path, "deepseek_v3"), PrefixTuningConfig(tokens=2))


# ------------------------------------------------------------------------------------------------------ context length


@pytest.mark.parametrize(("model_type", "most"), [("gpt2", 40), ("roberta", 32), ("bert", 32)])
def test_a_table_of_positions_ends(model_type, most, tmp_path):
    shape = tiny_shape(tmp_path, model_type)
    method = LoRAConfig(rank=2, targets=shape.linear_targets)
    training_memory(shape, method, batch=1, tokens=most, precision=TRAIN_FP32)
    for count in (
        lambda: training_memory(shape, method, batch=1, tokens=most + 1, precision=TRAIN_FP32),
        lambda: step_flops(shape, method, batch=1, tokens=most + 1),
    ):
        with pytest.raises(ValueError, match=f"{most + 1} tokens; this {model_type} was made for at most {most}"):
            count()


def test_a_longer_text_than_a_model_was_made_for_is_said(recwarn):
    shape, lora = model_shape("SmolLM2-135M"), LoRAConfig(rank=2)
    training_memory(shape, lora, batch=1, tokens=8192, precision=TRAIN_FP32)
    assert not recwarn
    with pytest.warns(UserWarning, match="8,193 tokens; this llama was made for at most 8,192"):
        training_memory(shape, lora, batch=1, tokens=8193, precision=TRAIN_FP32)


# ------------------------------------------------------------------------------------------------ quantized checkpoints


GB = 10**9
WEIGHTS = 32 * 218_103_808  # of Llama-3.1-8B's linear layers in the blocks
REST = 2 * (8_030_261_248 - WEIGHTS)
LORA = LoRAConfig(rank=16)
QUANTIZED = {  # bytes of the linear weights, worked out by hand
    "nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, WEIGHTS // 2 + 4 * WEIGHTS // 64),
    "int8": ({"load_in_8bit": True, "load_in_4bit": False}, WEIGHTS + 4 * 32 * 43008),
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True},
        WEIGHTS // 2 + WEIGHTS // 128 * 5 // 2 + 4 * 32 * (6 * 4096 + 14336),
    ),
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128}, WEIGHTS // 2 + WEIGHTS // 128 * 5 // 2),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, WEIGHTS + 4 * WEIGHTS // 128**2),
}


def llama_8b(folder, **more):
    theirs_config = {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    }
    return read(folder, theirs_config | more)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_quantized_checkpoint_counts_as_it_is_stored(name, tmp_path):
    settings, linear = QUANTIZED[name]
    shape = llama_8b(tmp_path, quantization_config=settings)
    assert model_states(shape, LORA, precision=TRAIN_FP32).base == linear + REST
    assert model_states(llama_8b(tmp_path), LORA, precision=TRAIN_FP32).base == 2 * 8_030_261_248
    with pytest.raises(ValueError, match="storage is 'bf16', but this checkpoint's weights are stored as"):
        model_states(shape, LORA, precision=TRAIN_FP32, storage=BF16)
    with pytest.raises(ValueError, match="q_proj cannot train: the checkpoint stores it as"):
        model_states(shape, FullFineTuning(), precision=TRAIN_FP32)
    head = model_states(shape, HeadOnly(), precision=TRAIN_FP32)
    assert head.base == linear + REST + 2 * 128256 * 4096  # in fp32 now


def test_what_a_checkpoint_left_dense_is_dense(tmp_path):
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    whole = llama_8b(tmp_path, quantization_config=settings)
    some = llama_8b(tmp_path, quantization_config=settings | {"modules_to_not_convert": ["lm_head", "model.layers.1"]})
    block = 218_103_808
    more = model_states(some, LORA, precision=TRAIN_FP32).base - model_states(whole, LORA, precision=TRAIN_FP32).base
    assert more == block - 4 * block // 128**2, "one block, not also blocks 10 to 19"


def test_fp8_bytes_are_those_of_transformers(tmp_path):
    from transformers.integrations.finegrained_fp8 import FP8Linear

    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    storage = llama_8b(tmp_path, quantization_config=settings).stored.storage
    for rows, columns in ((300, 257), (128, 128), (14336, 4096)):
        with torch.device("meta"):
            layer = FP8Linear(columns, rows, block_size=(128, 128))
        assert storage.nbytes(rows, columns) == sum(p.nbytes for p in layer.parameters())


def test_experts_are_dense_to_qlora_and_quantized_in_fp8(tmp_path):
    """A stack of experts is no linear layer: bitsandbytes leaves it alone."""
    settings = {"model_type": "mixtral"} | TINY["mixtral"][0]
    shape = read(tmp_path, settings)
    experts = sum(m.parameters for m in shape.modules if m.kind == "experts")
    lora = LoRAConfig(rank=2, targets=("q_proj",))
    linear = sum(NF4.nbytes(m.out_features, m.in_features) for m in shape.block_linears)
    rest = shape.parameters - experts - shape.linear_parameters
    assert model_states(shape, lora, precision=TRAIN_FP32, storage=NF4).base == linear + 2 * (experts + rest)
    fp8 = read(tmp_path, settings | {"quantization_config": {"quant_method": "fp8", "weight_block_size": None}})
    matrices = len(shape.block_linears) + 4 * 5 * 2
    stored = experts + shape.linear_parameters + 4 * matrices
    assert model_states(fp8, lora, precision=TRAIN_FP32).base == stored + 2 * rest


@pytest.mark.parametrize("model_type", ["mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "llama4_text", "gpt2"])
def test_parameters_that_lora_adapts(model_type, tmp_path):
    """Each tensor as `inject` makes it: stacks of experts, routers, and GPT-2's transposed matrices."""
    names = ("c_fc.weight",) if model_type == "gpt2" else ("experts.gate_up_proj", "experts.down_proj")
    names += ("router.weight",) if model_type == "llama4_text" else ()
    attention = ("c_attn",) if model_type == "gpt2" else ("o_proj",)
    lora = LoRAConfig(
        rank=3, targets=attention, target_parameters=names, rank_pattern={names[-1].replace(".", r"\."): 2}
    )
    shape = tiny_shape(tmp_path, model_type)
    model = inject(theirs(model_type, **TINY[model_type][0]), lora)
    expected = {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    assert lay_out(shape, lora).adapter_trained == expected
    assert trained_parameters(shape, lora) == sum(p.numel() for p in trainable_parameters(model))
    assert model_states(shape, lora, precision=TRAIN_FP32).adapter == 4 * trained_parameters(shape, lora)
    for count in (step_flops, activations):
        with pytest.raises(TypeError, match=r"not counted for target_parameters, as in \S+: only what trains"):
            count(shape, lora, batch=1, tokens=8)


def test_parameters_that_are_not_there(tmp_path):
    shape = tiny_shape(tmp_path, "qwen3_moe")
    for names, error, message in (
        (("experts.up_proj",), ValueError, "no parameter ends with 'experts.up_proj'; qwen3_moe has"),
        (("norm.weight",), TypeError, r"norm.weight has the shape \(48,\); target_parameters are matrices"),
    ):
        with pytest.raises(error, match=message):
            trained_parameters(shape, LoRAConfig(rank=2, targets=(), target_parameters=names))
    with pytest.raises(ValueError, match="q_proj is meant by targets, and its parameter by target_parameters"):
        trained_parameters(shape, LoRAConfig(rank=2, targets=("q_proj",), target_parameters=("q_proj.weight",)))
