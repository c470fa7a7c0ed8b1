"""The tiny GPT that the course ships: its bytes, what it knows, and that the script in the repository makes it."""

import hashlib
import importlib.util
import json
import math
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_lessons.data import AUSTEN_HELD_OUT, austen, jargon
from peft_lessons.models import tiny_gpt
from peft_lessons.models.decoder import Decoder, generate
from peft_lessons.models.tiny_gpt import FOLDER, load_tiny_gpt
from peft_lessons.models.tokenizer import Tokenizer
from peft_lessons.training import consecutive_windows, evaluate_loss

ROOT = Path(__file__).resolve().parents[1]
ABOUT = json.loads((FOLDER / "about.json").read_text())


@pytest.fixture(scope="module")
def loaded() -> tuple[Decoder, Tokenizer]:
    return load_tiny_gpt()


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_tiny_gpt", ROOT / "tools/artifacts/train_tiny_gpt.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_has_1_33_million_parameters_in_under_4_megabytes(loaded: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = loaded
    assert sum(parameter.numel() for parameter in model.parameters()) == ABOUT["parameters"] == 1_332_640
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.vocab_size == model.config.vocab_size == 1024
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 4_000_000


def test_checksums() -> None:
    assert ABOUT["sha256"].keys() == {"model.safetensors", "tokenizer.json"}
    for name, expected in ABOUT["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == expected


@pytest.mark.slow
def test_perplexity_on_the_unseen_novel_is_what_is_said(loaded: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = loaded
    assert ABOUT["held_out"] == AUSTEN_HELD_OUT and AUSTEN_HELD_OUT not in ABOUT["trained_on"]
    assert len(ABOUT["trained_on"]) == 5
    ids = tokenizer.encode(austen()[AUSTEN_HELD_OUT])
    length = ABOUT["training"]["tokens"]
    perplexity = math.exp(evaluate_loss(model, consecutive_windows(ids, batch_size=32, length=length)))
    assert perplexity == pytest.approx(ABOUT["perplexity"], rel=1e-3)
    assert perplexity < 30  # a model that knows nothing has 1,024

    other = tokenizer.encode("\n".join(entry["text"] for entry in jargon()[:100]))
    assert math.exp(evaluate_loss(model, consecutive_windows(other, batch_size=32, length=length))) > 5 * perplexity


def test_transformers_reads_the_same_files_and_gives_the_same_logits(loaded: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = loaded
    text = "Elizabeth could not but smile at such a conclusion of such a question."
    ids = torch.tensor([tokenizer.encode(text)])
    reference = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    assert torch.equal(model(ids), reference(ids).logits)
    assert AutoTokenizer.from_pretrained(FOLDER).encode(text, add_special_tokens=False) == ids[0].tolist()


def test_it_writes_words(loaded: tuple[Decoder, Tokenizer]) -> None:
    model, tokenizer = loaded
    ids = torch.tensor([tokenizer.encode("It was a ")])
    text = tokenizer.decode(generate(model, ids, 80, temperature=0.7, seed=1)[0])
    known = set(" ".join(austen().values()).split())
    written = text.split()[1:-1]
    assert len(written) > 20
    assert sum(word in known for word in written) > 0.8 * len(written)


@pytest.mark.parametrize("text", ["Emma Woodhouse,\nhandsome.", "日本 🙂 \t x = 1;", "", "<|endoftext|>"])
def test_the_tokenizer_gives_any_text_back(loaded: tuple[Decoder, Tokenizer], text: str) -> None:
    _, tokenizer = loaded
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_it_does_not_converse(loaded: tuple[Decoder, Tokenizer]) -> None:
    with pytest.raises(ValueError, match="no chat template"):
        loaded[1].chat([{"role": "user", "content": "Hello"}])


@pytest.mark.slow
def test_the_script_makes_this_tokenizer(script: ModuleType) -> None:
    novels = [text for title, text in austen().items() if title != AUSTEN_HELD_OUT]
    assert script.train_tokenizer(novels).to_str() == (FOLDER / "tokenizer.json").read_text(encoding="utf-8")


def test_the_script_describes_this_model(script: ModuleType, loaded: tuple[Decoder, Tokenizer]) -> None:
    assert loaded[0].config == script.CONFIG
    assert ABOUT["training"]["steps"] == script.STEPS and ABOUT["training"]["learning_rate"] == script.LEARNING_RATE


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_damage_is_an_error_that_names_what_mends_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "tiny")
    monkeypatch.setattr(tiny_gpt, "FOLDER", folder)
    load_tiny_gpt()
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged.*\ngit checkout -- peft_lessons/models/tiny_gpt"):
        load_tiny_gpt()
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"lacks {name}.*\ngit checkout"):
        load_tiny_gpt()
