"""SmolLM2 with its linear weights in fewer and fewer bits, before and after LoRA learns the Devil's Dictionary on them.

"as stored" are the 4-bit codes of the model's own file, which lose nothing; "16" the same numbers in bf16, rounded once
more; 8, 4, 3 and 2 are normal levels in blocks of 64 with double quantization, so that 4 is NF4. LoRA of rank 4 on all
linear layers, 60 steps. `bytes` are those of the 210 linear weights. Perplexities: of held-out definitions, and of
speeches, which nothing trains on.
"""

import time
from typing import Any

from torch import nn

from peft_lessons.adapters import inject
from peft_lessons.experiments._definitions import learn, perplexity
from peft_lessons.experiments.laptop import general_perplexity
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import load_smollm2, load_smollm2_in_4_bits
from peft_lessons.models.decoder import Decoder
from peft_lessons.quantization import normal_codebook, quantize_model

BASES = ("as stored", "16", "8", "4", "3", "2")
LORA = LoRAConfig(rank=4, alpha=8)
STEPS, RATE = 60, 2e-3


def cases() -> list[dict[str, Any]]:
    return [{"base": base} for base in BASES]


def load(base: str) -> Decoder:
    """SmolLM2 with its linear weights stored so; ValueError that lists the bases when there is none of this name."""
    if base not in BASES:
        raise ValueError(f"no base is called {base!r}; there are {', '.join(BASES)}")
    if base == "as stored":
        return load_smollm2_in_4_bits()[0]
    model, _ = load_smollm2()
    if base != "16":
        return quantize_model(model, codebook=normal_codebook(int(base)), double=True)  # type: ignore[return-value]
    for weight in matrices(model).values():  # in fp32 again, since the products are
        weight.data = weight.data.bfloat16().float()
    return model


def linear_bytes(model: Decoder) -> int:
    """Bytes that the linear weights of the blocks take in memory or, while they are dense, would take in bf16."""
    layers = [layer for layer in model.model.layers.modules() if hasattr(layer, "in_features")]
    return sum(
        2 * layer.weight.numel() if isinstance(layer, nn.Linear) else sum(buffer.nbytes for buffer in layer.buffers())
        for layer in layers
    )


def measure(base: str) -> dict[str, Any]:
    started = time.perf_counter()
    model = load(base)
    before = {"bytes": linear_bytes(model), "before": perplexity(model), "speeches_before": general_perplexity(model)}
    model, trained = learn(lambda model: inject(model, LORA), RATE, steps=STEPS, load=lambda: model)
    after = {"after": trained["perplexity"], "speeches_after": general_perplexity(model)}
    return before | after | {"seconds": time.perf_counter() - started}
