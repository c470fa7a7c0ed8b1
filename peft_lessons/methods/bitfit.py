"""BitFit: train the biases and nothing else (Ben Zaken et al. 2021, arXiv:2106.10199).

    h = W₀x + b₀ + δ        δ (out,) starts at 0

The paper trains the biases that a model has. Llama's linear layers have none; δ then is their first one.

Left out: the biases of LayerNorms, see `LayerNormTuningConfig`.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.linear import LLAMA_LINEAR_LAYERS, LinearAdapter
from peft_lessons.targets import Targets


class BitFitLinear(LinearAdapter):
    """A linear layer and the change of its bias. x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        self.bias_delta = self.new_parameter(self.out_features)

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.bias_delta.to(y.dtype)

    def folded(self) -> tuple[Tensor, Tensor]:
        bias, delta = self.base_layer.bias, self.bias_delta.to(self.adapter_dtype)
        return self.base_weight(delta.dtype), delta if bias is None else bias + delta


@dataclass(frozen=True, kw_only=True)
class BitFitConfig(AdapterConfig):
    """Which layers' biases train.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), BitFitConfig(targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.bias_delta': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = BitFitLinear
    targets: Targets = LLAMA_LINEAR_LAYERS
