"""A small network that reads drawn letters: which letter it is, and whose style.

The eye is easily pleased, so drawings are judged by a reader that has no part in them. It has learnt from the same 900
typefaces as the drawing model, by another task: to name the letter, and to tell the typefaces apart. What it compares
styles by, 64 numbers a picture, serves for typefaces that it has not seen, too. Trained by
`tools/artifacts/train_letter_reader.py`; `about.json` says how well it reads typefaces that it has not learnt from.
"""

import hashlib
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor, nn

from peft_lessons.exact import exact
from peft_lessons.models.letters import LETTERS

FOLDER = Path(__file__).parent
STYLE = 64  # numbers


class LetterReader(nn.Module):
    """Three convolutions over pictures of 32 × 32 pixels, from −1, paper, to 1, ink.

    Examples:
        >>> import torch
        >>> from peft_lessons.models.letter_reader import LetterReader
        >>> letters, styles = LetterReader()(torch.randn(3, 32, 32))
        >>> letters.shape, styles.shape
        (torch.Size([3, 52]), torch.Size([3, 64]))
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=3, padding=1) for before, after in pairwise(widths)
        )
        self.letter = nn.Linear(64 * 4 * 4, len(LETTERS))
        self.style = nn.Linear(64 * 4 * 4, STYLE)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures (batch, 32, 32) → logits of the letters (batch, 52), and styles of length 1 (batch, 64)."""
        x = pictures.unsqueeze(1)
        for convolution in self.convolutions:
            x = F.max_pool2d(F.relu(convolution(x)), 2)
        features = x.flatten(1)
        return self.letter(features), F.normalize(self.style(features), dim=-1)

    @torch.no_grad()
    def read(self, pictures: Tensor) -> Tensor:
        """The most likely letter of each picture: (batch, 32, 32) → int64 labels (batch,)."""
        return self(pictures)[0].argmax(-1)

    @torch.no_grad()
    def recognize(self, pictures: Tensor, typefaces: Mapping[str, Tensor]) -> list[str]:
        """Whose style each picture has, of `typefaces`, pictures (letters, 32, 32) by name.

        That is the typeface whose letters have, in the mean, the nearest style.
        """
        means = torch.stack([F.normalize(self(letters)[1].mean(0), dim=-1) for letters in typefaces.values()])
        names = list(typefaces)
        return [names[place] for place in (self(pictures)[1] @ means.T).argmax(-1).tolist()]


@exact()
def load_letter_reader() -> LetterReader:
    """Load the trained reader, in eval mode.

    Raises:
        FileNotFoundError: when its file is missing.
        ValueError: when it has a wrong checksum; both name the command that mends it.

    Examples:
        >>> from peft_lessons.models.letter_reader import load_letter_reader
        >>> from peft_lessons.models.letters import letter_ids
        >>> from peft_lessons.tasks import typeface
        >>> letters = letter_ids("HLO")
        >>> bool((load_letter_reader().read(typeface("Courier Prime")[letters]) == letters).all())
        True
    """
    path = FOLDER / "model.safetensors"
    mend = "Run:\ngit checkout -- peft_lessons/models/letter_reader"
    if not path.is_file():
        raise FileNotFoundError(f"{FOLDER} lacks {path.name}. {mend}")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != json.loads((FOLDER / "about.json").read_text(encoding="utf-8"))["sha256"]:
        raise ValueError(f"{path} is damaged. {mend}")
    reader = LetterReader()
    reader.load_state_dict({name: tensor.float() for name, tensor in load(content).items()})
    return reader.eval()
