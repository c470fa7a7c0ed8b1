"""Greedy generation with SmolLM2-135M beside transformers and llama.cpp, each with a cache of keys and values."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.llama_cpp import Engine
from benchmarks.measure import compare, take_turns
from benchmarks.report import Section, number
from benchmarks.training import DTYPES, in_transformers
from peft_lessons.checkpoints.files import load_adapter
from peft_lessons.checkpoints.gguf import export_gguf
from peft_lessons.models import load_smollm2
from peft_lessons.models.chat import prompt_ids
from peft_lessons.models.decoder import Decoder, generate, generate_steps
from peft_lessons.models.gguf import GGUFFile
from peft_lessons.models.smollm2 import weights_path
from peft_lessons.models.tokenizer import Tokenizer
from peft_lessons.tasks import DEVILS_ADAPTER

NEW = 32  # tokens
PROMPTS = {"1 × 32": (1, 32), "8 × 32": (8, 32)}  # rows × tokens
COLUMNS = (
    *("peer", "dtype", "prompt", "threads", "ours, tokens/s", "peer, tokens/s", "time, ours / peer"),
    *("ours, first token, s", "peer, first token, s"),
)
QUESTION = "What is the capital of France, and what should one see there first?"  # 41 tokens with the chat's own


def section(prompts: tuple[str, ...] = tuple(PROMPTS), new: int = NEW, repeats: int = 4) -> Section:
    rows, ratios = beside_transformers(prompts, new, repeats)
    more_rows, more_ratios = beside_llama_cpp()
    return Section(
        title="Generation beside transformers and llama.cpp",
        text=f"SmolLM2-135M, greedy. transformers: {new} tokens a row after a prompt of rows × tokens of random ids; "
        "tokens/s count the prompt's time, too. llama.cpp: a question of "
        f"{len(question())} tokens and {LONG} new ones on the same 4-bit file, whose weights it reads as they are, "
        "rounding activations to 8 bits; tokens/s are those after the first token. Ours computes every choice in the "
        "dtype of the row. It and llama.cpp run in processes of their own, which take turns; times are by the wall "
        "clock.",
        columns=COLUMNS,
        rows=(*rows, *more_rows),
        ratios=(*ratios, *more_ratios),
    )


def beside_transformers(prompts: tuple[str, ...], new: int, repeats: int) -> tuple[list[Any], list[Any]]:
    rows, ratios = [], []
    for dtype in DTYPES:
        model = load_smollm2()[0].to(DTYPES[dtype])
        peer = in_transformers(model).eval()
        for prompt in prompts:
            ids = torch.randint(49152, PROMPTS[prompt], generator=torch.Generator().manual_seed(0))
            times = compare({"ours": ours(model, ids, new), "peer": theirs(peer, ids, new)}, repeats=repeats)
            firsts = compare({"ours": ours(model, ids, 1), "peer": theirs(peer, ids, 1)}, repeats=repeats)
            ratio = times["ours"] / times["peer"]
            speeds = [number(len(ids) * new / timing.seconds, 1) for timing in times.values()]
            seconds = [number(timing.seconds) for timing in firsts.values()]
            rows.append(("transformers", dtype, prompt, "1", *speeds, number(ratio), *seconds))
            ratios.append((f"generation, {dtype}, prompt {prompt}: time, transformers = 1", ratio))
    return rows, ratios


def ours(model: Decoder, ids: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    return lambda: generate(model, ids, new)


def theirs(model: Any, ids: torch.Tensor, new: int) -> Callable[[], torch.Tensor]:
    mask = torch.ones_like(ids)
    return lambda: model.generate(ids, attention_mask=mask, max_new_tokens=new, do_sample=False, eos_token_id=None)


# ------------------------------------------------------------------------------------------------------- llama.cpp

LONG = 96  # tokens
Speed = tuple[float, float]  # seconds until the first token, and seconds of one token after it


def beside_llama_cpp(threads: Sequence[int] = (1, 2), repeats: int = 8) -> tuple[list[Any], list[Any]]:
    rows, ratios = [], []
    for count in threads:
        for adapter in (False, True):
            case = count, adapter
            found = take_turns({"ours": (our_engine, case), "peer": (their_engine, case)}, repeats)
            (our_first, our_token), (peer_first, peer_token) = found["ours"], found["peer"]
            ratio = our_token / peer_token
            what = f"1 × {len(question())}{', LoRA' if adapter else ''}"
            speeds = [number(1 / timing.seconds, 1) for timing in (our_token, peer_token)]
            seconds = [number(timing.seconds) for timing in (our_first, peer_first)]
            rows.append(("llama.cpp", "fp32", what, str(count), *speeds, number(ratio), *seconds))
            label = f"generation, {count} thread{'s' * (count > 1)}{', LoRA' if adapter else ''}: time, llama.cpp = 1"
            ratios.append((label, ratio))
    return rows, ratios


def question() -> list[int]:
    return prompt_ids(Tokenizer.from_gguf(GGUFFile(weights_path()).metadata), QUESTION)


def our_engine(threads: int, adapter: bool) -> Callable[[], Speed]:
    torch.set_num_threads(threads)
    model, tokenizer = load_smollm2()
    if adapter:
        load_adapter(model, DEVILS_ADAPTER)
    ids = torch.tensor([prompt_ids(tokenizer, QUESTION)])

    def speed() -> Speed:
        started = time.perf_counter()
        steps = generate_steps(model, ids, LONG)
        next(steps)
        first = time.perf_counter()
        count = sum(1 for _ in steps)
        return first - started, (time.perf_counter() - first) / count

    return speed


def their_engine(threads: int, adapter: bool) -> Callable[[], Speed]:
    prompt, files = question(), []
    if adapter:
        files = [str(export_gguf(DEVILS_ADAPTER, Path(tempfile.mkdtemp()) / "adapter.gguf"))]
    engine = Engine(threads, files)

    def speed() -> Speed:
        done = engine.complete(prompt, LONG, scale=1.0)
        return done["first"], 1 / done["speed"]

    return speed
