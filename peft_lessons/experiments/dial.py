"""An adapter at a strength s, W₀ + s · α/r · BA: SmolLM2 with the Devil's adapter, turned from −1 to 1.5.

definitions: perplexity of 16 definitions that the adapter has not learnt from. speech: of 1,024 tokens of a speech to
Congress, another kind of text.
"""

import math
import time
from functools import cache
from typing import Any

from peft_lessons import data
from peft_lessons.models import Tokenizer, load_smollm2
from peft_lessons.models.decoder import Decoder
from peft_lessons.multi_adapter import load_adapters, using
from peft_lessons.tasks import DEVILS_ADAPTER, devils_definitions
from peft_lessons.training import Batch, consecutive_windows, evaluate_loss, padded

STRENGTHS = (-1, -0.5, 0, 0.25, 0.5, 0.75, 1, 1.25, 1.5)


def cases() -> list[dict[str, Any]]:
    return [{"strength": strength} for strength in STRENGTHS]


@cache
def model() -> tuple[Decoder, Tokenizer]:
    base, tokenizer = load_smollm2()
    return load_adapters(base, {"devil": DEVILS_ADAPTER}), tokenizer  # type: ignore[return-value]


def definitions(tokenizer: Tokenizer) -> list[Batch]:
    unseen = devils_definitions(tokenizer).held_out[:16]
    return [padded(unseen[:8], tokenizer.eos_id), padded(unseen[8:], tokenizer.eos_id)]


def speech(tokenizer: Tokenizer) -> list[Batch]:
    tokens = tokenizer.encode(data.speeches()[-1]["text"][:8000])[:1024]
    return consecutive_windows(tokens, batch_size=4, length=128)


def measure(strength: float) -> dict[str, Any]:
    started = time.perf_counter()
    turned, tokenizer = model()
    with using(turned, {"devil": strength}):
        found = {text.__name__: math.exp(evaluate_loss(turned, text(tokenizer))) for text in (definitions, speech)}
    return found | {"seconds": time.perf_counter() - started}
