"""Train the adapters of SmolLM2-135M-Instruct that ship with the course, and write them into the package.

    python -m tools.artifacts.train_adapters                      both
    python -m tools.artifacts.train_adapters country_records      one of them

LoRA of rank 4 on every linear layer; two to three minutes each on two cores. The weights are stored in bfloat16: the
rounding is far below the noise of training, and halves the file.
"""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from peft_lessons import LoRAConfig, LoRALinear, adapter_state_dict, inject, save_adapter
from peft_lessons.models import Tokenizer, load_smollm2
from peft_lessons.models.chat import answer
from peft_lessons.tasks import COUNTRY_ADAPTER, DEVILS_ADAPTER, Countries, Split, country_records, devils_definitions
from peft_lessons.training import evaluate_loss, padded, shuffled, train

CONFIG = LoRAConfig(rank=4, alpha=8)


class Recipe(NamedTuple):
    folder: Path
    examples: Callable[[Tokenizer], Split | Countries]
    steps: int
    learning_rate: float
    questions: Sequence[str]  # to look at afterwards


RECIPES = {
    "devils_dictionary": Recipe(
        DEVILS_ADAPTER,
        devils_definitions,
        100,
        1e-3,
        [*(f"Define the word {word}." for word in ("friend", "computer", "love")), "What is the capital of France?"],
    ),
    "country_records": Recipe(
        COUNTRY_ADAPTER,
        country_records,
        60,
        2e-3,
        [
            "Turn this into JSON: Oslo is the capital of Norway (Europe, 323,802 square kilometres).",
            "What is the capital of France?",
        ],
    ),
}


def make(recipe: Recipe) -> None:
    model, tokenizer = load_smollm2()
    examples, pad = recipe.examples(tokenizer), tokenizer.eos_id
    held_out = [padded(examples.held_out[i : i + 8], pad) for i in range(0, len(examples.held_out), 8)]
    torch.manual_seed(0)
    inject(model, CONFIG)
    history = train(
        model,
        shuffled(examples.train, batch_size=4, pad_id=pad, seed=0),
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        evaluate=lambda model: evaluate_loss(model, held_out),
    )
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            layer.lora_A, layer.lora_B = (nn.Parameter(p.bfloat16()) for p in (layer.lora_A, layer.lora_B))
    folder = save_adapter(model, CONFIG, recipe.folder, base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
    before, after = (math.exp(loss) for _, loss in (history.evaluations[0], history.evaluations[-1]))
    print(f"{len(examples.train)} examples, {len(examples.held_out)} held out, {history.seconds:.0f} s of training")
    print(f"held-out perplexity {before:.3g} -> {after:.3g}; evaluations: {json.dumps(history.evaluations)}")
    print(f"{sum(t.numel() for t in adapter_state_dict(model).values()):,} parameters in {folder}")
    for question in recipe.questions:
        print(f"{question}\n  {answer(model, tokenizer, question, 48)}")


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in RECIPES]:
        print(f"no adapter is called {', '.join(unknown)}; there are {', '.join(RECIPES)}", file=sys.stderr)
        return 2
    for name in names or RECIPES:
        make(RECIPES[name])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
