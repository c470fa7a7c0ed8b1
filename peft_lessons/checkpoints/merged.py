"""A whole model with an adapter merged into it, for programs that know no adapters: as a folder or as one GGUF file."""

from pathlib import Path

from peft_lessons.adapters import merge
from peft_lessons.checkpoints.files import load_adapter, read_adapter
from peft_lessons.files import user_path
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.hub import load_from_hub, save_for_transformers
from peft_lessons.models.llama_gguf import load_gguf, save_gguf
from peft_lessons.models.smollm2 import load_smollm2
from peft_lessons.models.tokenizer import Tokenizer

SMOLLM2 = "SmolLM2-135M-Instruct"


def export_merged_gguf(
    folder: str | Path, file: str | Path, weights: str = "Q8_0", base: str | Path | None = None
) -> Path:
    """Write a whole model, with the adapter in `folder` merged into it, as a GGUF file, whole or not at all.

    Any method goes whose update folds into the weights. `weights` is the format of the matrices: "F32", "F16", "Q8_0",
    "Q4_0" or "Q4_1". Of 4-bit formats take another than the base's own: on its own grid most of an update is rounded
    away. `base` is a Llama's GGUF file or the folder of a Hugging Face model; left out, it is the course's SmolLM2,
    for adapters that name it.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for another format, for an adapter that does not fit or cannot be merged, and for one that names
            another base when none is given.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from peft_lessons import LoRAConfig, export_merged_gguf, inject, save_adapter
        >>> from peft_lessons.models import load_tiny_gpt, save_gguf
        >>> model, tokenizer = load_tiny_gpt()
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder, config = Path(name), LoRAConfig(rank=2)
        ...     base = save_gguf(model, tokenizer, folder / "base.gguf", weights="F32")
        ...     _ = save_adapter(inject(model, config), config, folder / "adapter")
        ...     export_merged_gguf(folder / "adapter", folder / "merged.gguf", base=base).name
        'merged.gguf'
    """
    return save_gguf(*_merged(folder, base), file, weights)


def export_merged_folder(folder: str | Path, out: str | Path, base: str | Path | None = None) -> Path:
    """Write a whole model, with the adapter in `folder` merged into it, into the folder `out`, all of it or nothing.

    transformers reads it as it reads a model of the hub: settings, weights in fp32 as safetensors, tokenizer. vLLM
    takes folders of the same kind; it was not tried.
    `folder` and `base` are those of `export_merged_gguf`.

    Raises:
        FileNotFoundError: for a missing file.
        ValueError: for an adapter that does not fit or cannot be merged, and for one that names another base when none
            is given.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from peft_lessons import LoRAConfig, export_merged_folder, inject, save_adapter
        >>> from peft_lessons.models import load_from_hub, load_tiny_gpt, tiny_gpt
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder, config = Path(name), LoRAConfig(rank=2)
        ...     _ = save_adapter(inject(load_tiny_gpt()[0], config), config, folder / "adapter")
        ...     out = export_merged_folder(folder / "adapter", folder / "model", base=tiny_gpt.FOLDER)
        ...     load_from_hub(out)[0].config.hidden_size
        160
    """
    return save_for_transformers(*_merged(folder, base), user_path(str(out)))


def _merged(folder: str | Path, base: str | Path | None) -> tuple[Decoder, Tokenizer]:
    model, tokenizer = _loaded(folder, base)
    return merge(load_adapter(model, folder)), tokenizer


def _loaded(folder: str | Path, base: str | Path | None) -> tuple[Decoder, Tokenizer]:
    stored = read_adapter(folder)
    if base is not None:
        path = user_path(str(base))
        return load_gguf(path) if path.suffix == ".gguf" else load_from_hub(path)
    named = str(stored.settings.get("base_model_name_or_path"))
    if named.rpartition("/")[2] != SMOLLM2:
        raise ValueError(f"the adapter names {named!r} as its base: say where that is, a GGUF file or a folder")
    return load_smollm2()
