"""Greedy generation with SmolLM2-135M against transformers, both with a cache of keys and values."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import compare
from benchmarks.report import Section, number
from benchmarks.training import DTYPES, in_transformers
from peft_lessons.models import load_smollm2
from peft_lessons.models.decoder import Decoder, generate

NEW = 32  # tokens
PROMPTS = {"1 × 32": (1, 32), "8 × 32": (8, 32)}  # rows × tokens


def section(prompts: tuple[str, ...] = tuple(PROMPTS), new: int = NEW, repeats: int = 4) -> Section:
    rows, ratios = [], []
    for dtype in DTYPES:
        model = load_smollm2()[0].to(DTYPES[dtype])
        peer = in_transformers(model).eval()
        for prompt in prompts:
            ids = torch.randint(49152, PROMPTS[prompt], generator=torch.Generator().manual_seed(0))
            variants = {"ours": ours(model, ids, new), "transformers": theirs(peer, ids, new)}
            found = compare(variants, repeats=repeats)
            speeds = [len(ids) * new / timing.seconds for timing in found.values()]
            ratio = found["ours"] / found["transformers"]
            rows.append((dtype, prompt, *(number(speed, 1) for speed in speeds), number(ratio)))
            ratios.append((f"generation, {dtype}, prompt {prompt}: time, transformers = 1", ratio))
    return Section(
        title="Generation against transformers",
        text=f"SmolLM2-135M, {new} greedy tokens a row after a prompt of rows × tokens, whose own time is included. "
        "One thread.",
        columns=("dtype", "prompt", "ours, tokens/s", "transformers, tokens/s", "time, ours / transformers"),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def ours(model: Decoder, ids: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    return lambda: generate(model, ids, new)


def theirs(model: Any, ids: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None)
