"""Llama-style checkpoints in Hugging Face's layout: from their hub or a folder, and into a folder.

A folder holds `config.json`, weights in safetensors (one file, or several with an index), `tokenizer.json` and, where
the end token is not one that `config.json` names, `tokenizer_config.json`. Pickled weights are never read.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peft_lessons.exact import exact
from peft_lessons.files import write_together
from peft_lessons.models.decoder import Decoder, DecoderConfig
from peft_lessons.models.llama_gguf import check_savable
from peft_lessons.models.tokenizer import Tokenizer

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER, TOKENIZER_SETTINGS = "tokenizer.json", "tokenizer_config.json"
FILES = ["config.json", "*.safetensors", INDEX, TOKENIZER, TOKENIZER_SETTINGS, "chat_template.jinja"]
ARCHITECTURE = "LlamaForCausalLM"

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


@exact()
def load_from_hub(model_id: str | Path, device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model in fp32 on `device`, in eval mode, and its tokenizer.

    `model_id` is a folder, or a name on the hub such as "HuggingFaceTB/SmolLM2-360M-Instruct". What was downloaded once
    is kept in Hugging Face's cache and found there without a network.

    Raises:
        ConnectionError: when the hub cannot be reached.
        FileNotFoundError: when it or the folder lacks the model or a file.
        ValueError: for an architecture that this decoder is not.

    Examples:
        >>> from peft_lessons.models import load_from_hub, tiny_gpt
        >>> model, tokenizer = load_from_hub(tiny_gpt.FOLDER)
        >>> model.config.num_hidden_layers, tokenizer.vocab_size
        (4, 1024)
    """
    folder = Path(model_id) if Path(model_id).is_dir() else _download(str(model_id))
    model = Decoder.from_tensors(read_config(folder), _read_weights(folder))
    return model.to(device), _read_tokenizer(folder)


@exact()
def save_for_transformers(model: Decoder, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Write a model and its tokenizer as transformers reads them, all files or none. Returns the folder.

    Weights keep their dtype; those of quantized layers are dequantized. `AutoModelForCausalLM.from_pretrained(folder)`
    then gives the same logits, and so does `load_from_hub(folder)`.

    Raises:
        TypeError: for a model that is no `Decoder`.
        ValueError: for a model with adapters: merge them first.

    Examples:
        >>> import tempfile
        >>> from peft_lessons.models import load_tiny_gpt, save_for_transformers
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sorted(file.name for file in save_for_transformers(*load_tiny_gpt(), folder).iterdir())
        ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json']
    """
    from safetensors.torch import save_file

    check_savable(model)
    tensors = {
        f"{name}.weight": module.weight.detach().cpu().contiguous()
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor)
    }
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    eos_token = tokenizer.tokenizer.id_to_token(tokenizer.eos_id)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos_token,
        **({"bos_token": tokenizer.bos_token} if tokenizer.bos_token else {}),
        **({"chat_template": tokenizer.chat_template} if tokenizer.chat_template is not None else {}),
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_position_embeddings,
    }
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    described = asdict(model.config) | {
        "architectures": [ARCHITECTURE],
        "model_type": "llama",
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_id,
        "dtype": dtype,
        "torch_dtype": dtype,  # what transformers called it before its version 5
    }
    write_together(
        Path(folder),
        {
            "config.json": lambda file: _write_json(file, described),
            WEIGHTS: lambda file: save_file(tensors, file, metadata={"format": "pt"}),
            TOKENIZER: lambda file: tokenizer.tokenizer.save(str(file)),
            TOKENIZER_SETTINGS: lambda file: _write_json(file, settings),
        },
    )
    return Path(folder)


def read_config(folder: str | Path) -> DecoderConfig:
    """Read the config in a folder.

    Raises:
        ValueError: which lists what it lacks, or says but this decoder has not.
    """
    path = Path(folder) / "config.json"
    settings = _read_json(path)
    if settings.get("architectures") != [ARCHITECTURE]:
        raise ValueError(f"{path} describes {settings.get('architectures')}; supported: {[ARCHITECTURE]}")
    if wrong := [f"{name}={settings.get(name)!r}" for name in SIZES if not _is_count(settings.get(name))]:
        raise ValueError(f"{path} must say whole numbers above 0 for {', '.join(SIZES)}; got {', '.join(wrong)}")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    heads = settings["num_attention_heads"]
    needed: dict[str, tuple[Any, Any]] = {  # name: (what the file says, what this decoder does)
        "hidden_act": (settings.get("hidden_act", "silu"), "silu"),
        "attention_bias": (settings.get("attention_bias", False), False),
        "mlp_bias": (settings.get("mlp_bias", False), False),
        "head_dim": (settings.get("head_dim") or settings["hidden_size"] // heads, settings["hidden_size"] // heads),
        "rope_type": (rope.get("rope_type", rope.get("type", "default")), "default"),
    }
    different = [f"{name} {said!r} (supported: {ours!r})" for name, (said, ours) in needed.items() if said != ours]
    if different:
        raise ValueError(f"{path} uses settings that are not supported: {', '.join(different)}")
    return DecoderConfig(
        vocab_size=settings["vocab_size"],
        hidden_size=settings["hidden_size"],
        intermediate_size=settings["intermediate_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=settings.get("num_key_value_heads") or heads,
        max_position_embeddings=settings.get("max_position_embeddings", 2048),
        rope_theta=rope.get("rope_theta") or settings.get("rope_theta", 10_000.0),
        rms_norm_eps=settings.get("rms_norm_eps", 1e-6),
        tie_word_embeddings=settings.get("tie_word_embeddings", False),
    )


def cached_config(model_id: str) -> str | None:
    """Return where Hugging Face's cache keeps the `config.json` of a model, if it does. Asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(model_id, "config.json")
    except HFValidationError:  # no name of a model
        return None
    return path if isinstance(path, str) else None


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the checkpoint, as fp32."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    names = sorted(set(_read_json(folder / INDEX)["weight_map"].values())) if (folder / INDEX).is_file() else [WEIGHTS]
    tensors: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}; only safetensors are read, never pickled weights")
        try:
            tensors |= {key: tensor.float() for key, tensor in load_file(folder / name).items()}
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged: {error}") from error
    return tensors


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / TOKENIZER_SETTINGS
    settings = _read_json(path) if path.is_file() else {}
    template = folder / "chat_template.jinja"
    return Tokenizer.from_file(
        folder / TOKENIZER,
        eos_token=_token(settings, "eos_token") or _eos_id(folder),
        bos_token=_token(settings, "bos_token"),
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else _chat_template(settings, folder),
    )


def _eos_id(folder: Path) -> int:
    """Return the end token that the model's own settings name, the first where they name several."""
    said = _read_json(folder / "config.json").get("eos_token_id")
    if said is None:
        raise FileNotFoundError(
            f"{folder} names no end token: neither eos_token in tokenizer_config.json nor eos_token_id in config.json"
        )
    first = said[0] if isinstance(said, list) and said else said
    if type(first) is not int:
        raise ValueError(f"{folder / 'config.json'}: eos_token_id must be an id or a list of ids; got {said!r:.60}")
    return first


def _chat_template(settings: dict[str, Any], folder: Path) -> str | None:
    """Return the template for chats. Some files give it as it is, some a list of them, of which one is named "default".

    Raises ValueError for anything else.
    """
    given = settings.get("chat_template")
    if given is None or isinstance(given, str):
        return given
    named = {}
    if isinstance(given, list):
        named = {one.get("name"): one.get("template") for one in given if isinstance(one, dict)}
    if not isinstance(template := named.get("default"), str):
        raise ValueError(
            f"{folder / 'tokenizer_config.json'}: chat_template must be a text, or a list of templates with one named "
            f"'default'; got {given!r:.120}"
        )
    return template


def _token(settings: dict[str, Any], name: str) -> str:
    """Return a special token's text; some files give it as it is, some in an object. Raises ValueError for neither."""
    token = settings.get(name) or ""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise ValueError(
            f"tokenizer_config.json: {name} must be a text, or an object with its content; got {token!r:.80}"
        )
    return text


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} lacks {path.name}: is it a model's folder?")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {content!r:.60}")
    return content


def _download(model_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model_id, allow_patterns=FILES))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise FileNotFoundError(f"{model_id!r} is neither a folder here nor a public model on the hub") from error
    except (LocalEntryNotFoundError, OSError) as error:
        raise ConnectionError(
            f"{model_id!r} is not in the cache and Hugging Face's hub cannot be reached. Offline, there is "
            "load_smollm2(), load_tiny_gpt() and any folder with a checkpoint"
        ) from error
