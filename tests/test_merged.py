"""Whole models with an adapter merged into them: against peft, transformers, and what the adapter computes."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from test_gguf import trained
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_lessons import (
    ALL_LINEAR,
    DoRAConfig,
    LoRAConfig,
    cli,
    export_merged_folder,
    export_merged_gguf,
    load_adapter,
    quantize_model,
)
from peft_lessons.models import (
    load_from_hub,
    load_gguf,
    load_smollm2,
    load_tiny_gpt,
    save_for_transformers,
    save_gguf,
    tiny_gpt,
)
from peft_lessons.tasks import DEVILS_ADAPTER

IDS = torch.randint(1024, (2, 20), generator=torch.Generator().manual_seed(0))


def test_a_merged_model_is_what_the_adapter_and_its_base_compute(tmp_path: Path, capsys) -> None:
    """Of LoRA, and of DoRA, for which llama.cpp has no place beside a model."""
    base = save_gguf(*load_tiny_gpt(), tmp_path / "base.gguf", weights="F32")
    for config in (LoRAConfig(rank=4, alpha=8), DoRAConfig(rank=4, alpha=8)):
        folder = trained(config, tmp_path / type(config).__name__)
        expected = load_adapter(load_tiny_gpt()[0], folder)(IDS)
        file = tmp_path / f"{type(config).__name__}.gguf"
        merged, tokenizer = load_gguf(export_merged_gguf(folder, file, "F32", base))
        torch.testing.assert_close(merged(IDS), expected, rtol=1e-4, atol=1e-4)
        assert (merged(IDS) - load_tiny_gpt()[0](IDS)).abs().max() > 0.1
        assert tokenizer.decode(tokenizer.encode("It was a truth")) == "It was a truth"
        assert cli.main(["export", str(folder), str(file), str(base), "--merged", "Q8_0"]) == 0
        assert capsys.readouterr().out == (f"{file}: {file.stat().st_size:,} bytes, a merged model for llama.cpp.\n")
        assert (load_gguf(file)[0](IDS) - expected).abs().max() < 0.2 * (expected.max() - expected.min())


def test_what_cannot_be_merged_is_refused_and_leaves_the_old_file(tmp_path: Path, capsys) -> None:
    folder, file = trained(LoRAConfig(rank=2), tmp_path / "adapter"), tmp_path / "merged.gguf"
    base = save_gguf(*load_tiny_gpt(), tmp_path / "base.gguf", weights="F32")
    file.write_text("old")
    with pytest.raises(ValueError, match="as its base: say where that is"):
        export_merged_gguf(folder, file)
    with pytest.raises(ValueError, match="weights is 'Q5_K'; possible: F32, F16, Q4_0, Q4_1, Q8_0"):
        export_merged_gguf(folder, file, "Q5_K", base)
    with pytest.raises(FileNotFoundError):
        export_merged_gguf(folder, file, base=tmp_path / "nowhere.gguf")
    with pytest.raises(ValueError):
        export_merged_gguf(DEVILS_ADAPTER, file, base=base)
    assert cli.main(["export", str(folder), str(file), "--merged", "Q8_0"]) == 2
    assert "say where that is" in capsys.readouterr().err
    assert file.read_text() == "old"


@pytest.mark.parametrize("config", [LoRAConfig(rank=4, alpha=8, targets=ALL_LINEAR), DoRAConfig(rank=4, alpha=8)])
def test_transformers_reads_the_folder_and_gives_what_peft_merges(tmp_path: Path, config, capsys) -> None:
    folder, out = trained(config, tmp_path / "adapter"), tmp_path / "model"
    assert export_merged_folder(folder, out, tiny_gpt.FOLDER) == out
    theirs = AutoModelForCausalLM.from_pretrained(out)
    base = AutoModelForCausalLM.from_pretrained(tiny_gpt.FOLDER, dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, folder).merge_and_unload()
    assert theirs.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(theirs(IDS).logits, expected(IDS).logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(theirs(IDS).logits, load_from_hub(out)[0](IDS))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert cli.main(["export", str(folder), str(out), str(tiny_gpt.FOLDER), "--merged", "safetensors"]) == 0
    size = sum(len(content) for content in before.values())
    assert capsys.readouterr().out == f"{out}: {size:,} bytes, a merged model for transformers.\n"
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


@pytest.mark.slow
def test_smollm2_goes_out_and_comes_back_whole(tmp_path: Path) -> None:
    """Its tokenizer and template come from a GGUF file; what is written is what transformers has of them."""
    model, tokenizer = load_smollm2()
    folder = save_for_transformers(model, tokenizer, tmp_path / "model")
    theirs, theirs_tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "Define the word friend. \U0001f642 12345"}]
    text = tokenizer.chat(question)
    assert theirs_tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True) == text
    ids = torch.tensor([tokenizer.encode(text)])
    assert theirs_tokenizer.encode(text, add_special_tokens=False) == ids[0].tolist()
    assert theirs_tokenizer.eos_token_id == theirs.config.eos_token_id == tokenizer.eos_id
    back, back_tokenizer = load_from_hub(folder)
    with torch.no_grad():
        assert (theirs(ids).logits - model(ids)).abs().max() < 1e-3
        assert torch.equal(back(ids), model(ids))
    assert back_tokenizer.chat(question) == text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    model, tokenizer = load_tiny_gpt()
    folder = save_for_transformers(model.to(dtype), tokenizer, tmp_path / "model")
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    assert theirs.dtype == dtype
    assert all(torch.equal(theirs.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_quantized_layers_are_dequantized(tmp_path: Path) -> None:
    model, tokenizer = load_tiny_gpt()
    expected = quantize_model(model)(IDS)
    folder = save_for_transformers(model, tokenizer, tmp_path / "model")
    torch.testing.assert_close(load_from_hub(folder)[0](IDS), expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_plain_model_is_refused(tmp_path: Path) -> None:
    model, tokenizer = load_tiny_gpt()
    with pytest.raises(TypeError, match="only a Decoder is written"):
        save_for_transformers(torch.nn.Linear(2, 2), tokenizer, tmp_path / "model")
    folder = trained(LoRAConfig(rank=2), tmp_path / "adapter")
    with pytest.raises(ValueError, match="the model has adapters"):
        save_for_transformers(load_adapter(model, folder), tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()
