"""How much can an adapter learn by heart? LoRA in the last block of the tiny GPT, on sequences of random tokens.

Each token is drawn from all 1,024 alike: it holds 10 bits, which no rule predicts, and the untouched model does worse
than guessing. What the loss falls below 10 bits a token is stored in the adapter: `bits`, summed over all predicted
tokens, of which `data_bits` would be all. `amount` is about data_bits for each trained number. Every step sees all
sequences; since the blocks below train nothing, what they say is computed once.
"""

import math
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from peft_lessons.adapters import inject, trainable_parameters
from peft_lessons.experiments._frozen import below, context
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder
from peft_lessons.training import evaluate_loss, train

LENGTH = 64
AMOUNTS = {1: (0.5, 1.0, 2.0), 2: (0.5, 1.0, 2.0), 4: (0.5, 1.0)}  # by rank
RATE, STEPS = 0.03, 600


def cases() -> list[dict[str, Any]]:
    swept = [{"rank": rank, "amount": amount, "seed": 0} for rank, amounts in AMOUNTS.items() for amount in amounts]
    return swept + [{"rank": 1, "amount": 1.0, "seed": seed} for seed in (1, 2)]


def losses(model: Decoder, x: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of the next token, from what the last block gets: (batch · (tokens − 1),)."""
    x = model.model.norm(model.model.layers[-1](x, context(model, x)))
    return F.cross_entropy(model.lm_head(x[:, :-1]).flatten(0, 1), labels[:, 1:].flatten(), reduction="none")


def prepare(rank: int, amount: float, seed: int) -> tuple[Decoder, Tensor]:
    """Return the tiny GPT with LoRA in its last block, and the sequences to learn by heart."""
    model, _ = load_tiny_gpt()
    torch.manual_seed(seed)
    inject(model, LoRAConfig(rank=rank, alpha=rank, layers=(len(model.model.layers) - 1,)))
    trained = sum(parameter.numel() for parameter in trainable_parameters(model))
    sequences = round(amount * trained / math.log2(model.config.vocab_size) / (LENGTH - 1))
    return model, torch.randint(model.config.vocab_size, (sequences, LENGTH))


def measure(rank: int, amount: float, seed: int) -> dict[str, Any]:
    model, ids = prepare(rank, amount, seed)
    batch = (below(model, ids, len(model.model.layers) - 1), ids)
    before = evaluate_loss(model, [batch], loss=losses)
    history = train(
        model, repeat(batch), steps=STEPS, learning_rate=RATE, loss=losses, max_norm=math.inf, seed=seed, bar=iter
    )
    left = evaluate_loss(model, [batch], loss=losses)
    predicted, token_bits = ids[:, 1:].numel(), math.log2(model.config.vocab_size)
    return {
        "trained": sum(parameter.numel() for parameter in trainable_parameters(model)),
        "data_bits": predicted * token_bits,
        "bits": predicted * (token_bits - left / math.log(2)),
        "loss_before": before,
        "loss": left,
        "seconds": history.seconds,
    }
