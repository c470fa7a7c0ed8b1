"""The pages for practitioners: what they count is counted again here, and their code runs."""

import json
import re
from pathlib import Path

import peft
import pytest
import torch
from test_hub import save
from transformers import AutoModelForCausalLM

from peft_lessons import LoRAConfig, load_adapter
from peft_lessons.accounting import (
    BF16,
    NF4_DOUBLE,
    TRAIN_FP32,
    FullFineTuning,
    model_shape,
    trained_parameters,
    training_memory,
)
from peft_lessons.experiments import knobs, stored, zoo
from peft_lessons.models.hub import load_from_hub

DOCS = Path(__file__).resolve().parents[1] / "docs"
OTHERS, MONDAY = ((DOCS / name).read_text(encoding="utf-8") for name in ("others.md", "monday.md"))


def trained(model, rank):
    shape = model_shape(model)
    return trained_parameters(shape, LoRAConfig(rank=rank, targets=shape.linear_targets))


def held(model, storage, tokens):
    """Bytes of a training step of LoRA, rank 16, on one sequence, with checkpointing."""
    shape = model_shape(model)
    config = LoRAConfig(rank=16, targets=shape.linear_targets)
    return training_memory(
        shape, config, batch=1, tokens=tokens, checkpointing=True, precision=TRAIN_FP32, storage=storage
    )


def best(**settings):
    return min(stored("knobs").where(part="grid", **settings), key=lambda row: row["jargon"])


def best_full_rate():
    def mean(rate):
        rows = stored("zoo").where(method="full fine-tuning", learning_rate=rate)
        return sum(row["jargon"] for row in rows) / len(rows)

    return min(zoo.RATES["full fine-tuning"], key=mean)


def counted():
    """What the page says, by what is counted for it."""
    whole = trained_parameters(model_shape("Llama-3.1-8B"), FullFineTuning())
    r16 = trained("Llama-3.1-8B", 16)
    ninety = max(rank for rank in range(290, 320) if trained("Llama-3.1-8B", rank) <= 0.1 * whole)
    dense = held("Llama-3.1-8B", BF16, 2048)
    twice = {rank: best(rank=rank, alpha=2 * rank) for rank in knobs.RANKS}
    costs = max(row["jargon"] / best(rank=rank)["jargon"] - 1 for rank, row in twice.items())
    small = trained("SmolLM2-135M", 16)
    small_whole = trained_parameters(model_shape("SmolLM2-135M"), FullFineTuning())
    full = best_full_rate()
    rates = {alpha: best(rank=16, alpha=alpha)["learning_rate"] for alpha in (2, 128)}
    saved = {
        tokens: held("Llama-3.1-8B", BF16, tokens).total / held("Llama-3.1-8B", NF4_DOUBLE, tokens).total
        for tokens in (512, 2048)
    }
    big = held("Llama-3.1-70B", NF4_DOUBLE, 512).total / 1e9
    return {
        "numbers trained": f"trains {r16:,} of {whole:,} numbers: {100 - 100 * r16 / whole:.2f} % fewer",
        "the rank of 90 %": f"Only a rank of {ninety}",
        "the base's share": f"it is {100 * dense.base / dense.total:.0f} % of what training",
        "twice the rank": f"costs at most {100 * costs:.0f} %",
        "its rates": f"from {twice[1]['learning_rate']:g} at rank 1 to {twice[64]['learning_rate']:g} at rank 64",
        "a small model": f"trains {small:,} numbers, {100 * small / small_whole:.1f} % of it",
        "rates apart": f"a factor of {rates[2] / full:.0f} apart at α = 2 and of {rates[128] / full:.0f} at α = 128",
        "one LoRA, two rates": f"LoRA of rank 16 wants {rates[2]:g} or {rates[128]:g}",
        "NF4": f"16 bits become {NF4_DOUBLE.bits_per_weight:.3f}",
        "memory saved": f"needs {saved[512]:.1f} times less, of 2,048 tokens {saved[2048]:.1f} times",
        "70 billion": f"{big:.1f} GB with one sequence",
    }


@pytest.mark.parametrize(("what", "sentence"), counted().items())
def test_what_others_say_is_counted(what, sentence):
    assert sentence in OTHERS, what


MODEL = "HuggingFaceTB/SmolLM2-360M-Instruct"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """The base of the runs on Monday's page that can run here, and {title: the adapter's folder}."""
    base = tmp_path_factory.mktemp("base")
    save(base, max_position_embeddings=1024)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    folders = {}
    for title in ("This package", "peft and transformers"):
        folders[title] = tmp_path_factory.mktemp("run")
        pairs = [{"prompt": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(16)]
        (folders[title] / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
        (code,) = re.findall(rf"^### {title}\n\n```python\n(.*?)```", MONDAY, re.MULTILINE | re.DOTALL)
        assert code.count(f'"{MODEL}"') == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folders[title])
            exec(compile(code.replace(MODEL, str(base)), title, "exec"), {})
    return base, {title: folder / "my_adapter" for title, folder in folders.items()}


def test_mondays_runs_train_an_adapter_that_the_other_library_reads(adapters):
    base, folders = adapters
    model, tokenizer = load_from_hub(base)
    ids = torch.tensor([tokenizer.encode("What is 3 and 3?")])
    before = model(ids)
    for folder in folders.values():
        ours, _ = load_from_hub(base)
        load_adapter(ours, folder)
        theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
        torch.testing.assert_close(ours(ids), theirs(ids).logits, atol=1e-5, rtol=1e-4)
        assert not torch.equal(ours(ids), before), "it has learnt something"


def test_mondays_runs_have_the_same_settings():
    blocks = re.findall(r"```python\n(.*?)```", MONDAY, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        assert re.search(r"\b(rank|r)=16\b", block) and re.search(r"\balpha=16\b|lora_alpha=16\b", block)
    assert all(re.search(r"\b(lr|learning_rate)=2e-4", block) for block in blocks[:3])
