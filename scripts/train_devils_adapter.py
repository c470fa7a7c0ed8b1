"""Train the adapter that lesson 01 switches on and off, and write it into the package.

    python scripts/train_devils_adapter.py

LoRA of rank 4 on every linear layer of SmolLM2-135M-Instruct, 100 steps of 4 definitions from the Devil's Dictionary.
Takes about three minutes on two cores. The weights are stored in bfloat16: the rounding is far below the noise of
training, and halves the file.
"""

import json
import math

import torch
from torch import nn

from peft_lessons import LoRAConfig, LoRALinear, adapter_state_dict, inject, save_adapter
from peft_lessons.models import load_smollm2
from peft_lessons.models.chat import answer
from peft_lessons.tasks import DEVILS_ADAPTER, devils_definitions
from peft_lessons.training import evaluate_loss, padded, shuffled, train

CONFIG = LoRAConfig(rank=4, alpha=8)


def main() -> None:
    model, tokenizer = load_smollm2()
    examples = devils_definitions(tokenizer)
    held_out = [padded(examples.held_out[i : i + 8], tokenizer.eos_id) for i in range(0, len(examples.held_out), 8)]
    torch.manual_seed(0)
    inject(model, CONFIG)
    history = train(
        model,
        shuffled(examples.train, batch_size=4, pad_id=tokenizer.eos_id, seed=0),
        steps=100,
        learning_rate=1e-3,
        evaluate=lambda model: evaluate_loss(model, held_out),
        evaluate_every=50,
    )
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            layer.lora_A, layer.lora_B = (nn.Parameter(p.bfloat16()) for p in (layer.lora_A, layer.lora_B))
    folder = save_adapter(model, CONFIG, DEVILS_ADAPTER, base_model="HuggingFaceTB/SmolLM2-135M-Instruct")
    before, after = (math.exp(loss) for _, loss in (history.evaluations[0], history.evaluations[-1]))
    print(f"{len(examples.train)} definitions, {len(examples.held_out)} held out, {history.seconds:.0f} s of training")
    print(f"held-out perplexity {before:.1f} -> {after:.1f}; after each 50 steps: {json.dumps(history.evaluations)}")
    print(f"{sum(t.numel() for t in adapter_state_dict(model).values()):,} parameters in {folder}")
    for word in ("friend", "computer", "teacher", "love"):
        print(f"{word}: {answer(model, tokenizer, f'Define the word {word}.', 40)}")
    print(answer(model, tokenizer, "What is the capital of France?", 40))


if __name__ == "__main__":
    main()
