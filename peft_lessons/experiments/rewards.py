"""What a reward says, and what it does not: the tiny GPT learns to write without the letter "e", and cheats.

A step samples eight continuations of each of eight prompts from five novels by Jane Austen and learns from their group
advantages; β holds the policy near its base. Rewards, each an answer to how the one before was cheated: "no e", the
share of words without that letter; "distinct", such a word counts once; "known", and must stand in one of the five
novels. Trained are LoRA of rank 1, 8 and 64 on all linear layers, all parameters of these layers, and all parameters of
the model. "no e" at β 0.02 is run at two rates, and at that with the better objective with two seeds.

Measured on held-out prompts after LOOKS steps: reward; kl, of the policy from its base on its own samples, nats a
token; objective, what is learnt for: reward − β · kl · the tokens of a sample; says, how it goes on from the first
prompt. batch_rewards: mean reward of the samples of each step. seconds: of training, these looks included.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from peft_lessons import data
from peft_lessons.adapters import inject, named_adapters, trainable_parameters
from peft_lessons.experiments.spectrum import matrices
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.methods.partial import full_fine_tuning
from peft_lessons.models import load_tiny_gpt
from peft_lessons.models.decoder import Decoder, generate
from peft_lessons.preference import group_advantages, group_policy_losses, kl_from_reference
from peft_lessons.training import IGNORED, consecutive_windows, train, windows

STEPS, PROMPTS, ANSWERS = 40, 8, 8
PROMPT, SAMPLE = 16, 24  # tokens
HELD_OUT, TWICE = 64, 2  # prompts, and samples of each
LOOKS = (0, 10, 20, 40)

# The first rate of each has the best objective, and is the one that a second seed repeats.
RATES = {
    "LoRA, rank 1": (1e-2, 3e-3),
    "LoRA, rank 8": (3e-3, 1e-2),
    "LoRA, rank 64": (1e-3, 3e-3),
    "full, linear layers only": (3e-4, 1e-3),
    "full": (1e-3, 3e-4),
}
FREE = {"LoRA, rank 8": 1e-2, "LoRA, rank 1": 1e-2}  # rates of runs with a β of 0
RACE = "LoRA, rank 8"  # what the arms race of rewards is run with


def case(
    method: str, learning_rate: float, seed: int = 0, reward_for: str = "no e", beta: float = 0.02
) -> dict[str, Any]:
    return {"method": method, "learning_rate": learning_rate, "seed": seed, "reward_for": reward_for, "beta": beta}


def cases() -> list[dict[str, Any]]:
    tuned = [
        case(method, rate, seed)
        for method, rates in RATES.items()
        for rate in rates
        for seed in ((0, 1) if rate == rates[0] else (0,))
    ]
    free = [case(method, rate, beta=0.0) for method, rate in FREE.items()]
    race = [case(RACE, FREE[RACE], reward_for=name, beta=beta) for name in REWARDS for beta in (0.0, 0.05)]
    return tuned + free + race[1:]  # the first is one of those that are free


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def without_e(text: str) -> float:
    """Return the share of words without an "e"; 0 where there are no words."""
    return fmean(["e" not in word for word in words(text)] or [0.0])


def distinct(text: str, known: frozenset[str] | None = None) -> float:
    """Return the same where each word counts once, and only where it is known."""
    found = words(text)
    good = {word for word in found if "e" not in word and (known is None or word in known)}
    return len(good) / max(1, len(found))


@cache
def novels() -> str:
    """Return the five that the tiny GPT was trained on."""
    return "\n".join(text for title, text in data.austen().items() if title != data.AUSTEN_HELD_OUT)


@cache
def tokens() -> list[int]:
    return load_tiny_gpt()[1].encode(novels())


@cache
def vocabulary() -> frozenset[str]:
    return frozenset(words(novels()))


@cache
def held_out() -> Tensor:
    """Return prompts from the sixth novel, (questions, tokens)."""
    unseen = load_tiny_gpt()[1].encode(data.austen()[data.AUSTEN_HELD_OUT][:8000])
    return consecutive_windows(unseen, batch_size=HELD_OUT, length=PROMPT)[0][0]


REWARDS: dict[str, Callable[[str], float]] = {
    "no e": without_e,
    "distinct": distinct,
    "known": lambda text: distinct(text, vocabulary()),
}


def sample(model: Decoder, prompts: Tensor, answers: int, seed: int) -> tuple[Tensor, Tensor]:
    """Continue each prompt (questions, tokens) so many times; ids and labels, both (questions · answers, tokens)."""
    prompts = prompts.repeat_interleave(answers, dim=0)
    ids = torch.cat((prompts, generate(model, prompts, SAMPLE, temperature=1.0, seed=seed)), dim=1)
    return ids, ids.index_fill(1, torch.arange(prompts.shape[1]), IGNORED)


def texts(ids: Tensor) -> list[str]:
    _, tokenizer = load_tiny_gpt()
    return [tokenizer.decode(row) for row in ids[:, -SAMPLE:].tolist()]


def batches(
    model: Decoder, reward: Callable[[str], float], seed: int, means: list[float]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield samples of the model as it is when they are asked for, and their advantages; `means` gets their rewards."""
    for step, (prompts, _) in enumerate(windows(tokens(), batch_size=PROMPTS, length=PROMPT, seed=seed)):
        ids, labels = sample(model, prompts, ANSWERS, seed=STEPS * seed + step)
        rewards = torch.tensor([reward(text) for text in texts(ids)])
        means.append(rewards.mean().item())
        yield ids, labels, group_advantages(rewards.view(PROMPTS, ANSWERS)).flatten()


def prepare(method: str) -> tuple[Decoder, Decoder | None]:
    """Make a fresh tiny GPT ready to train, and the base beside it where nothing can be switched off.

    Raises ValueError that lists the methods when there is none of this name.
    """
    if method not in RATES:
        raise ValueError(f"no method is called {method!r}; there are {', '.join(RATES)}")
    model, _ = load_tiny_gpt()
    if method == "full":
        full_fine_tuning(model)
    elif method == "full, linear layers only":
        model.requires_grad_(False)
        for weight in matrices(model).values():
            weight.requires_grad_(True)
    else:
        rank = int(method.rpartition(" ")[2])
        inject(model, LoRAConfig(rank=rank, alpha=2 * rank))
    return model, None if any(named_adapters(model)) else load_tiny_gpt()[0]


@torch.no_grad()
def look(model: Decoder, base: Decoder | None, reward: Callable[[str], float], beta: float) -> dict[str, Any]:
    ids, labels = sample(model, held_out(), TWICE, seed=0)
    said = texts(ids)
    earned = fmean(map(reward, said))
    kl = kl_from_reference(model, ids, labels, base).mean().item()
    return {"reward": earned, "kl": kl, "objective": earned - beta * kl * SAMPLE, "says": said[0]}


def measure(method: str, learning_rate: float, seed: int, reward_for: str, beta: float) -> dict[str, Any]:
    torch.manual_seed(seed)
    model, base = prepare(method)
    reward, means = REWARDS[reward_for], list[float]()
    seen = [look(model, base, reward, beta)]
    history = train(
        model,
        batches(model, reward, seed, means),
        steps=STEPS,
        learning_rate=learning_rate,
        loss=partial(group_policy_losses, beta=beta, reference=base),
        after_step=lambda step: seen.append(look(model, base, reward, beta)) if step in LOOKS else None,
        seed=seed,
        bar=iter,
    )
    return {
        "trained": sum(parameter.numel() for parameter in trainable_parameters(model)),
        **{name: [one[name] for one in seen] for name in seen[0]},
        "batch_rewards": means,
        "seconds": history.seconds,
    }
