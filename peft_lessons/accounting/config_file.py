"""A model's shape from its Hugging Face `config.json`, which may be a stranger's file.

Only numbers and switches are read, each checked for its type and range; nothing in the file is imported or run, and a
setting that would change what is counted is refused by name.
"""

import json
from pathlib import Path
from typing import Any

from peft_lessons.accounting.shapes import LAYOUTS, ModelShape

MOST_BYTES = 1 << 20

# Field of ModelShape: the largest value that is taken for honest, far above any model yet published.
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
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
# transformers' defaults for what a file may leave out. Where they differ from one size of a model to the next (the
# key/value heads of Mistral, say), the file has to speak.
TIED = {"llama": False, "mistral": False, "qwen2": False, "gemma2": True, "gpt2": True, "roberta": True}
OWN_HEADS = ("llama",)  # num_key_value_heads is num_attention_heads unless the file says otherwise
REFUSED = ("add_cross_attention", "is_encoder_decoder")  # more weights than are counted here


def shape_from_config(path: str | Path) -> ModelShape:
    """The shape that a `config.json`, or the one in a folder, describes.

    Raises FileNotFoundError; ValueError for a file over 1 MiB, for one that is no JSON object, for an architecture that
    is not counted here, and for a field that is missing, of a wrong type or out of range. The message names it.
    """
    path = Path(path)
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
        return _shape(settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _shape(settings: dict[str, Any]) -> ModelShape:
    model_type = settings.get("model_type")
    if not isinstance(model_type, str) or model_type not in LAYOUTS:
        shown = repr(model_type)[:60]
        raise ValueError(f"model_type {shown} is not one that is counted here; possible: {', '.join(LAYOUTS)}")
    for name in REFUSED:
        if _switch(settings, name, False):
            raise ValueError(f"{name} is true, and the weights that it adds are not counted here")

    def number(field: str, default: int | None = None) -> int:
        name = GPT2_NAMES.get(field, field) if model_type == "gpt2" else field
        value = settings.get(name)
        value = default if value is None else value
        if value is None:
            raise ValueError(f"{name} is missing")
        if type(value) is not int:
            raise ValueError(f"{name} is {str(value)[:60]!r}, not a whole number")
        if not 1 <= value <= LARGEST[field]:
            raise ValueError(f"{name} is {str(value)[:60]}; possible: 1 to {LARGEST[field]:,}")
        return value

    hidden_size, heads = number("hidden_size"), number("num_attention_heads")
    fixed_width = model_type in ("gpt2", "roberta")  # these split hidden_size into heads, whatever the file says
    share = hidden_size // heads if hidden_size % heads == 0 and model_type != "gemma2" else None
    if fixed_width and share is None:
        raise ValueError(f"hidden_size {hidden_size} does not split into {heads} heads")
    groups = heads if fixed_width else number("num_key_value_heads", heads if model_type in OWN_HEADS else None)
    return ModelShape(
        model_type=model_type,
        vocab_size=number("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=number("intermediate_size", 4 * hidden_size if model_type == "gpt2" else None),
        num_hidden_layers=number("num_hidden_layers"),
        num_attention_heads=heads,
        num_key_value_heads=groups,
        head_dim=share if fixed_width and share else number("head_dim", share),
        max_position_embeddings=number("max_position_embeddings", None if fixed_width else 2048),
        type_vocab_size=number("type_vocab_size") if model_type == "roberta" else 1,
        tie_word_embeddings=_switch(settings, "tie_word_embeddings", TIED[model_type]),
        attention_bias=_switch(settings, "attention_bias", False) if model_type in ("llama", "gemma2") else False,
        mlp_bias=_switch(settings, "mlp_bias", False) if model_type == "llama" else False,
    )


def _switch(settings: dict[str, Any], name: str, default: bool) -> bool:
    value = settings.get(name)
    value = default if value is None else value
    if type(value) is not bool:
        raise ValueError(f"{name} is {str(value)[:60]!r}, not true or false")
    return value
