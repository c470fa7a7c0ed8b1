"""A word on the front page as the drawing model writes it before and after it has learnt a handwriting."""

import base64
import io

import torch
from PIL import Image
from torch import Tensor

from peft_lessons import load_adapter
from peft_lessons.models import DiffusionTransformer, draw, letter_ids, load_letters
from peft_lessons.tasks import LETTER_ADAPTERS, TRAINED_LETTERS

WORD = "Quickly"  # none of its letters is one that the adapter has learnt from
TYPEFACE = "dkg"
GAP = 3  # pixels between letters
FAINT = 0.25  # what is fainter is no ink
SCALE = 2


def before_and_after() -> str:
    """Return two pictures of `WORD`, and a link to the page where a reader's own hand is learnt, as HTML."""
    base, adapted = load_letters(), load_adapter(load_letters(), LETTER_ADAPTERS[TYPEFACE])
    pictures = [
        _image(base, f"{WORD}, as the model draws it before"),
        '<span aria-hidden="true">→</span>',
        _image(adapted, f"{WORD}, in the handwriting that it has learnt"),
    ]
    return (
        f'<p class="peft-lettering">{" ".join(pictures)}</p>\n\n'
        f"One small model drew both. Before the second it has learnt a handwriting, from {len(TRAINED_LETTERS)} of its "
        'letters; none of them is in this word. <a href="handwriting.html">Teach it yours</a>, in your browser.'
    )


def _image(model: DiffusionTransformer, words: str) -> str:
    ink = word((draw(model, letter_ids(WORD)) / 2 + 0.5).clamp(0, 1))
    grey = Image.fromarray((255 * ink).byte().numpy())
    picture = Image.new("LA", grey.size)
    picture.putalpha(grey)  # black on nothing
    content = io.BytesIO()
    picture.save(content, "PNG")
    encoded = base64.b64encode(content.getvalue()).decode()
    width, height = (SCALE * side for side in picture.size)
    # the theme puts no white behind a picture of this class
    size = f'width="{width}" height="{height}"'
    return f'<img class="dark-light" alt="{words}" {size} src="data:image/png;base64,{encoded}">'


def word(letters: Tensor) -> Tensor:
    """Set letters (letters, size, size) side by side, each as wide as its ink: (size, width), from 0, paper, to 1, ink.

    Examples:
        >>> import torch
        >>> from tools.site.lettering import word
        >>> letters = torch.zeros(2, 8, 8)
        >>> letters[:, 2:6, 3:5] = 1  # two bars, two pixels wide
        >>> word(letters).shape  # both bars, and a gap of three behind each
        torch.Size([8, 10])
    """
    parts = []
    for letter in letters:
        columns = (letter.amax(0) > FAINT).nonzero().flatten().tolist() or [0]
        parts += [letter[:, columns[0] : columns[-1] + 1], letter.new_zeros(len(letter), GAP)]
    return torch.cat(parts, dim=1)
