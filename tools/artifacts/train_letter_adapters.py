"""Train the adapters of the drawing model that ship with the course, and write them into the package.

    python -m tools.artifacts.train_letter_adapters                  all three
    python -m tools.artifacts.train_letter_adapters "Rufscript"      one of them

LoRA of rank 8 on every linear layer of the blocks, from 19 letters of a typeface that the base has never seen; half a
minute each on two cores. The weights are stored in bfloat16: the rounding is far below the noise of training, and
halves the file. How training went is kept in peft_lessons/models/letters/adaptations.json.
"""

import json
import sys
from collections.abc import Callable

import torch
from torch import nn

from peft_lessons import LoRALinear, adapter_state_dict, inject, save_adapter
from peft_lessons.files import write_bytes
from peft_lessons.models import DiffusionTransformer, flow_batches, flow_evaluation, flow_matching_loss, load_letters
from peft_lessons.models.letters import FOLDER
from peft_lessons.tasks import LETTER_ADAPTERS, LETTER_LORA, letters_of
from peft_lessons.training import History, evaluate_loss, train

STEPS, BATCH_SIZE, LEARNING_RATE, SHIFT, SEED = 150, 32, 3e-3, 1, 0
STORED = FOLDER / "adaptations.json"


def adapt(
    name: str,
    seed: int = SEED,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    draws: int = 8,
    after_step: Callable[[int], object] | None = None,
) -> tuple[DiffusionTransformer, History]:
    """Adapt the base to the typeface called `name`; the evaluations are the loss on its other 33 letters.

    Each of these is measured `draws` times, with noise of its own.
    """
    model, letters = load_letters(), letters_of(name)
    held_out = flow_evaluation(*letters.held_out, draws=draws)
    torch.manual_seed(seed)
    inject(model, LETTER_LORA)
    history = train(
        model,
        flow_batches(*letters.train, batch_size=batch_size, seed=seed, shift=SHIFT),
        steps=steps,
        learning_rate=LEARNING_RATE,
        seed=seed,
        loss=flow_matching_loss,
        evaluate=lambda model: evaluate_loss(model, held_out, flow_matching_loss),
        after_step=after_step,
    )
    return model, history


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in LETTER_ADAPTERS]:
        print(f"no adapter is called {', '.join(unknown)}; there are {', '.join(LETTER_ADAPTERS)}", file=sys.stderr)
        return 2
    stored = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}
    for name in names or LETTER_ADAPTERS:
        model, history = adapt(name)
        (_, before), (_, after) = history.evaluations
        print(f"{name}: held-out loss {before:.4f} -> {after:.4f} in {history.seconds:.0f} s", flush=True)
        for layer in model.modules():
            if isinstance(layer, LoRALinear):
                layer.lora_A, layer.lora_B = (nn.Parameter(p.bfloat16()) for p in (layer.lora_A, layer.lora_B))
        folder = save_adapter(model, LETTER_LORA, LETTER_ADAPTERS[name], base_model="peft_lessons/models/letters")
        print(f"{sum(t.numel() for t in adapter_state_dict(model).values()):,} parameters in {folder}")
        losses = [round(value, 5) for value in history.losses]
        stored[name] = {"held_out_before": round(before, 5), "held_out_after": round(after, 5), "losses": losses}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in stored.items())
    write_bytes(STORED, f"{{\n{lines}\n}}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
