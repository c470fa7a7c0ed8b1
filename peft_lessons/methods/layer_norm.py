"""LayerNorm tuning: train the norms and nothing else (Zhao et al. 2023, arXiv:2312.11420).

    h = (γ + Δγ) ⊙ normalise(x) + (β + Δβ)        here: a trained copy of γ and β, starting as they are

Llama's RMSNorm has no mean and no β: one vector of the model's width a norm, two norms a block and one at the end.

This is the paper's simpler variant: its first one trains embeddings and output head as well.
"""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.func import functional_call

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.targets import Targets


class LayerNormTuning(AdapterLayer):
    """A norm with trained copies of its weight and bias. Input and output of the same shape.

    Raises TypeError when `base_layer` is no norm: a module with parameters and without children.
    """

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        vectors = dict(base_layer.named_parameters())
        if not vectors or list(base_layer.children()):
            raise TypeError(f"LayerNormTuning trains the vectors of a norm, got {type(base_layer).__name__}")
        self.tuned = nn.ParameterDict(
            {name: nn.Parameter(vector.detach().to(self.adapter_dtype, copy=True)) for name, vector in vectors.items()}
        )

    def adapted(self, x: Tensor) -> Tensor:
        return functional_call(self.base_layer, {name: self.merged_tensor(name) for name in self.tuned}, (x,))

    def merged(self) -> nn.Module:
        """A new frozen norm of the same kind with the trained vectors, in the base's dtype."""
        norm = copy.deepcopy(self.base_layer)
        for name in self.tuned:
            setattr(norm, name, nn.Parameter(self.merged_tensor(name).detach().clone(), requires_grad=False))
        return norm

    def merged_tensor(self, name: str) -> Any:
        """A vector in the base's dtype: x may have another, to which autocast has rounded it."""
        tensor = getattr(self.base_layer, name)
        return self.tuned[name].to(tensor.dtype) if name in self.tuned else tensor

    @property
    def eps(self) -> float:
        return self.base_layer.eps  # type: ignore[return-value]  # torch's encoder layers read it


@dataclass(frozen=True, kw_only=True)
class LayerNormTuningConfig(AdapterConfig):
    """Which norms train.

    >>> model = inject(nn.Sequential(nn.LayerNorm(4)), LayerNormTuningConfig(targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.tuned.bias': (4,), '0.tuned.weight': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = LayerNormTuning
    targets: Targets = ("input_layernorm", "post_attention_layernorm", "norm")

    def check(self, name: str, base_layer: nn.Module) -> None:
        """Raise TypeError for parameters that are no vectors: training a whole matrix is what this method avoids."""
        if any(parameter.ndim != 1 for parameter in base_layer.parameters()):
            raise TypeError(f"LayerNormTuning trains the vectors of a norm, got {type(base_layer).__name__}")
