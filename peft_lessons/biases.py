"""The base's own biases, trained beside the adapters, as Hugging Face peft's `bias="all"` and `bias="lora_only"` do.

There they train in place, and the base is gone. Here a copy of each trains and is put in the place of the base's when
the module, or its adapter, is called: switched off, the model is its base.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from peft_lessons.adapters import AdapterConfig, AdapterLayer, ReadThrough, TrainedWhole, with_parameters
from peft_lessons.targets import own_names

Bias = Literal["none", "all", "lora_only"]


class TrainedBias(ReadThrough):
    """A module, or the adapter that it has, with a trained copy of the module's bias. Called as the module is."""

    base_layer: Any  # of any kind that has a bias

    def __init__(self, base_layer: nn.Module, config: AdapterConfig, adapter: AdapterLayer | None) -> None:
        super().__init__(base_layer, config)
        self.adapter = adapter
        bias = self.base_layer.bias.detach()
        self.trained_bias = nn.Parameter(bias.to(torch.promote_types(bias.dtype, torch.float32), copy=True))

    def adapted(self, *inputs: Any, **options: Any) -> Tensor:
        bias = self.trained_bias.to(self.base_layer.bias.dtype)
        if self.adapter is None:
            return functional_call(self.base_layer, {"bias": bias}, inputs, options)
        return functional_call(self.adapter, {"base_layer.bias": bias}, inputs, options)

    def merged(self) -> nn.Module:
        plain: Any = self.base_layer if self.adapter is None else self.adapter.merged()
        return with_parameters(plain, {"bias": self._moved(plain.bias)}).train(self.training)

    def merged_tensor(self, name: str) -> Any:
        tensor = getattr(self.base_layer, name) if self.adapter is None else self.adapter.merged_tensor(name)
        return self._moved(tensor) if name == "bias" else tensor

    def _moved(self, bias: Tensor) -> Tensor:
        """`bias`, which an adapter may have changed, moved as far as training has moved the base's."""
        return (bias + (self.trained_bias - self.base_layer.bias)).to(bias.dtype)


@dataclass(frozen=True, kw_only=True)
class BiasesConfig(AdapterConfig):
    """Which biases of the base train beside the adapters.

    Attributes:
        bias: Which biases of the base train beside the adapters: "none", those of adapted modules, "lora_only", or
            "all".

    Raises:
        ValueError: for another word.
    """

    bias: Bias = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bias not in get_args(Bias):
            raise ValueError(f"bias is {self.bias!r}; possible: {', '.join(get_args(Bias))}")

    def build(self, model: nn.Module) -> dict[nn.Module, AdapterLayer]:
        layers = super().build(model)
        if self.bias == "none":
            return layers
        whole = {
            part for layer in layers.values() if isinstance(layer, TrainedWhole) for part in layer.base_layer.modules()
        }
        for name, module in own_names(model):
            adapter, bias = layers.get(module), module._parameters.get("bias")
            if bias is not None and module not in whole and (adapter or self.bias == "all"):
                layers[module] = TrainedBias(module, self.at(name), adapter)
        return layers
