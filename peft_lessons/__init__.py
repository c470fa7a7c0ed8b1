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
from peft_lessons.fake_quantization import FakeQuantizedLinear, fake_quantize
from peft_lessons.methods.lora import LoRAConfig, LoRALinear
from peft_lessons.quantization import (
    FP4,
    NF4,
    Codebook,
    QuantizedLinear,
    QuantizedTensor,
    dequantize,
    float_codebook,
    integer_codebook,
    normal_codebook,
    quantize,
    quantize_model,
)

__all__ = [
    "FP4",
    "NF4",
    "AdapterConfig",
    "AdapterLayer",
    "Codebook",
    "FakeQuantizedLinear",
    "LoRAConfig",
    "LoRALinear",
    "QuantizedLinear",
    "QuantizedTensor",
    "adapter_state_dict",
    "adapters_disabled",
    "dequantize",
    "fake_quantize",
    "float_codebook",
    "inject",
    "integer_codebook",
    "load_adapter",
    "merge",
    "normal_codebook",
    "quantize",
    "quantize_model",
    "remove_adapters",
    "save_adapter",
    "trainable_parameters",
]
