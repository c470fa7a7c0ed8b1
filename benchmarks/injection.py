"""Putting adapters into a model of the shape of SmolLM2-1.7B, and their files, against peft."""

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import compare
from benchmarks.report import Section, number
from peft_lessons.adapters import inject, remove_adapters
from peft_lessons.checkpoints.files import load_adapter, save_adapter
from peft_lessons.methods.lora import LLAMA_LINEAR_LAYERS, LoRAConfig
from peft_lessons.models.decoder import Decoder, DecoderConfig

SHAPE = DecoderConfig(
    vocab_size=49152,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=24,
    num_attention_heads=32,
    num_key_value_heads=32,
)
OURS = LoRAConfig(rank=8, targets=LLAMA_LINEAR_LAYERS)
THEIRS = peft.LoraConfig(r=8, lora_alpha=16, target_modules=list(LLAMA_LINEAR_LAYERS))


def section(shape: DecoderConfig = SHAPE, repeats: int = 5) -> Section:
    with torch.device("meta"):
        ours, theirs = Decoder(shape), LlamaForCausalLM(LlamaConfig(**asdict(shape)))
    for model in (ours, theirs):  # nobody reads the weights here, so that they need no content
        model.bfloat16().to_empty(device="cpu")
    rows, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        for what, variants in tasks(ours, theirs, Path(folder)).items():
            found = compare(variants, repeats=repeats)
            ratio = found["ours"] / found["peft"]
            rows.append((what, *(number(timing.seconds, 3) for timing in found.values()), number(ratio)))
            ratios.append((f"{what}, 1.7B: time, peft = 1", ratio))
    count = sum(parameter.numel() for parameter in ours.parameters())
    return Section(
        title="Adapters of a large model, and their files",
        text=f"LoRA of rank 8 on all linear layers of a bf16 model of {count / 1e9:.2f} billion parameters; seconds of "
        "one thread, without the time in which it waits for the disk.",
        columns=("what", "ours, s", "peft, s", "ratio"),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def tasks(ours: Decoder, theirs: LlamaForCausalLM, folder: Path) -> dict[str, dict[str, Callable[[], object]]]:
    """What each side does for each row of the table. The models end as they were."""

    def save(adapted: Decoder) -> None:
        save_adapter(adapted, OURS, folder / "ours")

    def our_save() -> None:
        save(inject(ours, OURS))
        remove_adapters(ours)

    def their_save() -> None:
        peer = peft.get_peft_model(theirs, THEIRS)
        peer.save_pretrained(str(folder / "theirs"), save_embedding_layers=False)
        peer.unload()

    return {
        "inject, take out": {
            "ours": lambda: remove_adapters(inject(ours, OURS)),
            "peft": lambda: peft.get_peft_model(theirs, THEIRS).unload(),
        },
        "inject, save, take out": {"ours": our_save, "peft": their_save},
        "load, take out": {
            "ours": lambda: remove_adapters(load_adapter(ours, folder / "ours")),
            "peft": lambda: peft.PeftModel.from_pretrained(theirs, str(folder / "theirs")).unload(),
        },
    }
