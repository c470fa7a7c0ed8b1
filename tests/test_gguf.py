"""Models and adapters as files for llama.cpp: against its formulas, the `gguf` package, and llama.cpp itself.

What llama.cpp computes is compared by log-probabilities. It keeps keys and values in 16 bits, and rounds the inputs of
each product with a quantized weight to 8 bits in blocks of 32; with weights in fp32 only the first of these is left.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from benchmarks.llama_cpp import Engine
from peft_lessons import (
    DoRAConfig,
    LoRAConfig,
    PiSSAConfig,
    adapters_disabled,
    cli,
    export_gguf,
    inject,
    load_adapter,
    merge,
    save_adapter,
)
from peft_lessons.accounting import decoder_shape, model_shape
from peft_lessons.models import Decoder, DecoderConfig, load_gguf, load_smollm2, load_tiny_gpt, save_gguf, tiny_gpt
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.gguf import GGUFFile, write_gguf
from peft_lessons.models.gguf_blocks import BY_NAME, FORMATS
from peft_lessons.models.llama_gguf import LLAMA_NAMES, hugging_face_name, llama_cpp_name, to_halves, to_neighbours
from peft_lessons.models.smollm2 import weights_path
from peft_lessons.models.tokenizer import Tokenizer
from peft_lessons.tasks import DEVILS_ADAPTER

QUANTIZED = ("Q8_0", "Q4_0", "Q4_1")
NEW = 12  # tokens
EXACT = 0.02  # in log-probability: keys and values in 16 bits
ROUNDED = 0.5  # inputs in 8 bits, too

with_llama_cpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="xllamacpp, which brings llama.cpp, is not installed"
)
with_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")


# ------------------------------------------------------------------------------------------------------------- blocks


def numbers(rows: int = 64) -> torch.Tensor:
    """Blocks of 32: normal ones, all zeros, all equal, one large, halves between two codes, the largest twice."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(rows, 32, generator=generator) * torch.logspace(-4, 3, rows)[:, None]
    weights[0], weights[1], weights[2, 5] = 0, 0.3, 1e4
    weights[3] = torch.arange(32) - 15.5
    weights[4, :2] = torch.tensor([2.0, -2.0]) * weights[4].abs().max()
    weights[5, :2] = torch.tensor([-2.0, 2.0]) * weights[5].abs().max()
    return weights


def levels(blocks: torch.Tensor, name: str) -> torch.Tensor:
    """All numbers that a weight of each block can be, by the formulas of the page: (blocks, levels)."""
    d, m = (blocks[:, i : i + 2].contiguous().view(torch.float16).float() for i in (0, 2))
    codes = {"Q8_0": torch.arange(-127, 128), "Q4_0": torch.arange(16) - 8, "Q4_1": torch.arange(16)}[name]
    return d * codes + (m if name == "Q4_1" else 0)


@pytest.mark.parametrize("name", QUANTIZED)
def test_a_weight_goes_to_its_nearest_level(name: str) -> None:
    """As near as d is known, which is rounded to 16 bits after the codes are chosen."""
    weights, kind = numbers(), BY_NAME[name]
    blocks = kind.encode(weights)
    assert blocks.dtype == torch.uint8 and blocks.shape == (len(weights), kind.bytes)
    nearest = (weights[:, :, None] - levels(blocks, name)[:, None]).abs().amin(2)
    error = (kind.decode(blocks) - weights).abs()
    assert (error <= nearest + 2**-9 * weights.abs().amax(1, keepdim=True) + 128 * 2**-25).all()


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_what_was_written_is_written_again_bit_for_bit(kind) -> None:
    once = kind.decode(kind.encode(numbers().view(-1, kind.weights)))
    assert torch.equal(kind.decode(kind.encode(once)), once)


@with_gguf
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_blocks_equal_the_gguf_package(kind) -> None:
    import gguf

    weights, theirs = numbers(512), gguf.GGMLQuantizationType[kind.name]
    blocks = kind.encode(weights.view(-1, kind.weights))
    expected = gguf.quants.quantize(weights.numpy(), theirs)
    assert blocks.numpy().tobytes() == expected.tobytes()
    assert torch.equal(
        kind.decode(blocks).view(-1), torch.from_numpy(gguf.quants.dequantize(expected, theirs)).view(-1)
    )


@pytest.mark.parametrize("name", ["F16", *QUANTIZED])
def test_a_weight_beyond_16_bits_is_refused_and_nothing_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"old")
    weights = torch.full((2, 32), 1e9)
    weights[:, 0] = -1e9
    with pytest.raises(ValueError, match=r"^w: .* beyond the largest number of 16 bits"):
        write_gguf(path, {}, {"w": (weights, BY_NAME[name])})
    assert path.read_bytes() == b"old" and [one.name for one in tmp_path.iterdir()] == ["a.gguf"]


# -------------------------------------------------------------------------------------------------------------- files


def test_metadata_and_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    metadata = {"a": "naïve", "b": 7, "c": 0.5, "d": True, "e": ["x", ""], "f": [1, -2], "g": [0.25], "h": [False]}
    tensors = {"w": (torch.randn(3, 2, 32), BY_NAME["F32"]), "v": (torch.tensor([1.0, 2.0]), BY_NAME["F16"])}
    file = GGUFFile(write_gguf(tmp_path / "a.gguf", metadata, tensors))
    assert file.metadata == metadata
    assert all(torch.equal(file.tensor(name), tensor) for name, (tensor, _) in tensors.items())


@pytest.mark.parametrize(
    ("value", "message"), [(None, "x is None"), ([], r"x is \[\]"), ([1, "a"], "x is"), (2**32, "32 bits"), (-1, "32")]
)
def test_metadata_of_another_kind_is_refused(tmp_path: Path, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_gguf(tmp_path / "a.gguf", {"x": value}, {})
    assert not list(tmp_path.iterdir())


def test_tensors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="w holds numbers that are NaN"):
        write_gguf(tmp_path / "a.gguf", {}, {"w": (torch.tensor([1.0, float("nan")]), BY_NAME["F32"])})
    with pytest.raises(ValueError, match="w has rows of 40 numbers, not whole blocks of 32"):
        write_gguf(tmp_path / "a.gguf", {}, {"w": (torch.ones(2, 40), BY_NAME["Q8_0"])})


@with_gguf
@pytest.mark.parametrize("weights", ["F16", *QUANTIZED])
def test_the_gguf_package_reads_the_same(tmp_path: Path, weights: str) -> None:
    import gguf

    model, tokenizer = load_tiny_gpt()
    path = save_gguf(model, tokenizer, tmp_path / "tiny.gguf", weights)
    theirs, ours = gguf.GGUFReader(path), GGUFFile(path)
    assert {tensor.name for tensor in theirs.tensors} == ours.tensors.keys()
    for tensor in theirs.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        assert torch.equal(values.view(-1), ours.tensor(tensor.name).view(-1)), tensor.name
    names = {name for name in theirs.fields if not name.startswith("GGUF.")}
    assert names == ours.metadata.keys()
    assert all(
        theirs.fields[name].contents() == ours.metadata[name]
        for name in names - {"llama.attention.layer_norm_rms_epsilon"}
    )


# ------------------------------------------------------------------------------------------------------------- models


def test_names_and_rows_there_and_back() -> None:
    for name in (pattern.format(12) for pattern in LLAMA_NAMES):
        assert hugging_face_name(llama_cpp_name(name)) == name
    rows = torch.arange(24).view(12, 2)
    assert to_neighbours(rows, 2)[:4, 0].tolist() == [0, 6, 2, 8]  # 0 and 3, 1 and 4 of the first head of six
    assert torch.equal(to_halves(to_neighbours(rows, 3), 3), rows)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.mlp\.c_fc is no part of a Llama"):
        llama_cpp_name("model.layers.0.mlp.c_fc")


@torch.no_grad()
def test_a_model_comes_back(tmp_path: Path) -> None:
    model, tokenizer = load_tiny_gpt()
    again, same = load_gguf(save_gguf(model, tokenizer, tmp_path / "tiny.gguf", "F32"))
    assert again.config == replace(
        model.config, initializer_range=again.config.initializer_range, rms_norm_eps=again.config.rms_norm_eps
    )
    assert again.config.rms_norm_eps == pytest.approx(model.config.rms_norm_eps)
    assert all(torch.equal(*pair) for pair in zip(again.parameters(), model.parameters(), strict=True))
    text = "It was a truth, universally acknowledged: 1813!<|endoftext|> naïve"
    assert same.encode(text) == tokenizer.encode(text) and same.eos_id == tokenizer.eos_id


@pytest.mark.slow
def test_smollm2s_own_file_is_written_again_without_a_loss(tmp_path: Path) -> None:
    model, tokenizer = load_smollm2()
    again = GGUFFile(save_gguf(model, tokenizer, tmp_path / "again.gguf", "Q4_1"))
    file = GGUFFile(weights_path())
    assert again.tensors.keys() == file.tensors.keys()
    for name, info in file.tensors.items():
        assert again.tensors[name].format is info.format and again.tensors[name].shape == info.shape, name
        assert torch.equal(again.tensor(name), file.tensor(name)), name
    merged = GGUFFile(
        save_gguf(merge(load_adapter(model, DEVILS_ADAPTER)), tokenizer, tmp_path / "merged.gguf", "Q4_1")
    )
    name = "blk.20.attn_output.weight"
    moved = model.model.layers[20].self_attn.o_proj.weight != file.tensor(name)
    kept = file.blocks(name)[:, 4:] == merged.blocks(name)[:, 4:]
    assert moved.float().mean() > 0.99 and kept.float().mean() > 0.5, "most codes fall back to the base's"
    written = tokenizer.to_gguf(model.config.vocab_size)
    assert {name: file.metadata[name] for name in written} == written


def test_what_is_no_model_for_a_file_is_refused(tmp_path: Path) -> None:
    model, tokenizer = load_tiny_gpt()
    path = tmp_path / "a.gguf"
    with pytest.raises(ValueError, match="weights is 'Q5'; possible: F32, F16"):
        save_gguf(model, tokenizer, path, "Q5")
    with pytest.raises(TypeError, match="got Linear"):
        save_gguf(nn.Linear(2, 2), tokenizer, path)
    with pytest.raises(ValueError, match=r"merge\(model\) first"):
        save_gguf(inject(load_tiny_gpt()[0], LoRAConfig(rank=2)), tokenizer, path)
    with pytest.raises(ValueError, match="knows 1024 tokens, and the model has rows for 1000"):
        tokenizer.to_gguf(1000)
    from tokenizers import Tokenizer as Theirs
    from tokenizers import models, pre_tokenizers

    words = Theirs(models.BPE({"a": 0}, []))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match=r"Whitespace.*smollm, gpt-2"):
        save_gguf(model, Tokenizer(words, 0), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "qwen2"}, "architecture 'qwen2'"),
        ({"llama.block_count": "four"}, "llama.block_count is 'four'"),
        ({"llama.attention.head_count": 0}, "head_count is 0, not a number above 0"),
        ({"llama.attention.head_count_kv": 3}, "4 query heads cannot share 3"),
        ({"llama.embedding_length": 1000}, "embedding_length is 1000, and its tensors allow 160 at most"),
        ({"llama.block_count": 10**9}, "block_count is 1000000000, and its tensors allow 38 at most"),
        ({"llama.block_count": 3}, "unexpected model.layers.3"),
        ({"llama.feed_forward_length": 2**32 - 1}, "feed_forward_length is 4294967295, and its tensors allow"),
        ({"llama.context_length": 0.5}, "context_length is 0.5, and its tensors allow"),
        ({"llama.rope.scaling.type": "yarn"}, "scales its rotary"),
    ],
)
def test_a_strangers_model_is_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    path = save_gguf(*load_tiny_gpt(), tmp_path / "a.gguf", "F32")
    file = GGUFFile(path)
    tensors = {name: (file.tensor(name), info.format) for name, info in file.tensors.items()}
    with pytest.raises(ValueError, match=message):
        load_gguf(write_gguf(tmp_path / "b.gguf", file.metadata | change, tensors))


# ----------------------------------------------------------------------------------------------------------- adapters


def trained(config: LoRAConfig, folder: Path, model: Decoder | None = None) -> Path:
    """The tiny GPT's adapter with random numbers in all that trains."""
    torch.manual_seed(0)
    model = inject(model or load_tiny_gpt()[0], config)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.1)
    return save_adapter(model, config, folder)


def untied() -> Decoder:
    torch.manual_seed(1)
    model = load_tiny_gpt()[0]
    config = replace(model.config, tie_word_embeddings=False)
    head = model.lm_head.weight + 0.01 * torch.randn_like(model.lm_head.weight)
    return Decoder.from_tensors(config, {**model.state_dict(), "lm_head.weight": head.detach()})


ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIGS = {
    "all linear": LoRAConfig(rank=4, alpha=8, targets=ALL),
    "rank-stabilized": LoRAConfig(rank=4, alpha=3, rank_stabilized=True, targets=("q_proj", "k_proj")),
    "patterns": LoRAConfig(
        rank=4,
        alpha=6,
        targets=ALL,
        rank_pattern={"k_proj": 2, "up_proj": 7},
        alpha_pattern={"q_proj": 1, "up_proj": 9},
    ),
    "stabilized patterns": LoRAConfig(
        rank=5, alpha=6, rank_stabilized=True, targets=("k_proj", "down_proj"), rank_pattern={"down_proj": 2}
    ),
    "embedding and head": LoRAConfig(rank=3, alpha=6, targets=("embed_tokens", "lm_head", "v_proj")),
    "some layers": LoRAConfig(rank=2, targets=("k_proj",), layers=(1, 3)),
}


def read_back(path: Path, config: DecoderConfig) -> dict[str, torch.Tensor]:
    """Each update that a file adds, by llama.cpp's formula, rows in our order: (α / r) B A."""
    file, updates = GGUFFile(path), {}
    alpha = file.metadata["adapter.lora.alpha"]
    for name in file.tensors:
        if name.endswith(".lora_a"):
            A, B = file.tensor(name), file.tensor(name.removesuffix("a") + "b")
            ours = hugging_face_name(name.removesuffix(".weight.lora_a"))
            A = A.T if ours == "model.embed_tokens" else A
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(
                ours.split(".")[-1]
            )
            updates[ours] = alpha / B.shape[1] * (to_halves(B, heads) if heads else B) @ A
    return updates


@pytest.mark.parametrize("name", CONFIGS)
def test_the_updates_are_those_of_the_layers(tmp_path: Path, name: str) -> None:
    base = untied()
    folder = trained(CONFIGS[name], tmp_path / "adapter", untied())
    path = export_gguf(folder, tmp_path / "adapter.gguf", base=decoder_shape(base.config))
    merged, updates = merge(load_adapter(untied(), folder)), read_back(path, base.config)
    changed = {
        key
        for key, module in merged.named_modules()
        if hasattr(module, "weight") and not torch.equal(module.weight, base.get_submodule(key).weight)
    }
    assert changed == updates.keys()
    for key, update in updates.items():
        update = update.T if key == "model.embed_tokens" else update
        assert torch.allclose(base.get_submodule(key).weight + update, merged.get_submodule(key).weight, atol=2e-6), key


@with_gguf
def test_the_gguf_package_reads_an_adapter(tmp_path: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(export_gguf(DEVILS_ADAPTER, tmp_path / "devil.gguf"))
    said = {name: field.contents() for name, field in reader.fields.items()}
    assert (said[gguf.Keys.General.TYPE], said[gguf.Keys.Adapter.TYPE]) == (gguf.GGUFType.ADAPTER, "lora")
    assert said[gguf.Keys.Adapter.LORA_ALPHA] == 8 and len(reader.tensors) == 2 * 7 * 30


def test_a_folder_of_peft_is_written_as_ours(tmp_path: Path) -> None:
    """Peft's own file for the same adapter, down to its prefix, and settings with a base that lies here."""
    import peft
    from transformers import LlamaForCausalLM

    hugging_face = LlamaForCausalLM.from_pretrained(tiny_gpt.FOLDER, dtype=torch.float32)
    theirs = peft.get_peft_model(
        hugging_face, peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_rslora=True)
    )
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_adapter(load_tiny_gpt()[0], tmp_path / "theirs")
    config = LoRAConfig(rank=4, alpha=8, rank_stabilized=True, targets=("q_proj", "down_proj"))
    save_adapter(model, config, tmp_path / "ours" / "theirs", base_model=str(tiny_gpt.FOLDER))
    one, other = (
        export_gguf(folder, tmp_path / f"{i}.gguf")
        for i, folder in enumerate((tmp_path / "theirs", tmp_path / "ours" / "theirs"))
    )
    one, other = GGUFFile(one), GGUFFile(other)
    assert one.metadata == other.metadata and one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(one.tensor(name), other.tensor(name)) for name in one.tensors)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DoRAConfig(rank=2), "is a DoRAConfig: merge it into its base"),
        (PiSSAConfig(rank=2), "is a PiSSAConfig: merge it"),
        (
            LoRAConfig(rank=2, targets=("q_proj",), trainable_tokens={"embed_tokens": (3,)}),
            "no place for what trainable_tokens trained",
        ),
        (
            LoRAConfig(rank=2, targets=("q_proj",), modules_to_save=("norm",)),
            "no place for what modules_to_save trained",
        ),
        (LoRAConfig(rank=2, targets=("embed_tokens",)), "model.embed_tokens is adapted, and to llama.cpp the tied"),
        (LoRAConfig(rank=2, targets=("lm_head",)), "lm_head is adapted, and to llama.cpp the tied"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value.split()[0],
)
def test_what_llama_cpp_has_no_place_for_is_refused(tmp_path: Path, config, message: str) -> None:
    folder = trained(config, tmp_path / "adapter")
    with pytest.raises(ValueError, match=message):
        export_gguf(folder, tmp_path / "adapter.gguf", base=tiny_gpt.FOLDER)
    assert [one.name for one in tmp_path.iterdir()] == ["adapter"]


def test_the_base_is_found_or_asked_for(tmp_path: Path) -> None:
    folder, file = trained(CONFIGS["all linear"], tmp_path / "adapter"), tmp_path / "adapter.gguf"
    model = save_gguf(*load_tiny_gpt(), tmp_path / "tiny.gguf")
    written = {
        export_gguf(folder, file, base).read_bytes()
        for base in (tiny_gpt.FOLDER, str(model), decoder_shape(load_tiny_gpt()[0].config))
    }
    assert len(written) == 1
    with pytest.raises(ValueError, match="name None as its base, which is not here: give the base"):
        export_gguf(folder, file)
    with pytest.raises(ValueError, match="the base is a qwen2; adapters are written for llama and mistral"):
        export_gguf(folder, file, "Qwen2.5-7B")
    with pytest.raises(ValueError, match=r"factors of .* rank and base want .*; and 22 more"):
        export_gguf(folder, file, "SmolLM2-135M")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export_gguf(folder, file, tmp_path / "nowhere")
    change(folder, base_model_name_or_path="somebody/SmolLM2-135M-Instruct")
    with pytest.raises(ValueError, match="rank and base want"):
        export_gguf(folder, file)
    change(folder, base_model_name_or_path="../a/../../strange name")
    with pytest.raises(ValueError, match="strange name' as its base"):
        export_gguf(folder, file)


def change(folder: Path, **settings: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    "strange", ["model.layers.9.self_attn.q_proj", "model.layers.0.mlp.fc", "transformer.h.0.attn"]
)
def test_a_place_that_no_llama_has_is_named(tmp_path: Path, strange: str) -> None:
    folder = trained(CONFIGS["rank-stabilized"], tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    old = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {name.replace(old, f"base_model.model.{strange}"): tensor for name, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match=f"{strange} is no matrix of this base"):
        export_gguf(folder, tmp_path / "a.gguf", tiny_gpt.FOLDER)


def test_a_factor_that_is_missing_strange_or_broken_is_named(tmp_path: Path) -> None:
    folder = trained(CONFIGS["rank-stabilized"], tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    one = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    for changed, message in (
        ({name: tensor for name, tensor in tensors.items() if name != one}, "q_proj lacks its factor A"),
        (tensors | {one: torch.full((4, 160), float("nan"))}, "not finite"),
        (tensors | {one: tensors[one].T.contiguous()}, r"factors of \(\(160, 4\), "),
        (tensors | {"base_model.model.lm_head.weight": torch.ones(2)}, "lm_head.weight is no factor of LoRA"),
    ):
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            export_gguf(folder, tmp_path / "a.gguf", tiny_gpt.FOLDER)


def test_the_command(tmp_path: Path, capsys) -> None:
    file = tmp_path / "devil.gguf"
    assert cli.main(["export", str(DEVILS_ADAPTER), str(file)]) == 0
    assert capsys.readouterr().out == f"{file}: {file.stat().st_size:,} bytes, an adapter for llama.cpp.\n"
    assert cli.main(["export", str(tmp_path), str(file)]) == 2
    assert "holds no adapter_config.json" in capsys.readouterr().err


def test_a_large_model_needs_no_weights(tmp_path: Path) -> None:
    """Llama-3.1's heads come from the planner's table; the adapter's own tensors are all that is read."""
    folder, shape = tmp_path / "adapter", model_shape("Llama-3.1-8B")
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["k_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(
        json.dumps(settings | {"base_model_name_or_path": "meta-llama/Llama-3.1-8B-Instruct"})
    )
    B, name = torch.arange(1024.0)[:, None], "base_model.model.model.layers.31.self_attn.k_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(1, 4096), f"{name}.lora_B.weight": B}, folder / "adapter_model.safetensors"
    )
    file = GGUFFile(export_gguf(folder, tmp_path / "a.gguf"))
    assert file.metadata["adapter.lora.alpha"] == 2
    assert file.tensor("blk.31.attn_k.weight.lora_b")[:4, 0].tolist() == [
        0,
        shape.head_dim // 2,
        1,
        shape.head_dim // 2 + 1,
    ]


# ---------------------------------------------------------------------------------------------------------- llama.cpp


@torch.no_grad()
def assert_same(model: nn.Module, prompt: list[int], theirs: dict, tolerance: float) -> None:
    """llama.cpp's tokens are the likeliest here, or a tie with them, with the log-probabilities that they have here."""
    ids = torch.tensor([[*prompt, *theirs["ids"]]])
    scores = model(ids)[0, len(prompt) - 1 : -1].log_softmax(-1)
    for score, token, said in zip(scores, theirs["ids"], theirs["log_probabilities"], strict=True):
        assert abs(score[token] - said) < tolerance
        assert score[token] > score.max() - tolerance


def ask(model: Path, prompt: list[int], scales: tuple[float, ...], adapters: tuple[Path, ...] = ()) -> list[dict]:
    """Here in this process: with one thread it waits for none of torch's."""
    engine = Engine(1, [str(path) for path in adapters], model)
    return [engine.complete(prompt, NEW, scale) for scale in scales]


@with_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["F32", "F16", *QUANTIZED])
def test_llama_cpp_computes_as_the_file_that_we_read(tmp_path: Path, weights: str) -> None:
    path = save_gguf(*load_tiny_gpt(), tmp_path / "tiny.gguf", weights)
    model, tokenizer = load_gguf(path)
    prompt = tokenizer.encode("It was a truth universally acknowledged, that")
    (theirs,) = ask(path, prompt, (0.0,))
    assert_same(model, prompt, theirs, ROUNDED if weights in QUANTIZED else EXACT)


@with_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_llama_cpp_computes_as_our_adapter(tmp_path: Path, name: str) -> None:
    """At its scale, and as the base where it is off."""
    folder = trained(CONFIGS[name], tmp_path / "adapter", untied())
    tokenizer = load_tiny_gpt()[1]
    base = save_gguf(untied(), tokenizer, tmp_path / "base.gguf", "F32")
    file = export_gguf(folder, tmp_path / "adapter.gguf", base=base)
    prompt, model = tokenizer.encode("It was a truth universally acknowledged, that"), load_adapter(untied(), folder)
    on, off = ask(base, prompt, (1.0, 0.0), (file,))
    assert_same(model, prompt, on, EXACT)
    with adapters_disabled(model):
        assert_same(model, prompt, off, EXACT)
    assert on["log_probabilities"] != off["log_probabilities"]


@with_llama_cpp
@pytest.mark.slow
@pytest.mark.parametrize("weights", ["F16", "Q8_0"])
def test_a_merged_smollm2_in_llama_cpp(tmp_path: Path, weights: str) -> None:
    model, tokenizer = load_smollm2()
    path = save_gguf(merge(load_adapter(model, DEVILS_ADAPTER)), tokenizer, tmp_path / "merged.gguf", weights)
    prompt = prompt_ids(tokenizer, "Define the word friend.")
    (theirs,) = ask(path, prompt, (0.0,))
    assert_same(load_gguf(path)[0], prompt, theirs, ROUNDED if weights in QUANTIZED else EXACT)
