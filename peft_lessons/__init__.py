"""Parameter-efficient fine-tuning, one page a method.

`inject(model, config)` puts adapters into a model, `merge(model)` folds them away; `quantize` and `QuantizedLinear`
make the base small. Models and data are in `peft_lessons.models` and `peft_lessons.data`, all that needs a notebook
in `peft_lessons.classroom`.
"""

from peft_lessons.adapters import (
    AdapterConfig,
    AdapterLayer,
    adapter_state_dict,
    adapters_disabled,
    inject,
    merge,
    remove_adapters,
    trainable_parameters,
)
from peft_lessons.checkpoint import load_adapter, save_adapter
from peft_lessons.methods.lora import LoRAConfig, LoRALinear

__all__ = [
    "AdapterConfig",
    "AdapterLayer",
    "LoRAConfig",
    "LoRALinear",
    "adapter_state_dict",
    "adapters_disabled",
    "inject",
    "load_adapter",
    "merge",
    "remove_adapters",
    "save_adapter",
    "trainable_parameters",
]
