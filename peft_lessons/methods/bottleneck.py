"""Bottleneck adapters: a small network after a module, or beside it.

    serial      h = f(x) + U σ(D f(x) + c) + e        (Houlsby et al. 2019, arXiv:1902.00751, §2.1)
    parallel    h = f(x) + s (U σ(D x + c) + e)       (He et al. 2021, arXiv:2110.04366, §3.3 and §4.5)

D (m, d) goes down to m ≪ d numbers, U (d, m) up again, σ is ReLU. U starts at zero here, so that the start is the base
exactly; the serial paper uses small random numbers. The nonlinearity keeps both from being folded into weights: they
cost time at inference.

Left out: training the norms too, as the serial paper does.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.bases import is_linear, sizes
from peft_lessons.checks import check_count, check_positive
from peft_lessons.targets import Targets


class Bottleneck(AdapterLayer):
    """D, c, U and e between two widths."""

    def __init__(self, base_layer: nn.Module, config: "BottleneckConfig", in_features: int, out_features: int) -> None:
        super().__init__(base_layer, config)
        self.down_weight = self.new_parameter(config.bottleneck, in_features)
        self.down_bias = self.new_parameter(config.bottleneck)
        self.up_weight = self.new_parameter(out_features, config.bottleneck)
        self.up_bias = self.new_parameter(out_features)
        nn.init.kaiming_uniform_(self.down_weight, nonlinearity="relu")

    def bottleneck(self, x: Tensor) -> Tensor:
        """U σ(D x + c) + e: (…, in) → (…, out)."""
        D, c, U, e = (t.to(x.dtype) for t in (self.down_weight, self.down_bias, self.up_weight, self.up_bias))
        return F.linear(F.relu(F.linear(x, D, c)), U, e)


class SerialAdapter(Bottleneck):
    """A bottleneck after a module, which may be any that has one output. Cannot be folded.

    Raises TypeError when the module holds no linear layer to read the width from.
    """

    def __init__(self, base_layer: nn.Module, config: "SerialAdapterConfig") -> None:
        _, width = widths(base_layer)
        super().__init__(base_layer, config, width, width)

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        y = self.base_layer(*inputs, **options)
        return y + self.bottleneck(y)


class ParallelAdapter(Bottleneck):
    """A bottleneck beside a module, from its input to its output (arXiv:2110.04366). Cannot be folded.

    Raises TypeError when the module holds no linear layer to read the widths from.
    """

    config: "ParallelAdapterConfig"

    def __init__(self, base_layer: nn.Module, config: "ParallelAdapterConfig") -> None:
        super().__init__(base_layer, config, *widths(base_layer))

    def adapted(self, x: Tensor, *inputs: Any, **options: Any) -> Tensor:
        y = self.base_layer(x, *inputs, **options)
        return y + self.config.scaling * self.bottleneck(x).to(y.dtype)


def widths(module: nn.Module) -> tuple[int, int]:
    """(in_features of a module's first linear layer, out_features of its last)."""
    linear = [layer for layer in module.modules() if is_linear(layer)]
    if not linear:
        raise TypeError(f"a bottleneck needs a linear layer, or a module with some; got {type(module).__name__}")
    return sizes(linear[0])[1], sizes(linear[-1])[0]


@dataclass(frozen=True, kw_only=True)
class BottleneckConfig(AdapterConfig):
    """How narrow.

    Raises ValueError for a width below 1.
    """

    bottleneck: int = 16  # m, numbers between D and U

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("bottleneck", self.bottleneck)


@dataclass(frozen=True, kw_only=True)
class SerialAdapterConfig(BottleneckConfig):
    """After which modules: by default both halves of each block, where the paper puts them.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), SerialAdapterConfig(bottleneck=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.down_weight': (2, 4), '0.down_bias': (2,), '0.up_weight': (4, 2), '0.up_bias': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = SerialAdapter
    targets: Targets = ("o_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class ParallelAdapterConfig(BottleneckConfig):
    """Beside which modules: by default each MLP, with the scaling that the paper chose for one of its tasks.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), ParallelAdapterConfig(bottleneck=2, targets=("0",)))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.down_weight': (2, 6), '0.down_bias': (2,), '0.up_weight': (4, 2), '0.up_bias': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = ParallelAdapter
    scaling: float = 4.0
    targets: Targets = ("mlp",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("scaling", self.scaling)
