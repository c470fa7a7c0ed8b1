"""What the course says of torch, and of safetensors, which reads and writes its tensors."""

import io
import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tools.proof.facts.fact import fact


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def flops(run: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# ---------------------------------------------------------------------------------------------------- files


class CallsAFunction:
    def __reduce__(self) -> tuple:
        return os.getpid, ()


@fact(
    "torch",
    where="notebooks/12_ship_it.md",
    says="Today's torch refuses such code unless told otherwise",
    expected=("refused", "run"),
)
def pickled_code(torch: Any) -> tuple[str, str]:
    """torch.load refuses a pickle that calls a function, and runs it with weights_only=False."""

    def load(**options: bool) -> str:
        file = io.BytesIO()
        torch.save(CallsAFunction(), file)
        file.seek(0)
        try:
            return "run" if torch.load(file, **options) == os.getpid() else "something else"
        except pickle.UnpicklingError:
            return "refused"

    return load(), load(weights_only=False)


@fact(
    "safetensors",
    where="peft_lessons/checkpoints/files.py",
    says="safetensors refuses a shared adapter's memory under two names",
    expected="RuntimeError",
)
def shared_memory(safetensors: Any) -> str:
    """safetensors refuses to save the same memory under two names."""
    from safetensors.torch import save_file

    tensor = torch.ones(3)
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_file({"a": tensor, "b": tensor}, Path(folder) / "file")
        except Exception as error:
            return type(error).__name__
    return "saved"


@fact(
    "safetensors",
    where="peft_lessons/accounting/files.py",
    says="a header of JSON that is padded to a multiple of 8, the numbers",
    expected=(8, 0, 12),
)
def safetensors_layout(safetensors: Any) -> tuple[int, int, int]:
    """A safetensors file is 8 bytes of length, a header padded to a multiple of 8, and the numbers."""
    from safetensors.torch import save

    stored = save({"name": torch.ones(3)}, metadata={"format": "pt"})
    header = int.from_bytes(stored[:8], "little")
    return 8, header % 8, len(stored) - 8 - header


# ------------------------------------------------------------------------------------------------- training


@fact(
    "torch",
    where="notebooks/02_what_fine_tuning_costs.md",
    says="AdamW counts its steps in 4 bytes more",
    expected=(0, False, {"step": 4, "exp_avg": 40, "exp_avg_sq": 40}),
)
def adamw_state(torch: Any) -> tuple[int, bool, dict[str, int]]:
    """AdamW makes its state at the first step, for what has a gradient alone: two means and a count of 4 bytes."""
    frozen, trained = nn.Parameter(torch.ones(10), requires_grad=False), nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([frozen, trained])
    before = len(optimizer.state)
    trained.sum().backward()
    optimizer.step()
    return before, frozen in optimizer.state, {name: kept.nbytes for name, kept in optimizer.state[trained].items()}


@fact(
    "torch",
    where="peft_lessons/accounting/memory.py",
    says='SGD_MOMENTUM = Optimizer("SGD with momentum", moments=1, counts_steps=False)',
    expected=(0, 1),
)
def sgd_state(torch: Any) -> tuple[int, int]:
    """SGD keeps nothing, and with momentum one number for each that trains; it counts no steps."""

    def kept(momentum: float) -> int:
        parameter = nn.Parameter(torch.ones(10))
        optimizer = torch.optim.SGD([parameter], momentum=momentum)
        parameter.sum().backward()
        optimizer.step()
        return sum(value.numel() for value in optimizer.state[parameter].values() if value is not None) // 10

    return kept(0.0), kept(0.9)


@fact("torch", where="peft_lessons/training.py", says="weight_decay=weight_decay, fused=True", expected=True)
def fused_adamw(torch: Any) -> bool:
    """AdamW has a fused kernel on a CPU."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.sum().backward()
    optimizer.step()
    return bool((parameter < 1).all())


@fact(
    "torch",
    where="notebooks/08_fine_tune_a_real_llm.md",
    says="they are $-100$, the number that torch's cross-entropy ignores",
    expected=True,
)
def ignored_label(torch: Any) -> bool:
    """Cross-entropy leaves out labels of −100."""
    logits = torch.tensor([[1.0, 2.0], [3.0, 0.0]])
    return torch.equal(F.cross_entropy(logits, torch.tensor([0, -100])), F.cross_entropy(logits[:1], torch.tensor([0])))


@fact(
    "torch",
    where="peft_lessons/lessons/l01_overview_of_peft/notes.toml",
    says="Many think that a frozen layer is what `nn.Linear` gives by default",
    expected=True,
)
def linear_trains(torch: Any) -> bool:
    """A new linear layer trains."""
    return all(parameter.requires_grad for parameter in nn.Linear(2, 2).parameters())


@fact(
    "torch",
    where="notebooks/01_overview_of_peft.md",
    says="With PyTorch's default start a linear layer multiplies the variance of its input by $1/3$",
    expected=0.33,
)
def linear_start(torch: Any) -> float:
    """A new linear layer multiplies the variance of its input by 1/3."""
    torch.manual_seed(0)
    layer, x = nn.Linear(512, 2048), torch.randn(1024, 512)
    with torch.no_grad():
        return round((layer(x).var() / x.var()).item(), 2)


# -------------------------------------------------------------------------------------------- checkpointing


@fact(
    "torch",
    where="notebooks/02_what_fine_tuning_costs.md",
    says="The older kind computes no gradients at all where its input needs none",
    expected=(False, True),
)
def reentrant_checkpoint(torch: Any) -> tuple[bool, ...]:
    """With use_reentrant=True checkpointing gives no gradient where the input needs none, with False it does."""

    def has_gradient(reentrant: bool) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return checkpoint(nn.Linear(4, 4), torch.ones(2, 4), use_reentrant=reentrant).requires_grad

    return has_gradient(True), has_gradient(False)


@fact(
    "torch",
    where="peft_lessons/accounting/flops.py",
    says="With checkpointing torch stops computing a block again once it has all that backward asks for",
    expected=1,
)
def checkpoint_stops_early(torch: Any) -> int:
    """A checkpointed block is computed again only up to the last tensor that backward asks for."""
    weight, runs_to_the_end = torch.ones(3, requires_grad=True), []

    def block(x: Tensor) -> Tensor:
        y = weight * x  # backward asks for both factors, and for nothing below
        runs_to_the_end.append(True)
        return y + 1

    checkpoint(block, torch.ones(3), use_reentrant=False).sum().backward()
    return len(runs_to_the_end)


# ------------------------------------------------------------------------------------------------- autocast


@fact(
    "torch",
    where="notebooks/02_what_fine_tuning_costs.md",
    says="With `torch.autocast`, weights and gradients stay in fp32, as in the first row.",
    expected=("float32", "float32", "bfloat16"),
)
def autocast_keeps_weights(torch: Any) -> tuple[str, str, str]:
    """Under autocast weights and gradients stay in fp32, and products are in bf16."""
    layer = nn.Linear(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.ones(2, 4))
    y.float().sum().backward()
    assert layer.weight.grad is not None
    return short(layer.weight.dtype), short(layer.weight.grad.dtype), short(y.dtype)


@fact("torch", where="peft_lessons/quantization/linear.py", says="# autocast leaves float64 alone", expected="float64")
def autocast_float64(torch: Any) -> str:
    """Autocast leaves float64 alone."""
    with torch.autocast("cpu", torch.bfloat16):
        return short(nn.Linear(4, 4).double()(torch.ones(2, 4).double()).dtype)


@fact(
    "torch",
    where="peft_lessons/low_rank.py",
    says="it leaves alone what is in place",
    expected=("bfloat16", "float32"),
)
def autocast_in_place(torch: Any) -> tuple[str, str]:
    """Autocast rounds the factors of a product, but not those of a product that is added in place."""
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        return short((x @ x).dtype), short(torch.addmm(x, x, x, out=torch.empty(2, 2)).dtype)


# ------------------------------------------------------------------------------------------------- counting


@fact(
    "torch", where="notebooks/02_what_fine_tuning_costs.md", says="torch counts operations live.", expected=(6.0, 4.0)
)
def counted_operations(torch: Any) -> tuple[float, float]:
    """FlopCounterMode counts 6 operations for each token and weight of a trained linear layer, 4 of a frozen one."""

    def per_weight(trains: bool) -> float:
        layer = nn.Linear(8, 8, bias=False).requires_grad_(trains)
        x = torch.ones(16, 8, requires_grad=True)
        return flops(lambda: layer(x).sum().backward()) / 16 / 8**2

    return per_weight(True), per_weight(False)


@fact(
    "torch",
    where="peft_lessons/accounting/flops.py",
    says="FlopCounterMode has no formula for its CPU version, which it counts as nothing",
    expected=(0, 2048),
)
def uncounted_attention(torch: Any) -> tuple[int, int]:
    """FlopCounterMode counts attention's fused kernel on a CPU as nothing, and the plain one by its two products."""
    x = torch.ones(1, 2, 8, 4)

    def counted(backend: SDPBackend) -> int:
        with sdpa_kernel(backend):
            return flops(lambda: F.scaled_dot_product_attention(x, x, x))

    return counted(SDPBackend.FLASH_ATTENTION), counted(SDPBackend.MATH)


@fact(
    "torch",
    where="peft_lessons/accounting/flops.py",
    says="OFT's inverses are left out of the forward pass, as FlopCounterMode leaves them out",
    expected=0,
)
def uncounted_inverse(torch: Any) -> int:
    """FlopCounterMode counts torch.linalg.solve as nothing."""
    return flops(lambda: torch.linalg.solve(torch.eye(4), torch.ones(4, 4), left=False))


@fact(
    "torch",
    where="peft_lessons/low_rank.py",
    says="# addmm_, by a name that FlopCounterMode counts",
    expected=(0, 128),
)
def uncounted_addmm(torch: Any) -> tuple[int, int]:
    """FlopCounterMode does not count addmm_, but counts torch.addmm(…, out=…)."""
    x = torch.ones(4, 4)
    return flops(lambda: torch.ones(4, 4).addmm_(x, x)), flops(lambda: torch.addmm(x, x, x, out=torch.empty(4, 4)))


@fact(
    "torch",
    where="notebooks/02_what_fine_tuning_costs.md",
    says="GELU, a common nonlinearity, keeps its input as well",
    expected={"frozen linear": False, "trained linear": True, "GELU": True},
)
def kept_inputs(torch: Any) -> dict[str, bool]:
    """A trained linear layer keeps its input for backward, as GELU does, and a frozen one does not."""

    def keeps(layer: nn.Module) -> bool:
        x, kept = torch.ones(3, 4, requires_grad=True), []

        def keep(tensor: Tensor) -> Tensor:
            kept.append(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            layer(x)
        return x.data_ptr() in kept

    frozen = nn.Linear(4, 4).requires_grad_(False)
    return {"frozen linear": keeps(frozen), "trained linear": keeps(nn.Linear(4, 4)), "GELU": keeps(nn.GELU())}


@fact(
    "torch",
    where="peft_lessons/accounting/measured.py",
    says="torch keeps one Python object for a storage as long as that lives",
    expected=True,
)
def one_object_for_a_storage(torch: Any) -> bool:
    """A tensor and its views give the same Python object for their storage."""
    tensor = torch.ones(4)
    storage = tensor.untyped_storage()
    return storage is tensor.untyped_storage() and storage is tensor[1:].untyped_storage()


# ---------------------------------------------------------------------------------------------- arithmetic


class ReturnsAView(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (2 * x).view(-1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0].view(2, 2)


@fact(
    "torch",
    where="peft_lessons/low_rank.py",
    says="autograd forbids to change a view that a function returns",
    expected="RuntimeError",
)
def views_of_functions(torch: Any) -> str:
    """autograd forbids to change in place a view that a custom function returned."""
    y = ReturnsAView.apply(torch.ones(2, 2, requires_grad=True))
    try:
        y.add_(1)
    except Exception as error:
        return type(error).__name__
    return "allowed"


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].bfloat16()


@fact(
    "torch",
    where="peft_lessons/low_rank.py",
    says="# autograd casts each to its tensor's dtype",
    expected="float32",
)
def gradients_of_functions(torch: Any) -> str:
    """autograd casts a gradient that a custom function returns to the dtype of its tensor."""
    x = torch.ones(2, requires_grad=True)
    HalfGradient.apply(x).sum().backward()
    return short(x.grad.dtype)


@fact("torch", where="peft_lessons/models/decoder.py", says="enable_gqa=True", expected=True)
def grouped_queries(torch: Any) -> bool:
    """With enable_gqa attention lets consecutive heads of queries share a head of keys and values."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, heads, 5, 4, generator=generator) for heads in (4, 2, 2))
    whole = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1))
    return torch.allclose(F.scaled_dot_product_attention(q, k, v, enable_gqa=True), whole, atol=1e-6)


@fact(
    "torch",
    where="peft_lessons/lessons/l06_quantization_from_scratch/normal_levels.py",
    says="`torch.special.ndtri` is the quantile function Φ⁻¹",
    expected=(1.959964, "float64"),
)
def normal_quantiles(torch: Any) -> tuple[float, str]:
    """torch.special.ndtri is the normal distribution's quantile function, and keeps float64."""
    quantile = torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64))
    return round(quantile.item(), 6), short(quantile.dtype)


@fact(
    "torch",
    where="peft_lessons/lessons/l04_why_low_rank/smallest_rank.py",
    says="`torch.linalg.svdvals(delta)` gives the singular values, largest first",
    expected=[3.0, 2.0, 1.0],
)
def singular_values(torch: Any) -> list[float]:
    """torch.linalg.svdvals gives the singular values, largest first."""
    return [round(value, 5) for value in torch.linalg.svdvals(torch.diag(torch.tensor([1.0, 3.0, 2.0]))).tolist()]


@fact(
    "torch",
    where="peft_lessons/lessons/l03_lora_from_scratch/forward.py",
    says="`torch.nn.functional.linear(x, weight, bias)` is the base layer's part. It takes None for the bias.",
    expected=[[3.0], [7.0]],
)
def linear_without_bias(torch: Any) -> list[list[float]]:
    """F.linear multiplies by the transpose of a weight (out, in), and takes None for the bias."""
    return F.linear(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.ones(1, 2), None).tolist()
