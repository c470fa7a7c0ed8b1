"""The product that low-rank methods share, y + scaling · (x Aᵀ) Bᵀ, and its gradients in a good order.

With h = scaling · x Aᵀ and the gradient g of the result, the chain rule gives

    dB = gᵀ h,    dh = g B,    dA = scaling · dhᵀ x,    dx = scaling · dh A,

and g W more in dx where y is W x + b. Autograd computes the same products and keeps the same tensors. Here each matrix
with one short side, the rank, is made lying, (rank, …), and read transposed where the formula has it upright. A matrix
library cuts its result into tiles, and a narrow upright result fills them badly: on a CPU (hᵀ g)ᵀ takes a seventh of
the time of gᵀ h at rank 8, and (Bᵀ gᵀ)ᵀ a third of that of g B.

Over a plain linear layer, y is computed here too. Then the update is added in place, to y and to dx, which saves some
passes over tensors as large as x: about 5 % of a layer's forward and backward. It is not done over other layers: one
may return its own input or need its output for its backward pass, and a hook may hold it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from peft_lessons.exact import autocasts


def adapted_linear(base_layer: nn.Module, x: Tensor, dropped: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """base_layer(x) + scaling · (dropped Aᵀ) Bᵀ, equal to base_layer(x) to the last bit while B is zero.

    x and dropped (…, in), A (rank, in), B (out, rank) → (…, out) in the base layer's dtype. `dropped` is x, or x after
    dropout. The products are computed in the result's dtype, to which autocast may have brought it. A, B and their
    gradients keep their own. Gradients of gradients, torch.func and forward-mode derivatives are for few rows only.
    """
    if not _few(x, A) and dropped is x and not autocasts(x.device.type) and _is_plain(base_layer):
        return _AddLowRank.apply(None, x, base_layer.weight, base_layer.bias, A, B, scaling)
    return add_low_rank(base_layer(x), dropped, A, B, scaling)


def add_low_rank(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """y + scaling · (x Aᵀ) Bᵀ as a new tensor; y (…, out) may come from any layer."""
    if _few(x, A):  # nothing is long and narrow, and the calls cost more than the products
        dtype = y.dtype
        return y + F.linear(scaling * F.linear(x.to(dtype), A.to(dtype)), B.to(dtype))
    return _AddLowRank.apply(y, x, None, None, A, B, scaling)


def _few(x: Tensor, A: Tensor) -> bool:
    return x.numel() < 8 * max(len(A), 16) * x.shape[-1]


def _is_plain(layer: nn.Module) -> bool:
    """Return whether calling `layer` does nothing but W x + b with a frozen W and b: no hook, no subclass, no patch."""
    if type(layer) is not nn.Linear or not is_untouched(layer):
        return False
    weights = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    return (
        all(type(weight) is nn.Parameter and not weight.requires_grad for weight in weights)
        and not _has_any_global_hook()
    )


def is_untouched(module: nn.Module) -> bool:
    """Return whether calling `module` is calling its class's forward: no hook of its own, no patch."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" not in vars(module) and not any(getattr(module, hook) for hook in hooks)


class _AddLowRank(torch.autograd.Function):
    """y + scaling · (x Aᵀ) Bᵀ over many rows, where y is given, or else W x + b with both frozen.

    Keeps x if A trains, h if B trains, and A, B and W as they are, not cast.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, W: Tensor | None, b: Tensor | None, A: Tensor, B: Tensor, scaling: float
    ) -> Tensor:
        rows = _rows(y.clone() if W is None else F.linear(x, W, b))
        dtype = rows.dtype
        # autocast rounds these factors for a y that it has not rounded; it leaves alone what is in place
        h = (A.to(dtype) @ _rows(x).to(dtype).T).to(dtype).mul_(scaling)  # (rank, rows)
        _, x_needs, _, _, A_needs, B_needs, _ = ctx.needs_input_grad
        ctx.save_for_backward(
            x if A_needs else None,
            W if x_needs else None,
            A if x_needs else None,
            B if x_needs or A_needs else None,
            h if B_needs else None,
        )
        ctx.scaling, ctx.shape, ctx.y_is_given = scaling, x.shape, W is None
        torch.addmm(rows, h.T, B.to(dtype).T, out=rows)  # addmm_, by a name that FlopCounterMode counts
        # autograd forbids to change a view that a function returns, and a user's next layer may work in place
        return torch.ops.aten._unsafe_view(rows, (*x.shape[:-1], len(B)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # autograd casts each to its tensor's dtype
        x, W, A, B, h = ctx.saved_tensors
        g = _rows(gradient)
        dx = dA = None
        if B is not None:
            dh = (B.to(g.dtype).T @ g.T).mul_(ctx.scaling)  # (rank, rows)
            if A is not None:
                A = A.to(g.dtype)
                if W is None:
                    dx = dh.T @ A
                else:
                    dx = g @ W
                    torch.addmm(dx, dh.T, A, out=dx)
                dx = dx.view(ctx.shape)
            dA = None if x is None else dh @ _rows(x).to(g.dtype)
        dB = None if h is None else (h @ g).T
        return gradient if ctx.y_is_given else None, dx, None, None, dA, dB, None


def _rows(x: Tensor) -> Tensor:
    """(…, features) → (rows, features)"""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])
