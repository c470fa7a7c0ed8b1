"""Checkpoints in Hugging Face's layout, written by transformers, read by the course."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from peft_lessons.models.hub import load_from_hub, read_config
from peft_lessons.models.tiny_gpt import FOLDER

SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def save(folder: Path, dtype: torch.dtype = torch.float32, max_shard_size: str = "5GB", **settings) -> LlamaForCausalLM:
    """A checkpoint as transformers writes it, with the tiny GPT's tokenizer."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE | settings)).to(dtype).eval()
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "tokenizer.json").write_bytes((FOLDER / "tokenizer.json").read_bytes())
    tokens = {
        "eos_token": {"content": "<|endoftext|>"},
        "bos_token": None,
        "chat_template": "{{ messages[0].content }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    return model


def change(path: Path, **settings) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_theta": 50_000.0, "rms_norm_eps": 1e-3},
        {"num_key_value_heads": 4},
        {"max_shard_size": "200KB"},
    ],
)
def test_logits_equal_transformers(tmp_path: Path, settings: dict) -> None:
    reference = save(tmp_path, **settings)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == ("max_shard_size" in settings)
    model, tokenizer = load_from_hub(tmp_path)
    ids = torch.tensor([tokenizer.encode("She had been forced into prudence in her youth.")])
    assert torch.equal(model(ids), reference(ids).logits)
    assert tokenizer.eos_id == 0
    assert tokenizer.chat([{"role": "user", "content": "Hello"}]) == "Hello"


def test_bf16_checkpoints_become_fp32(tmp_path: Path) -> None:
    save(tmp_path, dtype=torch.bfloat16)
    reference = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert load_file(tmp_path / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16
    model, _ = load_from_hub(str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    ids = torch.arange(30)[None]
    assert torch.equal(model(ids), reference(ids).logits)


def test_both_spellings_of_the_rotary_base_are_read(tmp_path: Path) -> None:
    save(tmp_path)
    config = tmp_path / "config.json"
    settings = json.loads(config.read_text())
    settings.pop("rope_parameters", None)
    config.write_text(json.dumps(settings | {"rope_theta": 7.0}))
    assert read_config(tmp_path).rope_theta == 7.0
    change(config, rope_parameters={"rope_type": "default", "rope_theta": 9.0})
    assert read_config(tmp_path).rope_theta == 9.0


def test_a_template_in_a_file_of_its_own_is_read(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    change(tmp_path / "tokenizer_config.json", bos_token="<b>")
    _, tokenizer = load_from_hub(tmp_path)
    assert tokenizer.chat([{"role": "user", "content": "Hello"}]) == "<b>Hello<|endoftext|>"


def test_of_named_templates_the_default_is_read(tmp_path: Path) -> None:
    save(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    templates = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ messages[0].content }}!"}]
    change(config, chat_template=templates)
    assert load_from_hub(tmp_path)[1].chat([{"role": "user", "content": "Hello"}]) == "Hello!"
    for wrong in (templates[:1], ["default"], {"default": "x"}, 5):
        change(config, chat_template=wrong)
        with pytest.raises(ValueError, match=r"tokenizer_config\.json: chat_template must be a text, or a list"):
            load_from_hub(tmp_path)


def test_a_token_without_text_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    for wrong in ({"id": 3}, 3, ["<s>"]):
        change(tmp_path / "tokenizer_config.json", bos_token=wrong)
        with pytest.raises(ValueError, match="bos_token must be a text, or an object with its content; got"):
            load_from_hub(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_what_is_no_object_is_refused(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / name).write_text("[1]")
    with pytest.raises(ValueError, match=rf"{name} must hold a JSON object, got \[1\]"):
        load_from_hub(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, r"describes \['GPT2LMHeadModel'\]; supported: \['LlamaForCausalLM'\]"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True, "mlp_bias": True}, "attention_bias True .*, mlp_bias True"),
        ({"head_dim": 32}, "head_dim 32"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}, "rope_type 'linear'"),
        (
            {"num_hidden_layers": None},
            r"config\.json must say whole numbers above 0 .*; got num_hidden_layers=None",
        ),
        ({"num_attention_heads": 0, "vocab_size": "1k"}, "got vocab_size='1k', num_attention_heads=0"),
        ({"hidden_size": 128}, r"embed_tokens.weight is \(1024, 64\), expected \(1024, 128\)"),
    ],
)
def test_what_this_decoder_is_not_is_refused(tmp_path: Path, settings: dict, message: str) -> None:
    save(tmp_path)
    change(tmp_path / "config.json", **settings)
    if "hidden_size" in settings:
        change(tmp_path / "config.json", head_dim=None)
    with pytest.raises(ValueError, match=message):
        load_from_hub(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / name).write_bytes(b"{nonsense")
    with pytest.raises(ValueError, match=name):
        load_from_hub(tmp_path)
    (tmp_path / name).unlink()
    if name == "tokenizer_config.json":
        change(tmp_path / "config.json", eos_token_id=None)  # which would serve as well
    with pytest.raises(FileNotFoundError, match=name):
        load_from_hub(tmp_path)


@pytest.mark.parametrize(("said", "expected"), [(7, 7), ([9, 7], 9)])
@pytest.mark.parametrize("silent", [False, True], ids=["no file", "no eos_token in it"])
def test_the_end_token_may_come_from_the_model(tmp_path: Path, said: object, expected: int, silent: bool) -> None:
    save(tmp_path)
    change(tmp_path / "config.json", eos_token_id=said)
    assert load_from_hub(tmp_path)[1].eos_id == 0  # the tokenizer's own comes first
    if silent:
        change(tmp_path / "tokenizer_config.json", eos_token=None)
    else:
        (tmp_path / "tokenizer_config.json").unlink()
    _, tokenizer = load_from_hub(tmp_path)
    assert tokenizer.eos_id == expected
    assert (tokenizer.chat_template is None) == (not silent)
    change(tmp_path / "config.json", eos_token_id=1_000_000)
    with pytest.raises(ValueError, match=r"tokenizer.json has no token 1000000"):
        load_from_hub(tmp_path)
    for wrong in ("</s>", [], 2.0, True):
        change(tmp_path / "config.json", eos_token_id=wrong)
        with pytest.raises(ValueError, match="eos_token_id must be an id or a list of ids; got"):
            load_from_hub(tmp_path)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    model = save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="never pickled weights"):
        load_from_hub(tmp_path)


def test_without_a_network_the_error_says_what_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match=r"'a/model' is not in the cache.*load_smollm2\(\)"):
        load_from_hub("a/model")


@pytest.mark.parametrize("model_id", ["/no/such/folder", "..", "a/b/c"])
def test_a_name_that_is_none_is_refused(model_id: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()  # so that ".." is empty, and no other test's folder
    monkeypatch.chdir(tmp_path / "inside")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError):
        load_from_hub(model_id)
