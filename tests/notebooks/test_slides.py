"""Lessons as slides: the rule that places each cell, on cells in a few words and on the course's own lessons."""

import jupytext
import jupytext.config
import nbformat
import pytest

from peft_lessons.jupyter import slides
from tools.lessons import notebooks

PARAGRAPH = "A sentence of some length, which fills a good part of one line on the screen, and no more than that."


def types(*cells):
    return slides.slide_types(cells)


def test_headings_begin_slides(make):
    cells = map(
        make.prose, ("# 03 · Title", "## Section", "### Part", "Text.", "## Sources\n\nA book.", "## Next step")
    )
    assert types(*cells) == ["slide", "slide", "subslide", None, "skip", "slide"]


def test_code_that_shows_nothing_is_skipped(make):
    helper = make.code("import torch\n\ndef double(x):\n    return 2 * x")
    assert types(make.prose("## Section"), helper, make.code("print(double(1))")) == ["slide", "skip", None]
    assert types(make.code("new_figure()")) == ["skip"], "only figure( draws"
    assert types(make.code("store.check_in(task)")) == ["skip"]


@pytest.mark.parametrize("call", ["sweep(f)", "live_figure(f)", "figure(fig)", "quiz('03-a')", "show(f)", "compare(f)"])
def test_what_is_large_leaves_room_for_little_else(make, call):
    long = make.prose("\n\n".join([PARAGRAPH] * 12))
    assert types(make.prose("## Section"), long, make.code(call)) == ["slide", "subslide", "subslide"]
    drawing = make.code("\n".join(["x = 1"] * 80 + [call]))
    assert slides.lines(drawing) == slides.lines(make.code(call)), "its code is folded, however long"


def test_a_screen_is_filled_from_top_to_bottom(make):
    claim = make.code('claim("One is one", 1, equals=1)')
    short = make.prose("Short.")
    assert types(make.prose("## Section"), claim, short, claim, short) == ["slide", None, None, None, None]
    many = [make.prose("## Section"), *[make.prose(PARAGRAPH)] * 20]
    found = types(*many)
    assert found[0] == "slide" and found[1:].count("subslide") == 1
    first = found.index("subslide")
    assert sum(map(slides.lines, many[:first])) <= slides.SCREEN < sum(map(slides.lines, many[: first + 1]))


def test_an_exercise_stays_together(make):
    task = make.code('task = exercise("03-a")\ntask')
    starter = make.code("\n".join(["def f(x):", *["    x = x"] * 30, "    return ..."]), tags=["exercise"])
    check = make.code("task.check(f)")
    assert types(make.prose("## Section"), task, starter, check) == ["slide", None, None, None]
    assert slides.folded(task) and not slides.folded(starter) and slides.folded(check)


def test_paragraphs_are_counted_as_they_are_shown(make):
    one = make.prose(PARAGRAPH.replace(", ", ",\n"))
    items = make.prose("- one\n- two\n- three")
    assert slides.lines(one) == 2 and slides.lines(items) == 4


@pytest.mark.parametrize(
    ("tag", "kind"), [("slide", "slide"), ("subslide", "subslide"), ("skip", "skip"), ("below", None)]
)
def test_a_tag_in_the_text_overrules_the_rule(make, tag, kind):
    cell = make.code("print(1)", tags=["nbval-ignore-output", tag])
    assert types(make.prose("## Section"), cell) == ["slide", kind]
    skipped = make.code("import torch", tags=["below"])
    assert types(make.prose("## Section"), skipped) == ["slide", None]


@pytest.mark.parametrize("path", notebooks.sources(), ids=lambda path: path.stem)
def test_stored_lessons_carry_their_slides(path):
    cells = nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells
    stored = [cell.metadata.get("slideshow", {}).get("slide_type") for cell in cells]
    assert stored == slides.slide_types(cells)
    assert stored[0] == "slide"
    shown = [cell.source for cell, kind in zip(cells, stored, strict=True) if kind != "skip"]
    for call in ("sweep(", "live_figure(", "\nfigure(", "quiz("):
        assert sum(call in source for source in shown) == sum(call in cell.source for cell in cells), call


def test_an_edit_in_jupyterlab_leaves_them_out_of_the_text():
    """Else the text of a lesson that was opened as a notebook, with jupytext, would fill with what the rule derives."""
    path = notebooks.sources()[0]
    config = jupytext.config.load_jupytext_config(str(path))
    stored, text = jupytext.read(path.with_suffix(".ipynb")), jupytext.read(path)
    as_text = [jupytext.writes(notebook, "md:myst", config=config).split("---", 2)[2] for notebook in (stored, text)]
    assert as_text[0] == as_text[1]
    assert "slideshow" in jupytext.writes(stored, "md:myst", config=jupytext.config.JupytextConfiguration())


def test_refresh_carries_over_all_but_the_code(tmp_path):
    source = notebooks.sources()[0]
    path = tmp_path / source.name
    text = source.read_text(encoding="utf-8")
    path.with_suffix(".ipynb").write_bytes(source.with_suffix(".ipynb").read_bytes())
    path.write_text(text.replace("## The map", "## The map of it all"), encoding="utf-8")
    assert "source of cell" in notebooks.differences(path)[0]
    notebooks.refresh(path)
    assert notebooks.differences(path) == []
    before, after = (nbformat.read(p.with_suffix(".ipynb"), as_version=4).cells for p in (source, path))
    assert [cell.get("outputs") for cell in before] == [cell.get("outputs") for cell in after]
    assert [cell.get("execution_count") for cell in before] == [cell.get("execution_count") for cell in after]

    path.write_text(text.replace("progress_map()", "progress_map( )"), encoding="utf-8")
    with pytest.raises(ValueError, match="build 00"):
        notebooks.refresh(path)


@pytest.mark.parametrize(
    ("source", "folded"),
    [
        ("import torch", True),
        ('"""Imports"""\nfrom torch import nn', False),
        ('say("It is {x}.", x=fact(1, equals=1))', True),
        ('claim("One", 1, equals=1)', True),
        ('predict("03-x", "What?", options=["a", "b"])', True),
        ("print(1)", False),
        ("\n".join(["x = 1"] * slides.SHOWN_CODE), False),
        ("\n".join(["x = 1"] * (slides.SHOWN_CODE + 1)), True),
    ],
)
def test_what_is_folded(make, source, folded):
    """Code that draws, asks, checks or only imports, and long code; an author may say otherwise."""
    assert slides.folded(make.code(source)) is folded
    assert not slides.folded(make.code(source, tags=["open"]))
    assert slides.folded(make.code(source, tags=["fold"]))
    assert not slides.folded(make.code(source, tags=["exercise"]))


def test_a_guess_is_a_step_of_its_own(make):
    asks, asked = make.prose("**Predict:** what?"), make.code('predict("03-x", "What?", options=["a", "b"])')
    shows = make.code("print(1)")
    assert types(make.prose("## Section"), asks, shows) == ["slide", None, "subslide"]
    assert types(make.prose("## Section"), asked, shows) == ["slide", None, "subslide"]
