"""IA³: scale keys, values and the inner activations of the MLP (Liu et al. 2022, arXiv:2205.05638, §3.3).

    k = l_k ⊙ (W_k x),    v = l_v ⊙ (W_v x),    W_down (l_ff ⊙ u)        every l starts at 1

Three vectors a block, and nothing is left at inference: l scales the rows of W_k and W_v and the columns of W_down.
"Infused Adapter by Inhibiting and Amplifying Inner Activations".

Convolutions have a page of their own, `ia3_conv.py`. Left out: the paper's unlikelihood and length-normalised losses,
which are about the task and not the adapter.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig, AdapterLayer
from peft_lessons.convolution import CONVOLUTIONS
from peft_lessons.linear import LinearAdapter
from peft_lessons.methods.ia3_conv import IA3Conv
from peft_lessons.targets import Names, Targets, checked, selects


class IA3OutputLinear(LinearAdapter):
    """l ⊙ (W x + b), l (out_features,). x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        self.ia3_l = self.new_parameter(self.out_features)
        nn.init.ones_(self.ia3_l)

    def adapted(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return self.ia3_l.to(y.dtype) * y

    def folded(self) -> tuple[Tensor, Tensor | None]:
        scale, bias = self.ia3_l.to(self.adapter_dtype), self.base_layer.bias
        return scale[:, None] * self.base_weight(scale.dtype), None if bias is None else scale * bias


class IA3InputLinear(LinearAdapter):
    """W (l ⊙ x) + b, l (in_features,). x: (…, in_features) → (…, out_features)."""

    def __init__(self, base_layer: nn.Module, config: AdapterConfig) -> None:
        super().__init__(base_layer, config)
        self.ia3_l = self.new_parameter(self.in_features)
        nn.init.ones_(self.ia3_l)

    def adapted(self, x: Tensor) -> Tensor:
        return self.base_layer(self.ia3_l.to(x.dtype) * x)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        scale = self.ia3_l.to(self.adapter_dtype)
        return self.base_weight(scale.dtype) * scale, self.base_layer.bias


@dataclass(frozen=True, kw_only=True)
class IA3Config(AdapterConfig):
    """Where outputs are scaled, and where inputs. `feedforward_targets` are those of `targets` whose input is scaled.

    Raises ValueError for a feedforward target that is no target.

    >>> model = inject(nn.Sequential(nn.Linear(6, 4)), IA3Config(targets=("0",), feedforward_targets=()))
    >>> {name: tuple(tensor.shape) for name, tensor in adapter_state_dict(model).items()}
    {'0.ia3_l': (4,)}
    """

    layer: ClassVar[type[AdapterLayer]] = IA3OutputLinear
    targets: Targets = ("k_proj", "v_proj", "down_proj")
    feedforward_targets: Names = ("down_proj",)

    def __post_init__(self) -> None:
        super().__post_init__()
        feedforward = checked("feedforward_targets", self.feedforward_targets, pattern=True)
        object.__setattr__(self, "feedforward_targets", feedforward)
        if not isinstance(self.targets, tuple) or not isinstance(self.feedforward_targets, tuple):
            return  # what patterns mean is seen in a model
        if strangers := [name for name in self.feedforward_targets if name not in self.targets]:
            raise ValueError(f"feedforward_targets {strangers} are not among the targets {list(self.targets)}")

    def wrap(self, name: str, base_layer: nn.Module) -> AdapterLayer:
        scales_input = selects(self.feedforward_targets, name)
        if isinstance(base_layer, CONVOLUTIONS):
            return IA3Conv(base_layer, self, scales_input=scales_input)
        return (IA3InputLinear if scales_input else IA3OutputLinear)(base_layer, self)
