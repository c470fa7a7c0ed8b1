"""What fine-tuning costs, counted from a model's shape: parameters, bytes, operations, files. No weight is ever made.

shape = model_shape("Llama-3.1-8B")                        or shape_from_config("some/folder/config.json")
method = LoRAConfig(rank=16)                               or FullFineTuning(), HeadOnly(), LastLayers(4)
trained_parameters(shape, method)
training_memory(shape, method, batch=1, tokens=512, precision=TRAIN_FP32, storage=NF4_DOUBLE).total
step_flops(shape, method, batch=1, tokens=512).total
adapter_file_bytes(shape, method)
"""

from peft_lessons.accounting.activations import Activations, Adapters, Attention, activations
from peft_lessons.accounting.config_file import shape_from_config
from peft_lessons.accounting.files import adapter_bytes, adapter_file_bytes, safetensors_bytes, stored_tensors
from peft_lessons.accounting.flops import Flops, flops_break_even_rank, linear_flops, step_flops
from peft_lessons.accounting.measured import TensorMemory
from peft_lessons.accounting.memory import (
    ADAMW,
    SGD,
    SGD_MOMENTUM,
    TRAIN_BF16,
    TRAIN_BF16_FP32_MOMENTS,
    TRAIN_FP32,
    TRAIN_MIXED,
    Memory,
    Optimizer,
    Precision,
    model_states,
    training_memory,
)
from peft_lessons.accounting.modules import Module
from peft_lessons.accounting.plan import (
    FullFineTuning,
    HeadOnly,
    LastLayers,
    Method,
    Plan,
    lay_out,
    parameter_break_even_rank,
    trained_parameters,
)
from peft_lessons.accounting.serving import Serving, cache_bytes, serving_memory
from peft_lessons.accounting.shapes import MODELS, Experts, Latent, ModelShape, decoder_shape, model_shape
from peft_lessons.accounting.storage import BF16, FP32, INT8, NF4, NF4_DOUBLE, STORAGES, Storage, Stored

__all__ = [
    "ADAMW",
    "BF16",
    "FP32",
    "INT8",
    "MODELS",
    "NF4",
    "NF4_DOUBLE",
    "SGD",
    "SGD_MOMENTUM",
    "STORAGES",
    "TRAIN_BF16",
    "TRAIN_BF16_FP32_MOMENTS",
    "TRAIN_FP32",
    "TRAIN_MIXED",
    "Activations",
    "Adapters",
    "Attention",
    "Experts",
    "Flops",
    "FullFineTuning",
    "HeadOnly",
    "LastLayers",
    "Latent",
    "Memory",
    "Method",
    "ModelShape",
    "Module",
    "Optimizer",
    "Plan",
    "Precision",
    "Serving",
    "Storage",
    "Stored",
    "TensorMemory",
    "activations",
    "adapter_bytes",
    "adapter_file_bytes",
    "cache_bytes",
    "decoder_shape",
    "flops_break_even_rank",
    "lay_out",
    "linear_flops",
    "model_shape",
    "model_states",
    "parameter_break_even_rank",
    "safetensors_bytes",
    "serving_memory",
    "shape_from_config",
    "step_flops",
    "stored_tensors",
    "trained_parameters",
    "training_memory",
]
