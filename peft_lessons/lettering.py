"""Letters put together: a text set in them, and a sheet of all of them as a file.

Pictures are (pictures, size, size) from −1, paper, to 1, ink, with labels (pictures,): those of a typeface
(`tasks.letters_of`), of a hand (`classroom.draw_letters`) or of the model that draws (`models.draw`).
"""

import io
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import contourpy
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from peft_lessons.files import write_bytes, write_text
from peft_lessons.models.letters import LETTERS, letter_ids

PAPER = -1.0
INKED = -0.5  # a pixel that is darker counts as ink; the model's paper is not quite white
GAP, BLANK = 2, 9  # pixels between two letters and two words
LEADING = 2  # pixels between two lines

ACROSS = 13  # letters in a row of a sheet
CELL, NAME = 44, 12  # pixels: the side of a letter's place on a sheet, and its name below
ENLARGED = 4  # pixels of a PNG along one of the picture
EDGE = -0.35  # where an outline runs: hairlines, thinner than a pixel, do not reach 0
FINER = 2  # points along a pixel between which an outline is straight


def set_text(pictures: Tensor, labels: Tensor, text: str, *, columns: int = 480) -> Tensor:
    """Set `text` in these letters, side by side by their ink's width, in lines of at most `columns` pixels.

    Returns one grey image (rows, columns) from −1, paper, to 1, ink, as wide as its longest line. A line breaks at a
    blank, or where the text does; a word that is longer than a line breaks within. Of several pictures of a letter one
    is taken after the other, so that a hand may vary.

    Raises:
        ValueError: for a text without letters, with other signs or with letters that have no picture; for too few
            columns.

    Examples:
        >>> from peft_lessons.lettering import set_text
        >>> from peft_lessons.models import LETTERS, letter_ids
        >>> from peft_lessons.tasks import typeface
        >>> pictures, labels = typeface("Lobster"), letter_ids(LETTERS)
        >>> set_text(pictures, labels, "LoRA").shape
        torch.Size([32, 80])
        >>> set_text(pictures, labels, "LoRA draws", columns=100).shape  # in two lines
        torch.Size([66, 90])
    """
    _check(pictures, labels)
    size = pictures.shape[-1]
    if columns < size:
        raise ValueError(f"columns must be at least {size}, the width of a picture; got {columns}")
    wanted = set("".join(text.split()))
    if not wanted:
        raise ValueError(f"there is no letter in the text {text!r}")
    letter_ids(sorted(wanted))
    known = {LETTERS[label] for label in labels.tolist()}
    if missing := sorted(wanted - known, key=LETTERS.index):
        raise ValueError(f"there is no picture of {', '.join(missing)}; there are {', '.join(sorted(known))}")
    glyphs = {letter: cycle(_glyphs(pictures[labels == LETTERS.index(letter)])) for letter in wanted}
    lines: list[Tensor] = []
    for paragraph in text.split("\n"):
        line = pictures.new_empty(size, 0)
        for word in paragraph.split():
            parts = _broken([next(glyphs[letter]) for letter in word], columns)
            fits = line.shape[1] + BLANK + parts[0].shape[1] <= columns
            if line.shape[1] and len(parts) == 1 and fits:
                line = torch.cat((line, _paper(line, BLANK), parts[0]), dim=1)
                continue
            lines += [line] if line.shape[1] else []
            *full, line = parts
            lines += full
        lines.append(line)
    width = max(line.shape[1] for line in lines)
    rows = [F.pad(line, (0, width - line.shape[1], 0, LEADING), value=PAPER) for line in lines]
    return torch.cat(rows)[:-LEADING]


def _check(pictures: Tensor, labels: Tensor) -> None:
    if pictures.ndim != 3 or pictures.shape[1] != pictures.shape[2] or labels.shape != pictures.shape[:1]:
        raise ValueError(
            "pictures must be (pictures, size, size) and labels (pictures,); "
            f"got {tuple(pictures.shape)} and {tuple(labels.shape)}"
        )
    if not len(pictures):
        raise ValueError("there is no picture")
    if not 0 <= labels.min() <= labels.max() < len(LETTERS):
        raise ValueError(
            f"labels go from {labels.min()} to {labels.max()}; those of letters from 0 to {len(LETTERS) - 1}"
        )


def _glyphs(pictures: Tensor) -> list[Tensor]:
    """Each picture, cut to the columns that hold ink; one without ink is a blank."""
    found = []
    for picture in pictures:
        inked = (picture > INKED).any(0).nonzero().flatten().tolist()
        found.append(picture[:, inked[0] : inked[-1] + 1] if inked else _paper(picture, BLANK))
    return found


def _paper(beside: Tensor, width: int) -> Tensor:
    return beside.new_full((len(beside), width), PAPER)


def _broken(glyphs: list[Tensor], columns: int) -> list[Tensor]:
    """A word in one piece, or as many as it takes."""
    pieces = [glyphs[0]]
    for glyph in glyphs[1:]:
        longer = torch.cat((pieces[-1], _paper(glyph, GAP), glyph), dim=1)
        if longer.shape[1] <= columns:
            pieces[-1] = longer
        else:
            pieces.append(glyph)
    return pieces


def save_sheet(path: str | Path, pictures: Tensor, labels: Tensor) -> None:
    """Write letters in a grid, each with its name, to a PNG of their pixels or an SVG of their outlines.

    The ending of `path` says which: .png or .svg. The file is written whole or not at all, over one of that name.

    Raises:
        ValueError: for another ending, or pictures and labels that do not fit each other.
        OSError: where no file can be written.

    Examples:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from peft_lessons.lettering import save_sheet
        >>> from peft_lessons.tasks import letters_of
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_sheet(Path(folder, "lobster.svg"), *letters_of("Lobster").train)
        ...     Path(folder, "lobster.svg").read_text(encoding="utf-8")[:4]
        '<svg'
    """
    path = Path(path)
    _check(pictures, labels)
    pictures = pictures.detach().float().cpu()
    letters = [LETTERS[label] for label in labels.tolist()]
    if path.suffix.lower() == ".png":
        write_bytes(path, _png(pictures, letters))
    elif path.suffix.lower() == ".svg":
        write_text(path, _svg(pictures, letters))
    else:
        raise ValueError(f"a sheet is written as .png or .svg; got {path.name!r}")


def _places(count: int, size: int) -> Iterator[tuple[int, int]]:
    """Left and top of each picture, in pixels, in the middle of its place."""
    for at in range(count):
        row, column = divmod(at, ACROSS)
        yield column * CELL + (CELL - size) // 2, row * (CELL + NAME) + (CELL - size) // 2


def _extent(count: int) -> tuple[int, int]:
    """Width and height of a sheet, in pixels."""
    return min(count, ACROSS) * CELL, -(-count // ACROSS) * (CELL + NAME)


def _png(pictures: Tensor, letters: list[str]) -> bytes:
    width, height = _extent(len(letters))
    sheet = Image.new("L", (width * ENLARGED, height * ENLARGED), 255)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=0.8 * NAME * ENLARGED)
    size = pictures.shape[-1]
    greys = (127.5 * (1 - pictures.clamp(-1, 1))).round().byte()
    for grey, letter, (left, top) in zip(greys, letters, _places(len(letters), size), strict=True):
        image = Image.fromarray(grey.numpy()).resize((size * ENLARGED, size * ENLARGED), Image.Resampling.NEAREST)
        sheet.paste(image, (left * ENLARGED, top * ENLARGED))
        below = (left + size / 2) * ENLARGED, (top + (CELL + size) / 2 + 0.8 * NAME) * ENLARGED
        pen.text(below, letter, fill=96, font=font, anchor="ms")
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _svg(pictures: Tensor, letters: list[str]) -> str:
    width, height = _extent(len(letters))
    size = pictures.shape[-1]
    parts = []
    for picture, letter, (left, top) in zip(pictures, letters, _places(len(letters), size), strict=True):
        parts.append(f'<path transform="translate({left} {top})" d="{_outline(picture)}"/>')
        x, y = left + size / 2, top + (CELL + size) / 2 + 0.8 * NAME
        parts.append(f'<text x="{x:g}" y="{y:g}">{letter}</text>')
    style = f"path{{fill-rule:evenodd}}text{{fill:#606060;font:{0.8 * NAME:g}px sans-serif;text-anchor:middle}}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width * ENLARGED}" height="{height * ENLARGED}">'
    )
    return "\n".join(
        [head, f'<style>{style}</style><rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>\n"]
    )


def _outline(picture: Tensor) -> str:
    """The line around the ink as an SVG path, closed; ink that reaches the border ends there."""
    around = F.pad(picture, (1, 1, 1, 1), value=PAPER)
    finer = F.interpolate(around[None, None], scale_factor=FINER, mode="bicubic")[0, 0]
    loops = contourpy.contour_generator(z=finer.numpy()).lines(EDGE)
    places = (((np.asarray(loop)[:-1] + 0.5) / FINER - 1).tolist() for loop in loops)  # it counts from pixels' middles
    return "".join("M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in loop) + "Z" for loop in places)
