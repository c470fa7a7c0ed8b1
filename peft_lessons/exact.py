"""One border for what is computed once and kept: the start of an adapter, a merged weight, a table of levels."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEVICES = tuple(filter(torch.amp.is_autocast_available, ("cpu", "cuda", "mps", "xpu")))


def autocasts(device: str) -> bool:
    """Return whether autocast is on for this type of device. Some, such as "meta", have none and may not be asked."""
    return device in DEVICES and torch.is_autocast_enabled(device)


@contextmanager
def exact() -> Iterator[None]:
    """Compute tensors in their own dtypes, able to train later, inside this context or function that it decorates.

    A caller's autocast is off: it would round W itself to bf16. So is inference mode, whose tensors no later backward
    pass may keep; gradients stay off in its place. All else is as it was outside.
    """
    device = next(filter(autocasts, DEVICES), None)
    if device is not None:
        with torch.autocast(device, enabled=False), exact():  # of other devices, too
            yield
    elif not torch.compiler.is_compiling() and torch.is_inference_mode_enabled():  # a compiler cannot ask
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield
