"""Bytes of an adapter's file: safetensors with peft's names, as `save_adapter` writes it."""

import json
from math import prod

from peft_lessons.accounting.modules import Shapes, size
from peft_lessons.accounting.plan import Method, Plan, lay_out
from peft_lessons.accounting.shapes import ModelShape
from peft_lessons.adapters import AdapterConfig
from peft_lessons.checkpoints.peft_names import layout_of


def stored_tensors(shape: ModelShape, method: Method) -> dict[str, tuple[int, ...]]:
    """List what the file holds, in fp32: name → shape. Without an adapter, the model's own tensors that train.

    Two shapes are written in another way than here: IA³'s vectors as a row or a column, a prefix as one row a token.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import model_shape, stored_tensors
        >>> list(stored_tensors(model_shape("Llama-3.1-8B"), LoRAConfig(rank=8, targets=("q_proj",))).items())[0]
        ('base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight', (8, 4096))
    """
    plan = lay_out(shape, method)
    return _peft_names(plan, method) if isinstance(method, AdapterConfig) else plan.all_trained


def adapter_bytes(shape: ModelShape, method: Method) -> int:
    """Bytes of the numbers alone: 4 for each.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import adapter_bytes, model_shape
        >>> adapter_bytes(model_shape("Llama-3.1-8B"), LoRAConfig(rank=8, targets=("q_proj", "v_proj")))
        13631488
    """
    return 4 * size(stored_tensors(shape, method))


def adapter_file_bytes(shape: ModelShape, method: Method) -> int:
    """Bytes of the whole file, with the header that names each tensor.

    Examples:
        >>> from peft_lessons import LoRAConfig
        >>> from peft_lessons.accounting import adapter_file_bytes, model_shape
        >>> adapter_file_bytes(model_shape("Llama-3.1-8B"), LoRAConfig(rank=8, targets=("q_proj", "v_proj")))
        13648432
    """
    return safetensors_bytes(stored_tensors(shape, method))


def safetensors_bytes(tensors: Shapes) -> int:
    """Bytes of a safetensors file that holds fp32 tensors of these shapes.

    8 bytes of length, a header of JSON that is padded to a multiple of 8, the numbers.

    Examples:
        >>> from peft_lessons.accounting import safetensors_bytes
        >>> safetensors_bytes({"lora_A": (8, 64)})
        2152
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in sorted(tensors.items()):
        start, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def _peft_names(plan: Plan, config: AdapterConfig) -> dict[str, tuple[int, ...]]:
    layout = layout_of(config)
    places = [
        (module, tensor, shape)
        for module, adapter in plan.modules.items()
        for tensor, shape in {**adapter.trained, **adapter.frozen}.items()
    ]
    places += [(*_split(name), shape) for name, shape in {**plan.trained, **plan.frozen}.items()]
    return {layout.name(module, tensor): shape for module, tensor, shape in places if tensor in layout.tensors}


def _split(name: str) -> tuple[str, str]:
    module, _, tensor = name.rpartition(".")
    return module, tensor
