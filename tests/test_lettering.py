"""A text set in letters, and sheets of them as files."""

import doctest
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from peft_lessons import lettering
from peft_lessons.lettering import BLANK, GAP, LEADING, save_sheet, set_text
from peft_lessons.models.letters import LETTERS, letter_ids
from peft_lessons.tasks import typeface

SIZE = 32


def bar(left, width, ink=1.0):
    """A picture with an upright bar."""
    picture = torch.full((SIZE, SIZE), -1.0)
    picture[4:23, left : left + width] = ink
    return picture


BARS = torch.stack([bar(3, 4), bar(20, 6), bar(10, 5), bar(0, 32)]), letter_ids("ABAm")


def widths(image):
    """The widths of paper and ink along a line, in turn."""
    inked = torch.cat((torch.tensor([False]), (image > -0.5).any(0), torch.tensor([False])))
    return inked.int().diff().nonzero().flatten().diff().tolist()


def test_the_examples_run():
    tried = doctest.testmod(lettering)
    assert tried.attempted > 8 and not tried.failed


def test_letters_stand_side_by_side_by_their_ink():
    image = set_text(*BARS, "AB A")
    assert image.shape == (SIZE, 4 + GAP + 6 + BLANK + 5), "the second A is the other picture of it"
    assert widths(image) == [4, GAP, 6, BLANK, 5]
    assert widths(set_text(*BARS, "  AAA \t B ")) == [4, GAP, 5, GAP, 4, BLANK, 6]
    assert torch.equal(image[:, :4], BARS[0][0, :, 3:7]), "no pixel of a letter changes"


def test_what_is_faint_is_paper_for_the_width_alone():
    """The model's paper is not quite white."""
    pictures, labels = torch.stack([bar(3, 4), bar(8, 4)]).clamp(min=-0.9), letter_ids("AB")
    image = set_text(pictures, labels, "AB")
    assert widths(image) == [4, GAP, 4] and image[0, 0] == pictures[0, 0, 0]


def test_a_letter_without_ink_is_a_gap():
    pictures = torch.stack([bar(3, 4), torch.full((SIZE, SIZE), -1.0)])
    assert widths(set_text(pictures, letter_ids("AB"), "ABA")) == [4, GAP + BLANK + GAP, 4]


def test_lines_break_between_words_and_where_the_text_does():
    two = 4 + GAP + 5  # AA
    line = two + BLANK + two
    assert set_text(*BARS, "AA AA", columns=line + 10).shape == (SIZE, line)
    assert set_text(*BARS, "AA AA AA", columns=line + 10).shape == (2 * SIZE + LEADING, line)
    assert set_text(*BARS, "AA\nAA").shape == (2 * SIZE + LEADING, two)
    image = set_text(*BARS, "AA\n\nB")
    assert image.shape == (3 * SIZE + 2 * LEADING, two)
    assert widths(image[:SIZE]) == [4, GAP, 5] and widths(image[SIZE : 2 * SIZE + LEADING]) == []
    assert widths(image[-SIZE:]) == [6]
    assert set_text(*BARS, "AA BA", columns=32).shape == (SIZE, 32), "it just fits"
    assert set_text(*BARS, "AA BAA", columns=38).shape == (2 * SIZE + LEADING, 19), "it lacks one pixel"


@pytest.mark.parametrize("columns", [40, 41, 42, 43, 44, 45, 60, 77])
def test_no_line_is_longer_than_asked_and_no_letter_is_lost(columns):
    text = "Am A mm AAAAAAAAAAAAAAAA B m"
    image = set_text(*BARS, text, columns=columns)
    assert image.shape[1] <= columns
    drawn = [len(widths(line[:SIZE])) // 2 + bool(len(widths(line[:SIZE]))) for line in image.split(SIZE + LEADING)]
    assert sum(drawn) == len(text.replace(" ", ""))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "A, B"}, "only the letters A–Z and a–z can be drawn, not ','"),
        ({"text": "AxBC"}, "there is no picture of C, x; there are A, B, m"),
        ({"text": " \n"}, r"there is no letter in the text ' \\n'"),
        ({"columns": 31}, "columns must be at least 32, the width of a picture; got 31"),
        ({"pictures": BARS[0][:2]}, r"got \(2, 32, 32\) and \(4,\)"),
        ({"pictures": BARS[0][:, :30]}, r"pictures must be \(pictures, size, size\)"),
        ({"pictures": BARS[0][:0], "labels": BARS[1][:0]}, "there is no picture"),
        ({"labels": torch.tensor([0, 1, 2, 52])}, "labels go from 0 to 52; those of letters from 0 to 51"),
    ],
)
def test_what_cannot_be_set_is_told(change, words):
    with pytest.raises(ValueError, match=words):
        set_text(**({"pictures": BARS[0], "labels": BARS[1], "text": "AB"} | change))


# Sheets


def test_a_png_holds_each_letter_in_its_place(tmp_path):
    pictures, labels = typeface("Lobster"), letter_ids(LETTERS)
    save_sheet(tmp_path / "a.PNG", pictures, labels)
    with Image.open(tmp_path / "a.PNG") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (13 * 44 * 4, 4 * 56 * 4))
        sheet = torch.from_numpy(np.array(image)).float()
    for at, picture in enumerate(pictures):
        row, column = divmod(at, 13)
        place = sheet[row * 224 + 24 : row * 224 + 152, column * 176 + 24 : column * 176 + 152]
        assert torch.allclose(place, (127.5 * (1 - picture)).repeat_interleave(4, 0).repeat_interleave(4, 1), atol=0.51)
        name = sheet[row * 224 + 164 : row * 224 + 224, column * 176 : column * 176 + 176]
        assert name.min() < 128, "its name stands below"


def discs():
    """A disc, and a ring: how much of each pixel is ink, by 16 × 16 samples; and their areas."""
    at = (torch.arange(SIZE * 16) + 0.5) / 16 - SIZE / 2
    distance = torch.hypot(at[:, None], at)
    found = []
    for inner in (0, 5):
        ink = ((distance <= 10) & (distance >= inner)).float()
        found.append(2 * ink.unflatten(0, (SIZE, 16)).unflatten(2, (SIZE, 16)).mean((1, 3)) - 1)
    return torch.stack(found)


def loops(path):
    for loop in path.split("Z")[:-1]:
        yield np.array([[float(x) for x in point.split()] for point in loop.removeprefix("M").split("L")])


def test_an_svg_has_outlines_that_run_around_the_ink_and_names_as_text(tmp_path):
    save_sheet(str(tmp_path / "a.svg"), discs(), letter_ids("oO"))
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.attrib["viewBox"] == "0 0 88 56"
    assert [part.text for part in root.findall(".//{*}text")] == ["o", "O"]
    paths = [part.attrib for part in root.findall(".//{*}path")]
    assert [path["transform"] for path in paths] == ["translate(6 6)", "translate(50 6)"]
    radii = [[np.hypot(*(loop - SIZE / 2).T) for loop in loops(path["d"])] for path in paths]
    # A pixel on the border is grey, so an outline at −0.35 rather than 0 lies 0.35 / 2 of a pixel outside of the ink.
    expected = [[10.17], [10.17, 4.83]]
    for found, wanted in zip(radii, expected, strict=True):
        assert sorted((loop.mean() for loop in found), reverse=True) == pytest.approx(wanted, abs=0.08)
        assert all(np.ptp(loop) < 0.3 for loop in found), "round"
    assert "evenodd" in root.find(".//{*}style").text, "a ring is hollow"


def test_outlines_are_closed_also_at_the_border(tmp_path):
    save_sheet(tmp_path / "a.svg", torch.ones(1, SIZE, SIZE), letter_ids("A"))
    (path,) = re.findall(r' d="([^"]*)"', (tmp_path / "a.svg").read_text(encoding="utf-8"))
    (square,) = loops(path)
    assert path.endswith("Z") and square.min() >= -0.5 and square.max() <= SIZE + 0.5


@pytest.mark.parametrize("name", ["a.pdf", "a", "a.png.txt"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"a sheet is written as .png or .svg; got '{name}'"):
        save_sheet(tmp_path / name, *BARS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_sheet_is_written_whole_or_not_at_all(tmp_path, monkeypatch, ending):
    path = tmp_path / f"sheet.{ending}"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(ValueError, match="labels"):
        save_sheet(path, BARS[0], BARS[1][:1])
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save_sheet(path, *BARS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text(encoding="utf-8") == "before"


def test_what_a_model_draws_can_be_saved(tmp_path):
    """Beyond −1 and 1, with gradients, in bf16."""
    drawn = (3 * torch.randn(4, SIZE, SIZE)).bfloat16().requires_grad_()
    for name in ("a.png", "a.svg"):
        save_sheet(tmp_path / name, drawn, BARS[1])
        assert (tmp_path / name).stat().st_size > 1000
