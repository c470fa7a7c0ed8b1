"""Reading a stranger's `config.json`."""

import json

import pytest
from accounting_cases import transformers_model
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_lessons.accounting import MODELS, ModelShape, model_shape, shape_from_config
from peft_lessons.accounting.config_file import MOST_BYTES

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
# As the files on the hub are: some fields are null, some are missing, and GPT-2 has names of its own.
PUBLISHED = {
    "LLaMA-7B": LLAMA | {"tie_word_embeddings": False, "rms_norm_eps": 1e-6},
    "GPT-2 small": {
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    },
    "RoBERTa-large": {
        "model_type": "roberta",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "max_position_embeddings": 514,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "type_vocab_size": 1,
        "vocab_size": 50265,
    },
    "Mistral-7B v0.1": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "head_dim": None,
        "vocab_size": 32000,
    },
    "Gemma-2-9B": {
        "model_type": "gemma2",
        "attention_bias": False,
        "head_dim": 256,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "vocab_size": 256000,
    },
}


def read(folder, content):
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return shape_from_config(folder / "config.json")


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_as_on_the_hub(name, tmp_path):
    assert read(tmp_path, PUBLISHED[name]).parameters == model_shape(name).parameters


@pytest.mark.parametrize("name", MODELS)
def test_files_that_transformers_writes(name, tmp_path):
    shape = model_shape(name)
    transformers_model(shape).config.save_pretrained(tmp_path)
    found = shape_from_config(tmp_path)
    assert found.parameters == shape.parameters
    assert [module.name for module in found.modules] == [module.name for module in shape.modules]


@pytest.mark.parametrize("switch", ["attention_bias", "mlp_bias"])
def test_biases_are_read(switch, tmp_path):
    shape = read(tmp_path, LLAMA | {switch: True})
    assert shape.parameters == sum(p.numel() for p in transformers_model(shape).parameters())
    assert shape.parameters > model_shape("LLaMA-7B").parameters


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "'mamba' is not .* possible: llama, mistral, qwen2, gemma2, gpt2, roberta"),
        ({"model_type": None}, "model_type None"),
        ({"model_type": ["llama"]}, r"model_type \['llama'\]"),
        ({"model_type": "x" * 10_000}, "model_type 'xxx.{40,60} is not"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "4096"}, "hidden_size is '4096', not a whole number"),
        ({"hidden_size": 4096.0}, r"hidden_size is '4096\.0', not a whole number"),
        ({"hidden_size": True}, "hidden_size is 'True', not a whole number"),
        ({"hidden_size": -4096}, "hidden_size is -4096; possible: 1 to 1,000,000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000; possible: 1 to 1,000"),
        ({"vocab_size": 0}, "vocab_size is 0; possible: 1 to 10,000,000"),
        ({"vocab_size": 10**400}, "vocab_size is 10{59}; possible: 1 to 10,000,000"),
        ({"num_key_value_heads": 5}, "32 query heads cannot share 5"),
        ({"num_attention_heads": 30}, "head_dim is missing"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', not true or false"),
        ({"attention_bias": 1}, "attention_bias is '1', not true or false"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is true"),
        ({"quantization_config": "nf4"}, "quantization_config is 'nf4', not an object"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantized by 'mxfp4'.*possible: bitsandbytes, gptq, awq"),
        ({"quantization_config": {}}, "quantized by None, which is not counted here"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "neither load_in_4bit nor load_in_8bit"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 5}}, "bits is '5'; possible: 2, 3, 4, 8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "group_size is 'None'"),
        ({"quantization_config": {"quant_method": "gptq", "dynamic": {"-:.*": {}}}}, "dynamic says that layers differ"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": True}}, "lm_head"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [0, 1]}}, "weight_block_size is"),
        (
            {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": ["(a+)+$"]}},
            "modules_to_not_convert holds the pattern",
        ),
    ],
)
def test_what_does_not_fit_is_named(change, message, tmp_path):
    with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
        read(tmp_path, LLAMA | change)


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "gemma2"])
def test_heads_that_vary_with_the_size_of_a_model_are_not_guessed(model_type, tmp_path):
    with pytest.raises(ValueError, match=r"(num_key_value_heads|head_dim) is missing"):
        read(tmp_path, LLAMA | {"model_type": model_type})


def test_gpt2_needs_its_own_names(tmp_path):
    with pytest.raises(ValueError, match="n_embd is missing"):
        read(tmp_path, LLAMA | {"model_type": "gpt2"})
    with pytest.raises(ValueError, match="hidden_size 768 does not split into 7 heads"):
        read(tmp_path, PUBLISHED["GPT-2 small"] | {"n_head": 7})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable JSON"),
        (b"{", "not readable JSON"),
        (b"\xff\xfe\x00", "not readable JSON"),
        (b"[" * 100_000, "not readable JSON"),
        (b"[1]", "holds a list"),
        (b"null", "holds a NoneType"),
        (b'{"model_type": "llama", "x": ' + b"9" * 5000 + b"}", "not readable JSON"),
        (b" " * (MOST_BYTES + 1), "larger than 1,048,576 bytes"),
    ],
    ids=["empty", "cut short", "no UTF-8", "deep", "list", "null", "a number of 5000 digits", "large"],
)
def test_files_that_are_no_config(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_missing_files_are_said_to_be(tmp_path):
    for path in (tmp_path, tmp_path / "config.json", str(tmp_path / "nowhere")):
        with pytest.raises(FileNotFoundError, match=r"name a model's config\.json or its folder"):
            shape_from_config(path)


def test_nothing_in_the_file_is_run(tmp_path):
    """transformers would import the named file if told to trust it."""
    (tmp_path / "evil.py").write_text("raise SystemExit('run')")
    content = LLAMA | {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    assert read(tmp_path, content).parameters == model_shape("LLaMA-7B").parameters


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.integers(1, 64),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SPARSE = LLAMA | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 16,
    "mlp_only_layers": [1],
    "moe_layers": [0],
    "intermediate_size_mlp": 9,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "q_lora_rank": 3,
    "kv_lora_rank": 3,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 32},
}
SPARSES = [
    SPARSE | {"model_type": name} for name in ("qwen2_moe", "qwen3_moe", "deepseek_v3", "llama4_text", "mixtral")
]
FIELDS = st.sampled_from(
    [*SPARSE, *PUBLISHED["GPT-2 small"], "head_dim", "mlp_bias", "n_inner", "text_config", "decoder_sparse_step"]
)


@pytest.mark.filterwarnings("ignore:.*only the text model")
@settings(max_examples=400, deadline=None)
@given(
    base=st.sampled_from([*PUBLISHED.values(), *SPARSES, {}]),
    changes=st.dictionaries(FIELDS, VALUES, max_size=4),
)
def test_any_object_gives_a_shape_or_a_value_error(base, changes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    try:
        shape = read(folder, base | changes)
    except ValueError as error:
        assert len(str(error)) < 600 + len(str(folder))
    else:
        assert isinstance(shape, ModelShape) and shape.parameters > 0
