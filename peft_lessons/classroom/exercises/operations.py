"""What a student's code does on the way, and its result does not show: modes that see every tensor operation."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

INTEGERS = {torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


class NaNShows(TorchDispatchMode):
    """Where a NaN becomes an integer, in a cast or as an index, comes `shown`: what really comes differs by machine.

    `seen` is true once that happened.
    """

    def __init__(self, shown: int) -> None:
        super().__init__()
        self.shown, self.seen = shown, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        nans = [a.isnan() for a in args if isinstance(a, Tensor) and a.is_floating_point()]
        result = func(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple) else (result,):
            if isinstance(made, Tensor) and made.dtype in INTEGERS:
                for nan in nans:
                    self.seen = self.seen or bool(nan.any())
                    if nan.shape == made.shape:
                        made.masked_fill_(nan, self.shown)
        return result


class ProductSeen(TorchDispatchMode):
    """`seen` is true once B A was built, alone, times a factor, or added to the weight."""

    def __init__(self, A: Tensor, B: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.product, self.weight, self.seen = (B @ A).double(), weight.double(), False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.is_floating_point():
            matrix = result.detach().double().squeeze()
            for way in (matrix, matrix.mT if matrix.dim() == 2 else matrix):
                if way.shape == self.product.shape:
                    self.seen = self.seen or _parallel(way, self.product) or _parallel(way - self.weight, self.product)
        return result


def _parallel(one: Tensor, other: Tensor) -> bool:
    cosine = torch.cosine_similarity(one.flatten(), other.flatten(), dim=0)
    return bool(cosine.abs() > 0.999)
