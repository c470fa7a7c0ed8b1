"""What the tests hold on a CPU, held on a GPU: `make test-cuda`, or `python tests/gpu.py`, in some minutes.

One check after the other, and a table in the end; the exit status is 0 when all held. Without a GPU nothing is checked,
and that is said. `test_gpu.py` runs the same checks on the CPU, so that they do not rot.
"""

import gc
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import bitsandbytes.functional as bnb  # noqa: E402
import contract  # noqa: E402
import method_cases  # noqa: E402
import parity  # noqa: E402

from benchmarks.training import in_transformers  # noqa: E402
from peft_lessons import (  # noqa: E402
    FP4,
    NF4,
    LoRAConfig,
    adapters_disabled,
    dequantize,
    inject,
    merge,
    quantize,
    quantize_model,
    trainable_parameters,
)
from peft_lessons.accounting import (  # noqa: E402
    BF16,
    FP32,
    NF4_DOUBLE,
    TRAIN_FP32,
    TensorMemory,
    decoder_shape,
    training_memory,
)
from peft_lessons.models import Decoder, load_smollm2  # noqa: E402
from peft_lessons.models.decoder import generate  # noqa: E402
from peft_lessons.training import language_model_loss  # noqa: E402

# Of the largest output. fp32 sums in another order; bf16 has 8 bits, and an output is a sum of rounded layers.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 4e-2}


def near(actual: Tensor, expected: Tensor, bound: float, what: str) -> None:
    actual, expected = actual.float(), expected.float()
    off = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert off <= bound, f"{what}: off by {off:.1e} of the largest, allowed {bound:.0e}"


# ------------------------------------------------------------------------------------------------------- each method


def methods(device: str) -> str:
    """Each method on each base: starts as its base, merges to what it computes, can be switched off, trains alone."""
    cases = [(*case, dtype) for case in contract.CASES for dtype in BOUNDS]
    for method, base, dtype in cases:
        what = f"{method} on {base} in {dtype}"
        plain = contract.network(method, base, dtype).to(device)
        x = contract.sample(method, dtype).to(device)
        expected = plain(x)
        model = inject(contract.network(method, base, dtype).to(device), contract.METHODS[method]).eval()
        if method not in method_cases.STARTS_ELSEWHERE:
            near(model(x), expected, BOUNDS[dtype], f"{what}, start")
        contract_stir(model)
        with adapters_disabled(model):
            assert method == "loftq" or torch.equal(model(x), expected), f"{what}: switched off it is not its base"
        moved = model(x)
        moved.float().square().mean().backward()
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, f"{what}: gradient of {name}"
            assert parameter.grad is None or parameter.grad.isfinite().all(), f"{what}: gradient of {name}"
        if method not in method_cases.NOT_FOLDABLE:
            near(merge(model)(x), moved, BOUNDS[dtype], f"{what}, merged")
    return f"{len(cases)} cases"


def contract_stir(model: nn.Module) -> None:
    """As `contract.perturb`, whose random numbers are drawn on the CPU."""
    device = next(model.parameters()).device
    contract.perturb(model.cpu()).to(device)


def beside_peft(device: str) -> str:
    """Outputs and gradients of each method, with the weights of peft's."""
    for method, kind in parity.CASES:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = (model.to(device) for model in parity.pair(method, kind, Path(folder)))
        x = parity.inputs(kind).to(device)
        outputs = [parity.outputs(model, x) for model in (ours, theirs)]
        near(*outputs, BOUNDS[torch.float32], f"{method} in a {kind}")
        for output in outputs:
            output.square().mean().backward()
        norms = [length_of_gradient(model, frozen_A=method == "lora-fa") for model in (ours, theirs)]
        near(*norms, 1e-4, f"{method} in a {kind}, length of all gradients")
    return f"{len(parity.CASES)} pairs"


def length_of_gradient(model: nn.Module, frozen_A: bool) -> Tensor:
    """Of all that trains here: peft's LoRA-FA gives A a gradient that its optimizer leaves alone."""
    gradients = [
        parameter.grad.flatten().float()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "ranknum" not in name and not (frozen_A and "lora_A" in name)
    ]
    return torch.cat(gradients).norm()


# ------------------------------------------------------------------------------------------------------- quantization


def beside_bitsandbytes(device: str) -> str:
    """What the 4-bit codes and scales of bitsandbytes' kernels stand for, bit for bit.

    But for one number in ten thousand: where one kernel divides by the scale and another multiplies by its inverse, a
    number in the middle between two levels may go to either.
    """
    count = 0
    for name, codebook in (("nf4", NF4), ("fp4", FP4)):
        for block_size in (64, 128, 256):
            for dtype in (torch.float32, torch.bfloat16):
                weight = torch.randn(384, 256, generator=torch.Generator().manual_seed(count)).to(device, dtype)
                theirs, state = bnb.quantize_4bit(weight, blocksize=block_size, quant_type=name)
                ours = quantize(weight, codebook, block_size)
                expected = bnb.dequantize_4bit(theirs, state)
                other = (dequantize(ours).to(dtype) != expected).float().mean().item()
                assert other <= 1e-4, f"{name}, blocks of {block_size}, {dtype}: {other:.2%} of the numbers differ"
                count += 1
    return f"{count} matrices"


# ------------------------------------------------------------------------------------------------------- whole models


def beside_transformers(device: str) -> str:
    """The decoder's logits and its text, in fp32 and bf16."""
    for dtype, bound in BOUNDS.items():
        ours, theirs = (model.to(device) for model in parity.decoders(dtype))
        ids = parity.inputs("decoder").to(device)
        near(ours(ids), theirs(ids).logits, bound, f"logits in {dtype}")
    ours, theirs = (model.to(device) for model in parity.decoders())
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    written = theirs.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    assert torch.equal(generate(ours, ids, 12), written), "another text"
    return "logits, text"


def autocast(device: str) -> str:
    """A LoRA step under autocast: parameters and their gradients stay in fp32, and near to those without it."""
    model, ids = inject(parity.decoders()[0].to(device), LoRAConfig(rank=4)), parity.inputs("decoder").to(device)
    contract_stir(model)
    losses, norms = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=enabled):
            loss = language_model_loss(model, ids, ids)
        loss.backward()
        grads = [parameter.grad for parameter in trainable_parameters(model)]
        assert all(grad.dtype == torch.float32 for grad in grads)
        losses.append(loss.detach())
        norms.append(torch.cat([grad.flatten() for grad in grads]))
    near(losses[1], losses[0], 0.02, "loss")
    cosine = torch.cosine_similarity(*norms, dim=0).item()
    assert cosine > 0.98, f"gradients under autocast point elsewhere: cosine {cosine:.3f}"
    return f"cosine of gradients {cosine:.4f}"


def compiled(device: str) -> str:
    """torch.compile of a LoRA and of a QLoRA model gives their logits and gradients. On a CPU, only its tracing."""
    backend = "inductor" if device == "cuda" else "eager"
    for quantized in (False, True):
        model = parity.decoders()[0].to(device)
        if quantized:
            quantize_model(model)
        contract_stir(inject(model, LoRAConfig(rank=4)))
        ids = parity.inputs("decoder").to(device)
        results = []
        for run in (model, torch.compile(model, backend=backend)):
            model.zero_grad()
            logits = run(ids)
            logits.square().mean().backward()
            results.append((logits.detach(), torch.cat([p.grad.flatten() for p in trainable_parameters(model)])))
        for actual, expected, what in zip(results[1], results[0], ("logits", "gradients"), strict=True):
            near(actual, expected, 1e-4, f"{what}, {'QLoRA' if quantized else 'LoRA'}")
        torch.compiler.reset()
    return backend


# ------------------------------------------------------------------------------------------------------------- memory


def memory_of(model: Decoder, quantized: bool, batch: int, tokens: int) -> tuple[int, int]:
    """(predicted, measured) bytes of a step of LoRA, or QLoRA, at its worst moment."""
    device = next(model.parameters()).device
    dense = BF16 if next(model.parameters()).dtype == torch.bfloat16 else FP32
    if quantized:
        quantize_model(model, double=True)
    method = LoRAConfig(rank=8)
    optimizer = torch.optim.AdamW(trainable_parameters(inject(model, method).train()))
    ids = torch.randint(model.config.vocab_size, (batch, tokens), generator=torch.Generator().manual_seed(0)).to(device)

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            language_model_loss(model, ids, ids).backward()
            optimizer.step()

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        steps()
        measured = torch.cuda.max_memory_allocated()
    else:
        with TensorMemory(model) as memory:
            steps()
        measured = memory.peak
    predicted = training_memory(
        decoder_shape(model.config),
        method,
        batch=batch,
        tokens=tokens,
        precision=TRAIN_FP32,
        storage=NF4_DOUBLE if quantized else dense,
        compute=dense,
    )
    return predicted.total, measured


def planner(device: str) -> str:
    """A step of SmolLM2 in bf16, LoRA and QLoRA, beside what the planner says."""
    parts = []
    for name, quantized in (("LoRA", False), ("QLoRA", True)):
        model = load_smollm2()[0].bfloat16().to(device) if device == "cuda" else parity.decoders()[0].to(device)
        batch, tokens = (8, 512) if device == "cuda" else (8, 48)
        predicted, measured = memory_of(model, quantized, batch, tokens)
        parts.append(f"{name} {measured / 1e6:,.1f} MB, planned {predicted / 1e6:,.1f}")
        # the planner counts one cross-entropy over all logits, and not what a kernel needs for a moment
        assert 0.6 <= measured / predicted <= 1.5, parts[-1]
        del model
    return "; ".join(parts)


def real_text(device: str) -> str:
    """SmolLM2's first token after a text, as transformers' model with the same weights has it."""
    model, tokenizer = load_smollm2()
    ids = torch.tensor([tokenizer.encode("The capital of France is")], device=device)
    model.to(device)
    theirs = in_transformers(model).to(device).eval()
    with torch.no_grad():
        near(model(ids), theirs(ids).logits, BOUNDS[torch.float32], "logits")
        word = tokenizer.decode(model(ids)[0, -1].argmax(-1, keepdim=True).tolist())
    return f"…{word}"


CHECKS: dict[str, Callable[[str], str]] = {
    "methods": methods,
    "beside peft": beside_peft,
    "beside bitsandbytes": beside_bitsandbytes,
    "beside transformers": beside_transformers,
    "autocast": autocast,
    "torch.compile": compiled,
    "planner": planner,
    "real text": real_text,
}


def main(device: str = "cuda") -> int:
    if device == "cuda" and not torch.cuda.is_available():
        print("This computer has no GPU that torch can use: nothing was checked.")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    table, failed = [], 0
    for name, check in CHECKS.items():
        start = time.monotonic()
        try:
            result = f"held    {check(device)}"
        except Exception as error:  # the others still say what they find
            traceback.print_exc()
            result, failed = f"FAILED  {type(error).__name__}: {error}", failed + 1
        table.append(f"{name:20} {time.monotonic() - start:6.1f} s  {result}")
        print(table[-1], flush=True)
    print(
        f"\n{torch.cuda.get_device_name() if device == 'cuda' else device}, torch {torch.__version__}", *table, sep="\n"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
