"""One LoRA layer against the frozen layer below it, peft and loralib."""

from collections.abc import Callable

import loralib
import peft
import torch
from torch import nn

from benchmarks.measure import compare
from benchmarks.report import Section, number
from peft_lessons.adapters import inject
from peft_lessons.methods.lora import LoRAConfig

# (tokens, in_features, out_features, rank, threads)
CASES = (
    *((*shape, rank, 1) for shape in ((512, 768, 768), (512, 768, 3072), (2048, 1024, 1024)) for rank in (4, 8, 64)),
    *((tokens, 768, 768, 8, 1) for tokens in (1, 8, 32)),
    *((*shape, 8, 2) for shape in ((512, 768, 768), (512, 768, 3072), (2048, 1024, 1024))),
)
PASSES = ("forward + backward", "forward")


def section(cases: tuple[tuple[int, int, int, int, int], ...] = CASES, repeats: int = 20) -> Section:
    rows, ratios = [], []
    for what in PASSES:
        for tokens, width, height, rank, threads in cases:
            x = torch.randn(tokens, width)
            layers = variants(width, height, rank)
            found = compare({name: once(layer, x, what) for name, layer in layers.items()}, threads, repeats)
            over_frozen = [found[name] / found["frozen"] for name in ("ours", "peft", "loralib")]
            ratio = found["ours"] / found["peft"]
            shape = f"{tokens}, {width} → {height}"
            milliseconds = number(1e3 * found["frozen"].seconds, 2)
            rows.append(
                (what, shape, str(rank), str(threads), milliseconds, *(number(r) for r in over_frozen), number(ratio))
            )
            if rank == 8:
                plural = "s" if threads > 1 else ""
                ratios.append((f"layer {shape}, {what}, {threads} thread{plural}: time, peft = 1", ratio))
    return Section(
        title="A LoRA layer",
        text="fp32, without a bias; backward gives the gradients of x, A and B. The frozen layer in milliseconds, the "
        "others as multiples of it.",
        columns=("pass", "tokens, shape", "rank", "threads", "frozen, ms", "ours", "peft", "loralib", "ours / peft"),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def variants(width: int, height: int, rank: int) -> dict[str, nn.Module]:
    def base() -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, height, bias=False)).requires_grad_(False)

    theirs = loralib.Linear(width, height, r=rank, lora_alpha=16, bias=False)
    loralib.mark_only_lora_as_trainable(theirs)
    settings = peft.LoraConfig(r=rank, lora_alpha=16, target_modules=["0"])
    return {
        "frozen": base(),
        "ours": inject(base(), LoRAConfig(rank=rank, targets=("0",))),
        "peft": peft.inject_adapter_in_model(settings, base()),
        "loralib": nn.Sequential(theirs),
    }


def once(layer: nn.Module, x: torch.Tensor, what: str) -> Callable[[], object]:
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    gradient = torch.randn(layer(x).shape)
    leaf = x.clone().requires_grad_()

    @torch.no_grad()
    def forward() -> object:
        return layer(x)

    def both() -> object:
        return torch.autograd.grad(layer(leaf), [leaf, *parameters], gradient)

    return forward if what == "forward" else both
