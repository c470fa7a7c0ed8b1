"""Train the adapters of the drawing model that ship with the course, and write them into the package.

    python -m tools.artifacts.train_letter_adapters                  all three
    python -m tools.artifacts.train_letter_adapters "dkg"            one of them

LoRA of rank 8 on every linear layer of the blocks, from 19 letters of a typeface that the base has never seen; half a
minute each on two cores. The weights are stored in bfloat16: the rounding is far below the noise of training, and
halves the file.
"""

import sys

import torch
from torch import nn

from peft_lessons import LoRALinear, adapter_state_dict, inject, save_adapter
from peft_lessons.models import flow_batches, flow_evaluation, flow_matching_loss, load_letters
from peft_lessons.tasks import LETTER_ADAPTERS, LETTER_LORA, letters_of
from peft_lessons.training import evaluate_loss, train

STEPS, BATCH_SIZE, LEARNING_RATE, SHIFT = 150, 32, 3e-3, 1


def make(name: str, seed: int = 0) -> nn.Module:
    """Adapt the base to the typeface called `name`; says how much the loss on its other 33 letters falls."""
    model = load_letters()
    letters = letters_of(name)
    held_out = flow_evaluation(*letters.held_out)
    torch.manual_seed(seed)
    inject(model, LETTER_LORA)
    history = train(
        model,
        flow_batches(*letters.train, batch_size=BATCH_SIZE, seed=seed, shift=SHIFT),
        steps=STEPS,
        learning_rate=LEARNING_RATE,
        seed=seed,
        loss=flow_matching_loss,
        evaluate=lambda model: evaluate_loss(model, held_out, flow_matching_loss),
    )
    (_, before), (_, after) = history.evaluations
    print(f"{name}: held-out loss {before:.4f} -> {after:.4f} in {history.seconds:.0f} s", flush=True)
    return model


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in LETTER_ADAPTERS]:
        print(f"no adapter is called {', '.join(unknown)}; there are {', '.join(LETTER_ADAPTERS)}", file=sys.stderr)
        return 2
    for name in names or LETTER_ADAPTERS:
        model = make(name)
        for layer in model.modules():
            if isinstance(layer, LoRALinear):
                layer.lora_A, layer.lora_B = (nn.Parameter(p.bfloat16()) for p in (layer.lora_A, layer.lora_B))
        folder = save_adapter(model, LETTER_LORA, LETTER_ADAPTERS[name], base_model="peft_lessons/models/letters")
        print(f"{sum(t.numel() for t in adapter_state_dict(model).values()):,} parameters in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
