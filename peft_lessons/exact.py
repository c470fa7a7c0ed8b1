"""One border for what is computed once and kept: the start of an adapter, a merged weight, a table of levels."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

DEVICES = tuple(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu")))


def autocasts(device: str) -> bool:
    """Whether autocast is on for this type of device. Some, such as "meta", have none and may not be asked."""
    return device in DEVICES and torch.is_autocast_enabled(device)


@contextmanager
def exact() -> Iterator[None]:
    """Inside this context, or function that it decorates, tensors are computed in their own dtypes and may train later.

    A caller's autocast is off: it would round W itself to bf16. So is inference mode, whose tensors no later backward
    pass may keep; gradients stay off in its place. All else is as it was outside.
    """
    with ExitStack() as modes:
        for device in filter(autocasts, DEVICES):
            modes.enter_context(torch.autocast(device, enabled=False))
        # a compiler cannot ask, and keeps nothing
        if not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
            modes.enter_context(torch.no_grad())
        yield
