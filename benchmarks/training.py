"""A training step of SmolLM2-135M against transformers and peft: time, and peak memory."""

from collections.abc import Callable

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.measure import Timing, compare, in_new_process, peak_bytes
from benchmarks.report import Section, number
from peft_lessons.adapters import inject, trainable_parameters
from peft_lessons.methods.lora import LLAMA_LINEAR_LAYERS, LoRAConfig
from peft_lessons.models import load_smollm2
from peft_lessons.models.decoder import Decoder
from peft_lessons.training import IGNORED, language_model_loss

BATCH, TOKENS, RANK = 4, 128, 8
TARGETS = {"all linear layers": LLAMA_LINEAR_LAYERS, "q, v": ("q_proj", "v_proj"), "full": ()}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PROMPT = 96  # tokens of 128 that are not scored where only answers are

Loss = Callable[[], torch.Tensor]


def our_loss(targets: str, dtype: str, prompt: int) -> tuple[torch.nn.Module, Loss]:
    model = load_smollm2()[0].to(DTYPES[dtype])
    if TARGETS[targets]:
        inject(model, LoRAConfig(rank=RANK, targets=TARGETS[targets]))
    input_ids, labels = batch(prompt)
    return model, lambda: language_model_loss(model, input_ids, labels)


def peer_loss(targets: str, dtype: str, prompt: int) -> tuple[torch.nn.Module, Loss]:
    model = in_transformers(load_smollm2()[0]).to(DTYPES[dtype])
    if TARGETS[targets]:
        settings = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=list(TARGETS[targets]))
        model = peft.get_peft_model(model, settings)
    input_ids, labels = batch(prompt)
    return model, lambda: model(input_ids=input_ids, labels=labels).loss


def batch(prompt: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(4, 128) random ids, the first `prompt` of each row not scored."""
    input_ids = torch.randint(49152, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = input_ids.clone()
    labels[:, :prompt] = IGNORED
    return input_ids, labels


def in_transformers(model: Decoder) -> LlamaForCausalLM:
    """transformers' model with the weights of `model` itself, not copies."""
    config = model.config
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=config.tie_word_embeddings,
        )
    )
    peer.load_state_dict(model.state_dict(), assign=True)
    peer.tie_weights()
    return peer


def step(make: Callable[..., tuple[torch.nn.Module, Loss]], threads: int, *case: object) -> Callable[[], float]:
    """One step as `peft_lessons.training.train` makes it: loss, gradients, clipping, AdamW."""
    torch.set_num_threads(threads)
    model, loss = make(*case)
    parameters = trainable_parameters(model.train())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True if make is our_loss else None)

    def one() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return value.item()

    return one


# (dtype, what trains, tokens of each row that are not scored)
CASES = (
    ("fp32", "all linear layers", 0),
    ("fp32", "all linear layers", PROMPT),
    ("fp32", "q, v", 0),
    ("fp32", "full", 0),
    ("bf16", "all linear layers", 0),
    ("bf16", "q, v", 0),
)


def section(cases: tuple[tuple[str, str, int], ...] = CASES, repeats: int = 7) -> Section:
    rows, ratios = [], []
    for dtype, targets, prompt in cases:
        case = (targets, dtype, prompt)
        found = in_new_process(times, case, repeats)
        peaks = {make: peak_bytes(step, make, 2, *case) / 1e6 for make in (our_loss, peer_loss)}
        ratio, memory = found["ours"] / found["peer"], peaks[our_loss] / peaks[peer_loss]
        scored = "all" if not prompt else f"{TOKENS - prompt} of {TOKENS}"
        rows.append(
            (
                *(dtype, targets, scored),
                *(number(timing.seconds) for timing in (found["ours"], found["peer"])),
                number(ratio),
                *(number(peak, 0) for peak in peaks.values()),
                number(memory),
            )
        )
        label = f"step, {dtype}, {targets}{', answers scored' if prompt else ''}"
        ratios += [(f"{label}: time, peft = 1", ratio), (f"{label}: memory, peft = 1", memory)]
    return Section(
        title="A training step against transformers and peft",
        text=f"SmolLM2-135M, {BATCH} × {TOKENS} tokens, LoRA of rank {RANK} (or full fine-tuning), AdamW, clipping. "
        "Seconds of one thread; megabytes of the peak, weights included, with two. AdamW is torch's fused one for us, "
        "as in `peft_lessons.training.train`, and torch's default for the peer.",
        columns=("dtype", "what trains", "scored", "ours, s", "peer, s", "ratio", "ours, MB", "peer, MB", "ratio"),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def times(case: tuple[str, str, int], repeats: int) -> dict[str, Timing]:
    return compare({"ours": step(our_loss, 1, *case), "peer": step(peer_loss, 1, *case)}, repeats=repeats)
