"""What people prefer: SmolLM2 learns by DPO to define words, and a run whose numbers look well says nothing at all.

Pairs are those of `tasks.definition_pairs`: chosen are "short" definitions, or those of "Bierce". LoRA of rank 8 learns
in the last ten blocks, twenty steps of four pairs; the reference is the model without it. `nll` is the weight of the
chosen answer's mean negative log-likelihood a token beside the loss of DPO. Two runs are repeated with a second seed.

margins: of the pairs of each step, how far log π/π_ref of the chosen answer lies above that of the rejected one, nats.
After LOOKS steps, on held-out pairs: accuracy, the share with a margin above 0 (at the start all are 0); chosen,
rejected: mean log π/π_ref, nats. On words that are in no pair, sampled: length, mean tokens of an answer, its end
included, of at most forty; ended, the share that end; kl, of the model from its base, nats a token; says, the first six
answers. perplexity: on general text, a thousand tokens. seconds: of training, these looks included.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from peft_lessons.adapters import inject
from peft_lessons.experiments import laptop
from peft_lessons.experiments._frozen import above, below
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.models import Tokenizer, load_smollm2
from peft_lessons.models.decoder import Decoder, generate
from peft_lessons.preference import answer_log_probabilities, dpo_loss, kl_from_reference
from peft_lessons.tasks import PAIRS, definition_pairs
from peft_lessons.training import IGNORED, evaluate_loss, padded, train

STEPS, BATCH = 20, 4
LOOKS = (0, 10, 20)
FROZEN = 20  # blocks
LORA = LoRAConfig(rank=8, alpha=16, layers=tuple(range(FROZEN, 30)))
ANSWER, TEMPERATURE = 40, 0.8
SHOWN = 6  # answers in a row

RATES = (2e-4, 5e-4, 1e-3)  # little happens, all goes well, nothing is left


def cases() -> list[dict[str, Any]]:
    slow, good, ruinous = (
        {"pairs": "short", "learning_rate": rate, "beta": 0.1, "nll": 0.0, "seed": 0} for rate in RATES
    )
    remedies = [ruinous | {"nll": 0.2}, ruinous | {"beta": 0.5}]
    repeated = [run | {"seed": 1} for run in (good, ruinous)]
    return [slow, good, ruinous, *remedies, *repeated, good | {"pairs": "Bierce"}]


class Task(NamedTuple):
    """What all runs on the same pairs share: parts of tensors are (pairs, …), first those to learn from."""

    base: Decoder
    tokenizer: Tokenizer
    prompts: Tensor
    states: list[Tensor]  # of chosen answers, of rejected ones, of general text: what the blocks that train get
    labels: list[Tensor]
    reference: Tensor  # log π_ref of chosen and of rejected answers, (pairs, 2)


def general_text() -> Tensor:
    """Return a thousand tokens of the speeches of `laptop`, (windows, tokens)."""
    return torch.cat([ids for ids, _ in laptop.speeches()[::4]])


@cache
@torch.no_grad()
def task(name: str) -> Task:
    base, tokenizer = load_smollm2()
    found = definition_pairs(tokenizer, name)
    pairs = found.train + found.held_out
    answers = [
        padded([(pair.prompt, answer) for pair, answer in zip(pairs, some, strict=True)], tokenizer.eos_id)
        for some in ([pair.chosen for pair in pairs], [pair.rejected for pair in pairs])
    ]
    text = general_text()
    states = [below(base, ids, FROZEN) for ids, _ in answers] + [below(base, text, FROZEN)]
    labels = [labels for _, labels in answers] + [text]
    upper, places = above(base, FROZEN, states)
    reference = torch.stack(
        [answer_log_probabilities(upper, ids, wanted) for ids, wanted in zip(places[:2], labels[:2], strict=True)], 1
    )
    return Task(base, tokenizer, torch.tensor(found.prompts), states, labels, reference)


def log_ratios(upper: Decoder, places: list[Tensor], of: Task, rows: Any) -> Tensor:
    """log π/π_ref of the chosen and the rejected answers of the pairs in these rows: (pairs, 2)."""
    answers = zip(places[:2], of.labels[:2], strict=True)
    scores = [answer_log_probabilities(upper, ids[rows], labels[rows]) for ids, labels in answers]
    return torch.stack(scores, 1) - of.reference[rows]


def orders(seed: int) -> Iterator[tuple[Tensor]]:
    """Yield the numbers of the pairs of each step; each pass is in a new order that the seed fixes."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from zip(torch.randperm(PAIRS, generator=generator).split(BATCH))


@torch.no_grad()
def look(model: Decoder, upper: Decoder, places: list[Tensor], of: Task) -> dict[str, Any]:
    ratios = log_ratios(upper, places, of, slice(PAIRS, None))
    eos_id = of.tokenizer.eos_id
    said = generate(model, of.prompts, ANSWER, eos_id=eos_id, temperature=TEMPERATURE)
    answers = [ids[: ids.index(eos_id) + 1] if eos_id in ids else ids for ids in said.tolist()]
    input_ids, labels = padded(list(zip(of.prompts.tolist(), answers, strict=True)), eos_id)
    own, (own_places,) = above(model, FROZEN, [below(model, input_ids, FROZEN)])
    return {
        "accuracy": (ratios[:, 0] > ratios[:, 1]).float().mean().item(),
        "chosen": ratios[:, 0].mean().item(),
        "rejected": ratios[:, 1].mean().item(),
        "length": sum(map(len, answers)) / len(answers),
        "ended": sum(eos_id in ids for ids in answers) / len(answers),
        "kl": kl_from_reference(own, own_places, labels).mean().item(),
        "perplexity": math.exp(evaluate_loss(upper, [(places[2], of.labels[2])])),
        "says": [of.tokenizer.decode(ids) for ids in answers[:SHOWN]],
    }


def prepare(of: Task) -> tuple[Decoder, Decoder, list[Tensor]]:
    """Return a model with a fresh adapter, its blocks that train, and what these call the texts of the task."""
    model = inject(deepcopy(of.base), LORA)
    return model, *above(model, FROZEN, of.states)


@cache
def untouched(pairs: str) -> dict[str, Any]:
    """Measure what all runs begin with: an adapter that does nothing."""
    return look(*prepare(task(pairs)), task(pairs))


def measure(pairs: str, learning_rate: float, beta: float, nll: float, seed: int) -> dict[str, Any]:
    of, margins, seen = task(pairs), list[float](), [untouched(pairs)]
    torch.manual_seed(seed)
    model, upper, places = prepare(of)
    tokens = (of.labels[0] != IGNORED).sum(1)

    def loss(upper: Decoder, rows: Tensor) -> Tensor:
        ratios = log_ratios(upper, places, of, rows)
        at_start = torch.zeros_like(ratios)
        margins.append((ratios[:, 0] - ratios[:, 1]).mean().item())
        likelihood = (ratios[:, 0] + of.reference[rows, 0]) / tokens[rows]
        return dpo_loss(ratios[:, 0], ratios[:, 1], at_start[:, 0], at_start[:, 1], beta) - nll * likelihood

    history = train(
        upper,
        orders(seed),
        steps=STEPS,
        learning_rate=learning_rate,
        loss=loss,
        after_step=lambda step: seen.append(look(model, upper, places, of)) if step in LOOKS else None,
        seed=seed,
        bar=iter,
    )
    return {
        "margins": margins,
        **{name: [one[name] for one in seen] for name in seen[0]},
        "seconds": history.seconds,
    }
