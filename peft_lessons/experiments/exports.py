"""Two adapters of SmolLM2 on their way out: beside the base's file, or merged into it and written in 16, 8 or 4 bits.

The base's own file is in Q4_1, blocks of 32 with a scale and a smallest value. kept: "base" (no adapter), "beside" (the
base's file and the adapter's), or the format of the merged file; "unordered" as if the rows of the adapter's queries
and keys, or of the merged model's, had not been put into the order of the format. bytes: of the files. perplexity: of
the task's held-out answers, by the model that is read back. right: for countries, 1 for each held-out record that comes
out to the last character, as in `laptop`; empty for definitions.
"""

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from peft_lessons.adapters import merge, named_adapters
from peft_lessons.checkpoints.files import load_adapter
from peft_lessons.checkpoints.gguf import export_gguf
from peft_lessons.experiments import laptop
from peft_lessons.models import Tokenizer, load_gguf, load_smollm2, save_gguf
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.llama_gguf import rotated_heads, to_halves
from peft_lessons.models.smollm2 import weights_path
from peft_lessons.tasks import COUNTRY_ADAPTER, DEVILS_ADAPTER, Example, country_records, devils_definitions
from peft_lessons.training import evaluate_loss, padded

KEPT = ("base", "beside", "F16", "Q8_0", "Q4_0", "Q4_1", "beside, unordered", "F16, unordered")
TASKS: dict[str, tuple[Path, Callable[[Tokenizer], Any]]] = {
    "definitions": (DEVILS_ADAPTER, devils_definitions),
    "countries": (COUNTRY_ADAPTER, country_records),
}


def cases() -> list[dict[str, Any]]:
    return [{"task": task, "kept": kept} for task in TASKS for kept in KEPT]


def model_and_bytes(adapter: Path, kept: str) -> tuple[Decoder, int]:
    """Return the model as its user would have it, and how large its files are."""
    model, tokenizer = load_smollm2()
    size = weights_path().stat().st_size
    if kept == "base":
        return model, size
    load_adapter(model, adapter)
    kept, _, fault = kept.partition(", ")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "exported.gguf"
        if kept == "beside":
            return _read(model, fault), size + export_gguf(adapter, file).stat().st_size
        save_gguf(merge(model), tokenizer, file, weights=kept)
        return _read(load_gguf(file)[0], fault), file.stat().st_size


@torch.no_grad()
def _read(model: Decoder, fault: str) -> Decoder:
    """Take rows that were never put in the format's order for such as were: an adapter's if there is one, else all."""
    if fault:
        adapters = dict(named_adapters(model))
        for name, module in (adapters or dict(model.named_modules())).items():
            if (heads := rotated_heads(name, model.config)) is not None:
                rows: Any = module.lora_B if adapters else module.weight
                rows.copy_(to_halves(rows, heads))
    return model


def measure(task: str, kept: str) -> dict[str, Any]:
    started = time.perf_counter()
    adapter, examples_of = TASKS[task]
    model, size = model_and_bytes(adapter, kept)
    tokenizer = load_smollm2()[1]
    held_out: list[Example] = examples_of(tokenizer).held_out
    end = tokenizer.eos_id
    batches = [padded(held_out[start : start + 8], end) for start in range(0, len(held_out), 8)]
    return {
        "bytes": size,
        "perplexity": math.exp(evaluate_loss(model, batches)),
        "right": laptop.exact(model, held_out, end) if task == "countries" else [],
        "seconds": time.perf_counter() - started,
    }
