"""A model's shape from its Hugging Face `config.json`, which may be a stranger's file.

Only numbers and switches are read, each checked for its type and range; nothing in the file is imported or run, and a
setting that would change what is counted is refused by name. Of a model that also sees or hears, the text model counts.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_lessons.accounting.architectures import LAYOUTS, Architecture, Llama
from peft_lessons.accounting.shapes import Experts, Latent, ModelShape
from peft_lessons.accounting.storage import stored_as
from peft_lessons.files import user_path

MOST_BYTES = 1 << 20

# Field: the largest value that is taken for honest, far above any model yet published.
LARGEST = {
    "vocab_size": 10_000_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 10_000,
    "max_position_embeddings": 1_000_000_000,
    "type_vocab_size": 1_000,
}
LARGEST_OF_OTHERS = 1_000_000
# By model_type: what the file calls a field, where that is not the field's own name.
NAMES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    "llama4_text": {"intermediate_size": "intermediate_size_mlp"},
    "qwen2_moe": {"attention_bias": "qkv_bias"},
}
OWN_HEADS = ("llama", "olmo2", "phi3")  # num_key_value_heads is num_attention_heads unless the file says otherwise
OWN_WIDTHS = ("gemma", "gemma2", "gemma3_text")  # head_dim is none of hidden_size / num_attention_heads
MLP_BIAS = ("llama", "smollm3")  # that have a switch for it
REFUSED = ("add_cross_attention", "is_encoder_decoder")  # more weights than are counted here


@dataclass(frozen=True)
class Settings:
    """What a file says, read with checks; a null is as good as nothing."""

    content: dict[str, Any]
    model_type: str
    architecture: Architecture

    def number(self, field: str, default: int | None = None, least: int = 1) -> int:
        name = self._name(field)
        value = self._value(field, default)
        if value is None:
            raise ValueError(f"{name} is missing")
        if type(value) is not int:
            raise ValueError(f"{name} is {str(value)[:60]!r}, not a whole number")
        most = LARGEST.get(field, LARGEST_OF_OTHERS)
        if not least <= value <= most:
            raise ValueError(f"{name} is {str(value)[:60]}; possible: {least} to {most:,}")
        return value

    def switch(self, field: str, default: bool = False) -> bool:
        value = self._value(field, default)
        if type(value) is not bool:
            raise ValueError(f"{self._name(field)} is {str(value)[:60]!r}, not true or false")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """Return a list of whole numbers, none if it is not there."""
        value = self.content.get(name)
        if value is not None and not (type(value) is list and all(type(one) is int for one in value)):
            raise ValueError(f"{name} is {str(value)[:60]!r}, not a list of whole numbers")
        return value

    def _name(self, field: str) -> str:
        return NAMES.get(self.model_type, {}).get(field, field)

    def _value(self, field: str, default: int | bool | None) -> Any:
        value = self.content.get(self._name(field))
        return self.architecture.defaults.get(field, default) if value is None else value


def shape_from_config(path: str | Path) -> ModelShape:
    """Return the shape that a `config.json`, or the one in a folder, describes; `~` is the user's home.

    Warns about parts of the model that are not counted: what makes a text model see or hear.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for a file over 1 MiB, for one that is no JSON object, for an architecture or a quantized
            checkpoint that is not counted here, and for a field that is missing, of a wrong type or out of range,
            which the message names.

    Examples:
        >>> from peft_lessons.accounting import shape_from_config
        >>> from peft_lessons.models import tiny_gpt
        >>> shape_from_config(tiny_gpt.FOLDER).parameters
        1332640
    """
    path = user_path(str(path))
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file: name a model's config.json or its folder")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES:,} bytes: no model's config is")
    try:
        settings = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds a {type(settings).__name__}; a config is an object such as {{…}}")
    try:
        if isinstance(text := settings.get("text_config"), dict):
            shape = _shape({"tie_word_embeddings": settings.get("tie_word_embeddings"), **_quantized(settings), **text})
            warnings.warn(f"{path}: only the text model is counted, which is a part of this one", stacklevel=2)
            return shape
        return _shape(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _quantized(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in ("quantization_config",) if name in settings}


def _shape(content: dict[str, Any]) -> ModelShape:
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        shown = repr(model_type)[:60]
        raise ValueError(f"model_type {shown} is not one that is counted here; possible: {', '.join(LAYOUTS)}")
    settings = Settings(content, model_type, LAYOUTS[model_type])
    for name in REFUSED:
        if settings.switch(name):
            raise ValueError(f"{name} is true, and the weights that it adds are not counted here")

    hidden_size, heads = settings.number("hidden_size"), settings.number("num_attention_heads")
    layers = settings.number("num_hidden_layers")
    fixed_width = not isinstance(settings.architecture, Llama)  # splits hidden_size into heads, whatever the file says
    share = hidden_size // heads if hidden_size % heads == 0 and model_type not in OWN_WIDTHS else None
    if fixed_width and share is None:
        raise ValueError(f"hidden_size {hidden_size} does not split into {heads} heads")
    latent, head_dim = _latent(settings) if model_type in LATENT else (None, None)
    if fixed_width or latent:
        groups = heads
    else:
        groups = settings.number("num_key_value_heads", heads if model_type in OWN_HEADS else None)
    quantization = content.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise ValueError(f"quantization_config is {str(quantization)[:60]!r}, not an object")
    return ModelShape(
        model_type=model_type,
        vocab_size=settings.number("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=settings.number("intermediate_size", 4 * hidden_size if model_type == "gpt2" else None),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=head_dim or (share if fixed_width and share else settings.number("head_dim", share)),
        max_position_embeddings=settings.number("max_position_embeddings"),
        type_vocab_size=settings.number("type_vocab_size") if model_type in ("bert", "roberta") else 1,
        tie_word_embeddings=settings.switch("tie_word_embeddings"),
        attention_bias=settings.switch("attention_bias") if isinstance(settings.architecture, Llama) else False,
        mlp_bias=settings.switch("mlp_bias") if model_type in MLP_BIAS else False,
        experts=EXPERTS[model_type](settings, layers) if model_type in EXPERTS else None,
        latent=latent,
        stored=None if quantization is None else stored_as(quantization),
    )


# ---------------------------------------------------------------------------------------- what only some models have

LATENT = ("deepseek_v3",)


def _latent(settings: Settings) -> tuple[Latent, int]:
    """Return the widths of latent attention, and that of a head's queries and keys."""
    rotary = settings.number("qk_rope_head_dim")
    latent = Latent(
        query_rank=None if settings.content.get("q_lora_rank") is None else settings.number("q_lora_rank"),
        key_value_rank=settings.number("kv_lora_rank"),
        rotary_dim=rotary,
        value_dim=settings.number("v_head_dim"),
    )
    return latent, rotary + settings.number("qk_nope_head_dim")


def _mixtral(settings: Settings, layers: int) -> Experts:
    return Experts(
        count=settings.number("num_local_experts"),
        per_token=settings.number("num_experts_per_tok"),
        intermediate_size=settings.number("intermediate_size"),
        layers=frozenset(range(layers)),
    )


def _qwen(settings: Settings, layers: int) -> Experts:
    step, dense = settings.number("decoder_sparse_step", 1), set(settings.numbers("mlp_only_layers") or ())
    count = "num_experts" if settings.content.get("num_experts") is not None else "num_local_experts"
    shared = settings.model_type == "qwen2_moe"
    return Experts(
        count=settings.number(count),
        per_token=settings.number("num_experts_per_tok"),
        intermediate_size=settings.number("moe_intermediate_size"),
        layers=frozenset(i for i in range(layers) if i not in dense and (i + 1) % step == 0),
        shared_size=settings.number("shared_expert_intermediate_size") if shared else 0,
    )


def _deepseek(settings: Settings, layers: int) -> Experts:
    count = "n_routed_experts" if settings.content.get("n_routed_experts") is not None else "num_local_experts"
    size = settings.number("moe_intermediate_size")
    return Experts(
        count=settings.number(count),
        per_token=settings.number("num_experts_per_tok"),
        intermediate_size=size,
        layers=frozenset(range(settings.number("first_k_dense_replace", least=0), layers)),
        shared_size=size * settings.number("n_shared_experts", 1),
    )


def _llama4(settings: Settings, layers: int) -> Experts:
    step, listed = settings.number("interleave_moe_layer_step", 1), settings.numbers("moe_layers")
    size = Settings(settings.content, "", settings.architecture).number("intermediate_size")
    return Experts(
        count=settings.number("num_local_experts"),
        per_token=settings.number("num_experts_per_tok"),
        intermediate_size=size,
        layers=frozenset(range(step - 1, layers, step) if listed is None else listed),
        shared_size=size,
    )


EXPERTS: dict[str, Callable[[Settings, int], Experts]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen,
    "qwen3_moe": _qwen,
    "deepseek_v3": _deepseek,
    "llama4_text": _llama4,
}
