"""Bytes of the tensors that really are in memory, watched while they come and go."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorMemory(TorchDispatchMode):
    """`with TensorMemory(model) as memory: step()`, and then `memory.peak` and `memory.now`, in bytes.

    The tensors of `modules` count from the start, others from the first operation that makes or reads them, each until
    its memory is given back. Memory that several tensors share counts once. Not seen: sparse tensors,
    what a kernel needs inside for a moment, and what an allocator holds in reserve.

    Examples:
        >>> import torch
        >>> from peft_lessons.accounting import TensorMemory
        >>> with TensorMemory() as memory:
        ...     x = torch.zeros(1000)
        >>> memory.now, memory.peak
        (4000, 4000)
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._count(tensor)

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        if tensor.layout is not torch.strided or tensor.is_meta:  # no storage of its own, or one without memory
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()  # torch keeps one Python object for a storage as long as that lives
        if key in self._alive:
            return

        def gone(_: object) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)
