"""Parameter-efficient fine-tuning, one page a method.

`inject(model, config)` puts adapters into a model, `merge(model)` folds them away; `quantize` and `QuantizedLinear`
make the base small. Models and data are in `peft_lessons.models` and `peft_lessons.data`, all that needs a notebook
in `peft_lessons.classroom`.

A name is imported when it is first used, so that `peft-lessons doctor` can speak where torch is missing.
"""

from importlib import import_module
from typing import Any

from peft_lessons.methods.registry import names_by_page

__version__ = "0.1.0"

EXPORTS = {
    "adapters": (
        "AdapterConfig",
        "AdapterLayer",
        "adapter_state_dict",
        "adapters_disabled",
        "inject",
        "merge",
        "remove_adapters",
        "trainable_parameters",
    ),
    "experts": ("LoRAExperts",),
    "checkpoints.files": ("load_adapter", "save_adapter"),
    "checkpoints.gguf": ("export_gguf",),
    "checkpoints.merged": ("export_merged_folder", "export_merged_gguf"),
    "quantization.simulated": ("FakeQuantizedLinear", "fake_quantize"),
    "methods.lora_plus": ("lora_plus_groups",),
    "methods.partial": ("full_fine_tuning", "head_only", "last_layers"),
    **{f"methods.{page}": names for page, names in names_by_page().items()},
    "quantization": (
        "FP4",
        "NF4",
        "Codebook",
        "QuantizedLinear",
        "QuantizedTensor",
        "dequantize",
        "float_codebook",
        "integer_codebook",
        "normal_codebook",
        "quantize",
        "quantize_model",
    ),
    "multi_adapter": (
        "SeveralAdapters",
        "SeveralConfig",
        "add_adapter",
        "combine",
        "concatenate",
        "load_adapters",
        "remove_adapter",
        "save_named_adapter",
        "using",
    ),
    "preference": (
        "answer_log_probabilities",
        "dpo_loss",
        "group_advantages",
        "group_policy_losses",
        "kl_from_reference",
        "policy_losses",
        "preference_losses",
    ),
    "suspicions": ("Suspicion", "checkup"),
    "targets": ("ALL_LINEAR",),
}
HOMES = {name: module for module, names in EXPORTS.items() for name in names}

__all__ = sorted(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'peft_lessons' has no attribute {name!r}")
    value = getattr(import_module(f"peft_lessons.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
