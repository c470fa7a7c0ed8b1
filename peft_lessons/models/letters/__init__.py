"""A model that draws the 52 letters in 900 typefaces: a diffusion transformer small enough to train adapters on
in seconds.

Trained by `tools/artifacts/train_letters.py` on typefaces that `tools/artifacts/make_letters.py` renders. The files
beside this one are its weights in bf16, its shape, how it was trained (`about.json`) and which typefaces it has seen,
with their licences (`typefaces.json`). Those of `peft_lessons.data.typefaces` it has not.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase

import torch
from safetensors.torch import load
from torch import Tensor

from peft_lessons.exact import exact
from peft_lessons.models.diffusion import DiffusionConfig, DiffusionTransformer

FOLDER = Path(__file__).parent
LETTERS = ascii_uppercase + ascii_lowercase  # a letter's place is its label


@exact()
def load_letters(device: str | torch.device = "cpu") -> DiffusionTransformer:
    """Load the model in fp32 on `device`, in eval mode.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when one has a wrong checksum; both name the command that mends it.

    Examples:
        >>> from peft_lessons.models import draw, letter_ids, load_letters
        >>> model = load_letters()
        >>> draw(model, letter_ids("Ag"), steps=4).shape
        torch.Size([2, 32, 32])
    """
    mend = "Run:\ngit checkout -- peft_lessons/models/letters"
    contents = {}
    for name, expected in json.loads((FOLDER / "about.json").read_text(encoding="utf-8"))["sha256"].items():
        if not (FOLDER / name).is_file():
            raise FileNotFoundError(f"{FOLDER} lacks {name}. {mend}")
        contents[name] = (FOLDER / name).read_bytes()
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise ValueError(f"{FOLDER / name} is damaged. {mend}")
    config = DiffusionConfig(**json.loads(contents["config.json"]))
    tensors = {name: tensor.float() for name, tensor in load(contents["model.safetensors"]).items()}
    return DiffusionTransformer.from_tensors(config, tensors).to(device)


def letter_ids(text: Iterable[str]) -> Tensor:
    """The labels of the letters in `text`, A–Z and a–z: int64 (letters,).

    Raises:
        ValueError: for anything else.

    Examples:
        >>> from peft_lessons.models import letter_ids
        >>> letter_ids("ABab").tolist()
        [0, 1, 26, 27]
    """
    letters = list(text)
    if unknown := sorted({letter for letter in letters if len(letter) != 1 or letter not in LETTERS}):
        raise ValueError(f"only the letters A–Z and a–z can be drawn, not {', '.join(map(repr, unknown))}")
    return torch.tensor([LETTERS.index(letter) for letter in letters], dtype=torch.long)
