"""The tiny GPT: 1.33 million parameters that write like Jane Austen on a bad day, for experiments that take seconds.

The same decoder as SmolLM2, with a byte-level vocabulary of 1,024, trained by `tools/artifacts/train_tiny_gpt.py` on
five of the six novels. The files beside this one are a checkpoint in Hugging Face's layout; `about.json` says how it
was trained and how well it predicts the sixth novel.
"""

import hashlib
import json
from pathlib import Path

import torch

from peft_lessons.models.decoder import Decoder
from peft_lessons.models.hub import load_from_hub
from peft_lessons.models.tokenizer import Tokenizer

FOLDER = Path(__file__).parent


def load_tiny_gpt(device: str | torch.device = "cpu") -> tuple[Decoder, Tokenizer]:
    """Load the model in fp32 on `device`, in eval mode, and its tokenizer.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one has a wrong checksum; both name the command that mends it.

    Examples:
        >>> from peft_lessons.models import load_tiny_gpt
        >>> model, tokenizer = load_tiny_gpt()
        >>> sum(parameter.numel() for parameter in model.parameters())
        1332640
    """
    for name, expected in json.loads((FOLDER / "about.json").read_text(encoding="utf-8"))["sha256"].items():
        if not (FOLDER / name).is_file():
            raise FileNotFoundError(f"{FOLDER} lacks {name}. Run:\ngit checkout -- peft_lessons/models/tiny_gpt")
        if hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() != expected:
            raise ValueError(f"{FOLDER / name} is damaged. Run:\ngit checkout -- peft_lessons/models/tiny_gpt")
    return load_from_hub(FOLDER, device)
