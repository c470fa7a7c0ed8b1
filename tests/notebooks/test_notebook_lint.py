"""Each rule about stored outputs, on the smallest notebook that breaks it, and on one beside it that does not."""

import pytest

from tools.lessons import notebook_lint

ALT = '<figure><img alt="A falling line" src="data:image/png;base64,AAAA"></figure>'
SOUND = {
    "silent cell": lambda make: make.code("x = 1"),
    "printed": lambda make: make.code("print(1)", make.printed("1\n")),
    "reasoned": lambda make: make.code("train()", tags=["nbval-ignore-output"], reason="training differs by machine"),
    "raises": lambda make: make.code("1 / 0", make.raised("ZeroDivisionError", "no"), tags=["raises-exception"]),
    "figure": lambda make: make.code("f", make.shown(image_png="AAAA", text_html=ALT, text_plain="<Figure size 2x1>")),
    "widget": lambda make: make.code("w", make.shown(text_plain="VBox(children=())", text_html="<table></table>")),
    "call": lambda make: make.code("c", make.shown(text_plain="Linear(in_features=2, out_features=1, bias=True)")),
    "marked noise": lambda make: make.code("w", make.shown(text_plain="≈ 8.22e−07  measured 1.23e-08 · rate 1e-05")),
    "semicolon inside": lambda make: make.code("a = 1; b = 2"),
    "path that everyone has": lambda make: make.code("p", make.printed("notebooks/home/file and https://x.org/home/")),
    "markdown code": lambda make: make.prose("Write `![](x.png)` or\n```html\n<img src='x.png'>\n```\n"),
}
BROKEN = {
    "never run": (lambda make: {**make.code("x = 1"), "execution_count": None}, "never run"),
    "empty": (lambda make: make.code(" "), "without code"),
    "skip tag": (lambda make: make.code("x", tags=["nbval-skip"]), "nbval-skip"),
    "skip comment": (lambda make: make.code("# NBVAL_SKIP\nx"), "nbval-skip"),
    "ignored": (lambda make: make.code("x", tags=["nbval-ignore-output"]), "ignored"),
    "ignored by comment": (lambda make: make.code("# NBVAL_IGNORE_OUTPUT\nx"), "ignored"),
    "stderr": (lambda make: make.code("x", make.printed("UserWarning: old", "stderr")), "stderr"),
    "error": (lambda make: make.code("1 / 0", make.raised("ZeroDivisionError", "no")), "ZeroDivisionError: no"),
    "raises nothing": (lambda make: make.code("x", tags=["raises-exception"]), "raises nothing"),
    "box": (lambda make: make.code("w", make.shown(text_plain="VBox(children=(Label(value='a'),))")), "all that"),
    "interactive": (lambda make: make.code("w", make.shown(text_plain="interactive(children=())")), "all that"),
    "object": (lambda make: make.code("w", make.shown(text_plain="<Model object at 0x7f00ab12cd34>")), "all that"),
    "address": (lambda make: make.code("w", make.printed("at 0x7f00ab12cd34")), "address"),
    "progress bar": (lambda make: make.code("w", make.printed("100% 10/10 [00:01, 9.87it/s]")), "holds a time"),
    "wall time": (lambda make: make.code("%time x", make.printed("Wall time: 3 ms")), "holds a time"),
    "png": (lambda make: make.code("f", make.shown(image_png="AAAA", text_plain="<Figure>")), "without a twin"),
    "svg": (lambda make: make.code("f", make.shown(image_svg_xml="<svg/>")), "without a twin"),
    "html image": (
        lambda make: make.code("f", make.shown(text_html='<img src="data:image/png;base64,AA">')),
        "alternative text",
    ),
    "empty alt": (lambda make: make.code("f", make.shown(text_html='<img alt=" " src="x">')), "alternative text"),
    "markdown image": (lambda make: make.prose("![](plot.png)"), "alternative text"),
    "noise": (lambda make: make.code("w", make.shown(text_plain="rank 4   8.22e−07 to 4.00")), "rounding errors"),
    "semicolon": (lambda make: make.code("plot();"), "';'"),
    "path in output": (lambda make: make.code("x", make.printed("saved to /home/ada/run.pt")), "/home/ada/run.pt"),
    "path in source": (lambda make: make.code("open('/tmp/x')"), "/tmp/x"),
    "path in prose": (lambda make: make.prose("See C:\\Users\\ada."), "C:\\\\Users"),
    "path in html": (lambda make: make.code("x", make.shown(text_html="<p>/home/x</p>")), "text/html holds a path"),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_cells_pass(make, name):
    assert notebook_lint.problems(make.notebook(SOUND[name](make))) == []


@pytest.mark.parametrize("name", BROKEN)
def test_broken_cells_are_named(make, name):
    cell, message = BROKEN[name]
    problems = notebook_lint.problems(make.notebook(make.prose("Text."), cell(make)))
    assert problems and all(problem.startswith("cell 1 (") for problem in problems)
    assert any(message in problem for problem in problems), problems


def test_saved_widget_state_and_views(make):
    state = {"application/vnd.jupyter.widget-state+json": {}}
    assert "widget state" in notebook_lint.problems(make.notebook(widgets=state))[0]
    view = make.shown(text_plain="slider", text_html="<p>3</p>")
    view.data[notebook_lint.WIDGET_VIEW] = {"model_id": "a"}
    assert "widget view" in notebook_lint.problems(make.notebook(make.code("slider", view)))[0]


def test_cells_out_of_order(make):
    first, second = make.code("a = 1"), make.code("b = 2")
    assert notebook_lint.problems(make.notebook(first, second)) == []
    problems = notebook_lint.problems(make.notebook(second, first))
    assert "ran as number 2, but stands as number 1" in problems[0]


def test_every_rule_is_broken_by_some_notebook(make):
    """A rule that no broken cell above sets off would be a rule without a test."""
    silent = []
    for rule in notebook_lint.RULES:
        notebooks = [make.notebook(make.prose("Text."), cell(make)) for cell, _ in BROKEN.values()]
        if rule is not notebook_lint.widget_state and not any(list(rule(notebook)) for notebook in notebooks):
            silent.append(rule.__name__)
    assert silent == []
