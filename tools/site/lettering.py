"""A word on the front page as the drawing model writes it before and after it has learnt a typeface."""

import base64
import io

from PIL import Image

from peft_lessons import load_adapter
from peft_lessons.lettering import set_text
from peft_lessons.models import DiffusionTransformer, draw, letter_ids, load_letters
from peft_lessons.tasks import LETTER_ADAPTERS, TRAINED_LETTERS

WORD = "Quickly"  # none of its letters is one that the adapter has learnt from
TYPEFACE = "Courier Prime"
SCALE = 2


def before_and_after() -> str:
    """Return two pictures of `WORD`, and a link to the page where a reader's own hand is learnt, as HTML."""
    base, adapted = load_letters(), load_adapter(load_letters(), LETTER_ADAPTERS[TYPEFACE])
    pictures = [
        _image(base, f"{WORD}, as the model draws it before"),
        '<span aria-hidden="true">→</span>',
        _image(adapted, f"{WORD}, in the typeface that it has learnt"),
    ]
    return (
        f'<p class="peft-lettering">{" ".join(pictures)}</p>\n\n'
        f"One small model drew both. Before the second it has learnt a typeface, from {len(TRAINED_LETTERS)} of its "
        'letters; none of them is in this word. <a href="handwriting.html">Teach it your hand</a>, in your browser.'
    )


def _image(model: DiffusionTransformer, words: str) -> str:
    labels = letter_ids(WORD)
    ink = set_text(draw(model, labels), labels, WORD).clamp(-1, 1) / 2 + 0.5
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
