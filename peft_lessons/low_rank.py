"""The product that low-rank methods share, y + scaling · (x Aᵀ) Bᵀ, and its gradients in a good order.

With h = scaling · x Aᵀ and the gradient g of the result, the chain rule gives

    dB = gᵀ h,    dh = g B,    dA = scaling · dhᵀ x,    dx = scaling · dh A.

Autograd computes the same products and keeps the same tensors. Here each matrix with one short side, the rank, is made
lying, (rank, …), and read transposed where the formula has it upright. A matrix library cuts its result into tiles, and
a narrow upright result fills them badly: on a CPU (hᵀ g)ᵀ takes a seventh of the time of gᵀ h at rank 8, and (Bᵀ gᵀ)ᵀ
a third of that of g B.

Left out: writing into y in place, which would save 1 % of a layer's forward and backward. A base layer may return its
own input or need its output for its backward pass, a hook may hold it, and where it is a view (`nn.Linear` with a bias
on batches of sequences) autograd copies the gradient twice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def add_low_rank(y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
    """y + scaling · (x Aᵀ) Bᵀ: a new tensor in y's shape and dtype, equal to y to the last bit while B is zero.

    y (…, out), x (…, in), A (rank, in), B (out, rank). The products are computed in y's dtype, to which autocast may
    have brought it. A, B and their gradients keep their own. Gradients of gradients are for the plain formula.
    """
    rank, rows = len(A), x.shape[:-1].numel()
    if rows < 8 * max(rank, 16):  # nothing is long and narrow, and the calls cost more than the products
        dtype = y.dtype
        return y + F.linear(scaling * F.linear(x.to(dtype), A.to(dtype)), B.to(dtype))
    return _AddLowRank.apply(y, x, A, B, scaling)


class _AddLowRank(torch.autograd.Function):
    """`add_low_rank` over many rows. Keeps x if A trains, h if B trains, and A and B as they are, not cast."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, A: Tensor, B: Tensor, scaling: float) -> Tensor:
        dtype = y.dtype
        # autocast rounds these factors for a y that it has not rounded; it leaves alone what is in place
        h = (A.to(dtype) @ _rows(x).to(dtype).T).to(dtype).mul_(scaling)  # (rank, rows)
        _, x_needs, A_needs, B_needs, _ = ctx.needs_input_grad
        ctx.save_for_backward(
            x if A_needs else None, A if x_needs else None, B if x_needs or A_needs else None, h if B_needs else None
        )
        ctx.scaling, ctx.shape = scaling, x.shape
        return _rows(y).clone().addmm_(h.T, B.to(dtype).T).view(y.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # autograd casts each to its tensor's dtype
        x, A, B, h = ctx.saved_tensors
        g = _rows(gradient)
        dx = dA = None
        if B is not None:
            dh = (B.to(g.dtype).T @ g.T).mul_(ctx.scaling)  # (rank, rows)
            dx = None if A is None else (dh.T @ A.to(g.dtype)).view(ctx.shape)
            dA = None if x is None else dh @ _rows(x).to(g.dtype)
        dB = None if h is None else (h @ g).T
        return gradient, dx, dA, dB, None


def _rows(x: Tensor) -> Tensor:
    """(…, features) → (rows, features)"""
    return x.reshape(x.shape[:-1].numel(), x.shape[-1])
