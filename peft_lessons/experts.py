"""LoRA on parameters that no layer calls: the experts of a mixture, which lie in one tensor.

    W'_e = W_e + (α/r) B_e A_e        W (experts, out, in) frozen, A_e (r, in), B_e (out, r), one pair an expert

A module such as transformers' `Qwen3MoeExperts` multiplies its tokens by `self.gate_up_proj[e]` in code of its own, so
there is no layer to wrap. It is called with W' in the place of W, as in Hugging Face peft (`target_parameters`): the
whole stack is added up at each pass, and kept for the backward pass. In 16 bits W' is rounded, as merging rounds it. A
router is a matrix of its own and left alone unless it is named. A matrix counts as a stack of one.

Stored as in peft, all experts in two matrices: A (experts · r, in) and B (out, r · experts), in which an expert's
columns lie `experts` apart. A module whose `is_transposed` is true keeps W as (experts, in, out).

Left out: dropout, which would drop from an input that is not seen here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from peft_lessons.adapters import AdapterConfig, ReadThrough, with_parameters
from peft_lessons.bases import FLOATS
from peft_lessons.checks import check_rank_fits
from peft_lessons.exact import exact
from peft_lessons.ranks import RankedConfig
from peft_lessons.targets import checked, matches, own_names, quoted


class LoRAExperts(ReadThrough):
    """A module, and the low-rank updates of parameters that it holds itself. Called as the module is.

    `configs` has a `LoRAConfig` for each parameter.

    Raises:
        TypeError: for a parameter that is no matrix or stack of matrices.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from peft_lessons import LoRAConfig, LoRAExperts
        >>> class Experts(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.down_proj = nn.Parameter(torch.ones(5, 4, 8))
        ...
        ...     def forward(self, x):
        ...         return x @ self.down_proj[0].T
        >>> config = LoRAConfig(rank=2, target_parameters=("down_proj",))
        >>> layer = LoRAExperts(Experts(), config, {"down_proj": config})
        >>> layer(torch.ones(3, 8)).shape
        torch.Size([3, 4])
        >>> layer.lora_A["down_proj"].shape, layer.lora_B["down_proj"].shape
        (torch.Size([10, 8]), torch.Size([4, 10]))
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig, configs: Mapping[str, Any]) -> None:
        super().__init__(base_layer, config)
        self.configs = dict(configs)
        self.lora_A, self.lora_B = nn.ParameterDict(), nn.ParameterDict()
        for name, one in configs.items():
            experts, out_features, in_features = stack_sizes(base_layer, name)
            self.lora_A[name] = self.new_parameter(experts * one.rank, in_features)
            self.lora_B[name] = self.new_parameter(out_features, one.rank * experts)
            nn.init.kaiming_uniform_(self.lora_A[name], a=math.sqrt(5))

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        updated = {name: self.updated(name, getattr(self.base_layer, name).dtype) for name in self.configs}
        return functional_call(self.base_layer, updated, inputs, options)

    @exact()
    def updated(self, name: str, dtype: torch.dtype) -> Tensor:
        """W' of the parameter called `name`, in its shape, computed in `dtype`."""
        W, rank = getattr(self.base_layer, name), self.configs[name].rank
        experts, _, _ = stack_sizes(self.base_layer, name)
        A = self.lora_A[name].to(dtype).unflatten(0, (experts, rank))  # (experts, r, in)
        B = self.lora_B[name].to(dtype).unflatten(1, (rank, experts)).permute(2, 0, 1)  # (experts, out, r)
        left, right = (A.mT, B.mT) if is_transposed(self.base_layer, name) else (B, A)
        stack = W.to(dtype).view(experts, *W.shape[-2:])
        return torch.baddbmm(stack, left, right, alpha=self.configs[name].scaling).view(W.shape)

    def merged_tensor(self, name: str) -> Tensor:
        if name not in self.configs:
            raise TypeError(f"{name} of {type(self.base_layer).__name__} is not adapted")
        dtype = getattr(self.base_layer, name).dtype
        return self.updated(name, torch.promote_types(dtype, torch.float32)).to(dtype)

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Return a module of the same kind with W', rounded once."""
        new = {name: self.merged_tensor(name) for name in self.configs}
        return with_parameters(self.base_layer, new).train(self.training)

    def __getattr__(self, name: str) -> Any:
        """Read W' as the module's own code names it."""
        return self._read(name) if name in vars(self).get("configs", ()) else super().__getattr__(name)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}: rank={one.rank}, alpha={one.alpha:g}" for name, one in self.configs.items())


def stack_sizes(module: nn.Module, name: str) -> tuple[int, int, int]:
    """(experts, out, in) of a parameter of `module`. Raises TypeError unless it is floats of 2 or 3 dimensions."""
    W = getattr(module, name)
    if is_lazy(W) or W.dtype not in FLOATS or W.ndim not in (2, 3):
        given = "not made yet" if is_lazy(W) else f"{W.dtype} {tuple(W.shape)}"
        raise TypeError(
            f"{name} of {type(module).__name__} is {given}; target_parameters are floats of shape (experts, out, in), "
            "(experts, in, out) or (out, in)"
        )
    experts = len(W) if W.ndim == 3 else 1
    first, second = W.shape[-2:]
    return (experts, second, first) if is_transposed(module, name) else (experts, first, second)


def is_transposed(module: nn.Module, name: str) -> bool:
    """Return whether a stack lies as (experts, in, out), as its module says. A matrix is (out, in), as in peft."""
    return getattr(module, name).ndim == 3 and bool(getattr(module, "is_transposed", False))


@dataclass(frozen=True, kw_only=True)
class ParametersConfig(RankedConfig):
    """How much LoRA on which parameters, beside modules.

    Attributes:
        target_parameters: Parameters that a module multiplies by in code of its own, such as stacks of experts, by
            names or ends of names, cut at a dot: ("experts.down_proj",). Patterns of ranks read these names, too.
            `exclude` and `layers` do not: they are about `targets`, which may be empty then.
    """

    target_parameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "target_parameters", checked("target_parameters", self.target_parameters))
        super().__post_init__()

    def require_targets(self) -> None:
        if not self.target_parameters:
            super().require_targets()

    def parameters(self, name: str, module: nn.Module) -> tuple[str, ...]:
        return tuple(
            own
            for own, _ in module.named_parameters(recurse=False)
            if any(matches(f"{name}.{own}", one) for one in self.target_parameters)
        )

    def modules(self, model: nn.Module) -> dict[nn.Module, str]:
        modules = [(name, module) for name, module in own_names(model) if name]
        there = {f"{name}.{own}": W for name, module in modules for own, W in module.named_parameters(recurse=False)}
        if missing := [one for one in self.target_parameters if not any(matches(name, one) for name in there)]:
            shown = [name for name, W in there.items() if not is_lazy(W) and W.ndim == 3] or list(there)
            raise ValueError(f"no parameter ends with {quoted(missing)}; this model has {quoted(shown)}")
        return super().modules(model)

    def ranked_names(self, found: Mapping[nn.Module, str]) -> list[str]:
        inside = [f"{name}.{own}" for module, name in found.items() for own in self.parameters(name, module)]
        return [*super().ranked_names(found), *inside]

    def check(self, name: str, base_layer: nn.Module) -> None:
        if not (own := self.parameters(name, base_layer)):
            super().check(name, base_layer)
        for parameter in own:
            _, out_features, in_features = stack_sizes(base_layer, parameter)
            check_rank_fits(self.at(f"{name}.{parameter}").rank, out_features, in_features)
