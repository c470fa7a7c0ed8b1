"""A weight of 4096 × 4096 in 4 bits, and a layer of it with LoRA, against bitsandbytes on a CPU.

bitsandbytes is in training mode throughout. In eval mode it repacks the weight for a bfloat16 kernel, and a layer that
goes back to training after that loses the gradient of its input or fails.
"""

import logging
import random
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import nn

from benchmarks.measure import Timing, compare, in_new_process
from benchmarks.report import Section, number
from peft_lessons.adapters import inject
from peft_lessons.methods.lora import LoRAConfig
from peft_lessons.quantization import QuantizedLinear, dequantize, quantize

WIDTH, RANK = 4096, 8
TOKENS = (1, 16, 128, 512)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
DOUBLE = {"no": False, "yes": True}
THREADS = (1, 2)

TEXT = f"""A weight of {WIDTH} × {WIDTH} in blocks of 64, and a layer of it with LoRA of rank {RANK}; milliseconds.
Each dtype is that of the weight and of the computation. bitsandbytes is in training mode. To dequantize,
it spends most of its time in the kernel, which clears fresh memory in pages of 4 KiB; this package asks
for pages of 2 MiB, and its layers use one tile of memory again. The arithmetic alone is about three times
as fast in bitsandbytes: where memory is recycled, or comes in large pages to every program, it is the
faster one."""

Variants = Mapping[str, Callable[[], object]]


def weights(dtype: str, double: str) -> Iterator[tuple[str, Variants]]:
    """Quantizing and dequantizing one weight: (what, the two ways to do it)."""
    from bitsandbytes import functional as peer

    weight = torch.randn(WIDTH, WIDTH, dtype=DTYPES[dtype])
    yield (
        "quantize",
        {
            "ours": lambda: quantize(weight, double=DOUBLE[double]),
            "peer": lambda: peer.quantize_4bit(weight, quant_type="nf4", compress_statistics=DOUBLE[double]),
        },
    )
    quantized = quantize(weight, double=DOUBLE[double])
    codes, state = peer.quantize_4bit(weight, quant_type="nf4", compress_statistics=DOUBLE[double])
    yield (
        "dequantize",
        {"ours": lambda: dequantize(quantized), "peer": lambda: peer.dequantize_4bit(codes, state)},
    )


def layers(dtype: str, double: str) -> Iterator[tuple[str, Variants]]:
    """Forward alone, and with the gradients of x and of the adapter: (what, the two ways to do it)."""
    linear = nn.Linear(WIDTH, WIDTH, bias=False, dtype=DTYPES[dtype])
    models = {"ours": ours(linear, double), "peer": peers(linear, double)}
    for tokens in TOKENS:
        x = torch.randn(tokens, WIDTH, dtype=DTYPES[dtype], requires_grad=True)
        gradient = torch.randn(tokens, WIDTH, dtype=DTYPES[dtype])
        name = f"layer + LoRA, {tokens} tokens, forward"
        yield name, {who: forward(model, x.detach()) for who, model in models.items()}
        yield f"{name} + backward", {who: backward(model, x, gradient) for who, model in models.items()}


def ours(linear: nn.Linear, double: str) -> nn.Module:
    layer = nn.Sequential(QuantizedLinear.from_linear(linear, double=DOUBLE[double]))
    return inject(layer, LoRAConfig(rank=RANK, targets=("0",)))


def peers(linear: nn.Linear, double: str) -> nn.Module:
    import peft
    from bitsandbytes.nn import Linear4bit, Params4bit

    settings = {"quant_type": "nf4", "compress_statistics": DOUBLE[double]}
    layer = Linear4bit(WIDTH, WIDTH, bias=False, compute_dtype=linear.weight.dtype, **settings)
    layer.weight = Params4bit(linear.weight.detach().clone(), requires_grad=False, **settings)
    quantized = nn.Sequential(layer).to("cpu")  # the move quantizes
    lora = peft.LoraConfig(r=RANK, lora_alpha=16, target_modules=["0"])
    return peft.get_peft_model(quantized, lora).train()


def forward(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: model(x)


def backward(model: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], object]:
    inputs = [x, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    return lambda: torch.autograd.grad(model(x), inputs, gradient)


def measured(kind: str, dtype: str, double: str, threads: int, repeats: int) -> list[tuple[str, dict[str, Timing]]]:
    """What `weights` or `layers` yields, timed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line about a kernel that is not used here
    torch.manual_seed(0)
    random.seed(0)
    return [
        (what, compare(variants, threads, repeats))
        for what, variants in {"weights": weights, "layers": layers}[kind](dtype, double)
    ]


# (what, dtype, double); a layer dequantizes either kind of scale, and QLoRA has double ones
CASES = (
    *(("weights", dtype, double) for dtype in DTYPES for double in DOUBLE),
    *(("layers", dtype, "yes") for dtype in DTYPES),
)


def section(cases: tuple[tuple[str, str, str], ...] = CASES, repeats: int = 9) -> Section:
    """Each case and number of threads in a process of its own, so that none inherits memory from another."""
    rows: list[tuple[str, ...]] = []
    ratios: list[tuple[str, float]] = []
    for kind, dtype, double in cases:
        runs = [in_new_process(measured, kind, dtype, double, threads, repeats) for threads in THREADS]
        for (what, one), (_, two) in zip(*runs, strict=True):
            rows.append((what, dtype, double, *cells(one), *cells(two)))
            if kind == "weights" or what.endswith("512 tokens, forward + backward"):
                ratios.append((f"NF4 {what}, {dtype}{', double' * DOUBLE[double]}", one["ours"] / one["peer"]))
    return Section(
        title="NF4 against bitsandbytes",
        text=TEXT,
        columns=(
            "operation",
            "dtype",
            "double",
            "ours, 1 thread",
            "peer",
            "ours / peer",
            "ours, 2 threads",
            "peer",
            "ours / peer",
        ),
        rows=tuple(rows),
        ratios=tuple(ratios),
    )


def cells(timing: Mapping[str, Timing]) -> tuple[str, str, str]:
    ours, peer = timing["ours"], timing["peer"]
    return number(1e3 * ours.seconds, 1), number(1e3 * peer.seconds, 1), number(ours / peer)


if __name__ == "__main__":
    print(section().markdown())
