"""The site's lessons without a kernel: what a page is given, and that it answers as the kernel does."""

import json
import re
from dataclasses import asdict

import nbformat
import pytest
from javascript import run_node_tests

from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import exercise_ids
from peft_lessons.classroom.progress import guesses, submission
from peft_lessons.classroom.widgets.predict import Prediction, kind_of
from peft_lessons.classroom.widgets.quiz import Quiz
from peft_lessons.classroom.widgets.review import due
from peft_lessons.classroom.widgets.sliders import several_positions
from peft_lessons.lessons.catalogue import lessons
from peft_lessons.lessons.parts import calls_any
from peft_lessons.lessons.questions import load_question, question_ids
from tools.lessons.notebooks import FIGURES, figure_file, sources
from tools.site import alive, styles

STORED = {path: nbformat.read(path.with_suffix(".ipynb"), as_version=4) for path in sources()}


@pytest.fixture(autouse=True)
def fresh_home(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path / "home"))


def shown(path):
    """(cell, text form) of all that a stored lesson shows."""
    for cell in STORED[path].cells:
        for output in cell.get("outputs", []):
            yield cell, output.get("data", {}).get("text/plain", "")


FIGURE = {
    cell.id: (path, cell.id, text)
    for path in STORED
    for cell, text in shown(path)
    if calls_any(cell.source, alive=True) and (text.startswith("[") and not text.startswith("[2 steps"))
}


# What is stored of figures


@pytest.mark.parametrize(("path", "cell", "text"), FIGURE.values(), ids=lambda value: str(value)[:40].split("\n")[0])
def test_the_frames_of_a_figure_are_those_of_its_lesson(path, cell, text):
    """The stored text form has a table with some settings: the frames say the same there."""
    told = json.loads(figure_file(path, cell).read_text(encoding="utf-8"))
    kind, title = re.match(r"\[(\w+)\] (.*) \(", text).groups()
    assert told["widget"] == kind
    if why := told.get("kernel"):
        assert "settings" in why
        return
    state = told["state"]
    assert state["title"] == title
    labels = [slider["labels"] for slider in state["sliders"]]
    sizes = {slider["name"]: slider["labels"] for slider in state["sliders"]}
    _header, *rows = text.split("\n\n")[-1].splitlines()
    positions = several_positions(sizes, state["position"])
    assert len(rows) == len(positions)
    for row, position in zip(rows, positions, strict=True):
        flat = 0
        for place, at in enumerate(position):
            flat = flat * len(labels[place]) + at
        expected = [labels[place][at] for place, at in enumerate(position)]
        expected += [value for _, value in state["frames"][flat]["readouts"]]
        assert re.split(r" {2,}", row.strip())[: len(expected)] == expected
    assert len(state["frames"]) == len(list(_all(labels)))


def _all(labels):
    return [[]] if not labels else [[at, *rest] for at in range(len(labels[0])) for rest in _all(labels[1:])]


def test_every_figure_is_stored_and_nothing_else():
    wanted = {
        figure_file(path, cell.id).name
        for path in STORED
        for cell in STORED[path].cells
        if cell.cell_type == "code" and calls_any(cell.source, alive=True)
    }
    assert {file.name for file in FIGURES.glob("*.json")} == wanted


@pytest.mark.parametrize("file", sorted(FIGURES.glob("*.json")), ids=lambda file: file.name)
def test_stored_conversations_begin_with_the_lessons_answers(file):
    told = json.loads(file.read_text(encoding="utf-8"))
    if told["widget"] == "Compare":
        (path,) = sources([file.name[:2]])
        text = next(text for cell, text in shown(path) if cell.id == file.stem[3:])
        question, rows = next(iter(told["state"]["answers"].items()))
        says = [f"{told['state']['label']}: {question}", *(f"  {name}: {answer}" for name, answer in rows)]
        assert text == "\n".join(says)


# What a page is given


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem[:2])
def test_a_lesson_comes_to_life(path):
    notebook = nbformat.from_dict(STORED[path])
    notebook = nbformat.reads(nbformat.writes(notebook), as_version=4)
    before = [text for _, text in shown(path)]
    alive.enliven(notebook, path)
    found = re.findall(r'<div class="peft-live" data-kind="(\w+)"', nbformat.writes(notebook).replace('\\"', '"'))
    number = path.stem[:2]
    assert found.count("quiz") == len(question_ids(number))
    assert found.count("prediction") == sum(text.startswith("Predict ") for text in before)
    assert found.count("exercise") == len(exercise_ids(number))
    assert found.count("review") == sum(text.startswith("Review: ") for text in before)
    plain = nbformat.writes(notebook)
    for which in question_ids(number):
        for option in load_question(which).options:
            assert option.feedback[:40] not in plain, "an answer can be read in the page's source"
    assert "No guess here" not in plain


def test_a_square_to_draw_in_becomes_a_link_to_the_page_that_learns_a_hand():
    (path,) = (path for path in STORED if any(text.startswith("Draw by hand: ") for _, text in shown(path)))
    notebook = nbformat.reads(nbformat.writes(STORED[path]), as_version=4)
    alive.enliven(notebook, path)
    (output,) = (
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("data", {}).get("text/plain", "").startswith("Draw by hand: ")
    )
    assert 'href="../handwriting.html"' in output.data["text/html"] and "running kernel" not in output.data["text/html"]


def test_every_guess_unfolds_what_answers_it():
    for path in STORED:
        asked = {re.match(r"Predict (\S+):", text)[1] for _, text in shown(path) if text.startswith("Predict ")}
        assert {guess for _, guess in alive.answered_guesses(STORED[path].cells)} == asked


@pytest.mark.parametrize(
    ("kind", "words", "is_"),
    [
        ({"kind": "number"}, "≈ 2.91e−12", 2.91e-12),
        ({"kind": "number"}, "57,600", 57600),
        ({"kind": "choice", "texts": ["a, b", "b"]}, "“a, b”", 0),
        ({"kind": "ranking", "texts": ["a", "a, b", "c"]}, "c, a, b, a", [2, 1, 0]),
        ({"kind": "curve"}, "≈ 1.00, ≈ 2.50", [1, 2.5]),
    ],
)
def test_what_was_measured_is_read_from_its_words(kind, words, is_):
    assert alive.truth(kind, words) == is_


def test_the_kernel_in_the_page_does_as_the_kernel_in_python(tmp_path, monkeypatch):
    question = load_question("01-goal")
    widget = Quiz(question)
    results = {}
    for option in question.options:
        widget.set_state({"answer": option.letter})
        results[option.letter] = {
            key: value for key, value in widget.result.items() if key not in ("notice", "answered")
        }
    acts = [("01-goal", "quiz", "incorrect"), ("01-rank", "quiz", "incorrect"), ("02-vera", "quiz", "correct")]
    acts += [("01-goal", "quiz", "correct"), ("03-merge", "exercise", "incorrect"), ("03-merge", "hint", "shown")]
    for item, kind, outcome in acts:
        progress.record(item, kind, outcome, "1")
    progress.record("01-goal", "review", "correct", json.dumps({"lesson": "03"}))
    progress.record("01-rank", "review", "incorrect", json.dumps({"lesson": "03"}))
    for number, (guess, measured) in enumerate([(1, 3), (2, 3), (1, 9), (4, 5), (4, 5), (1.0, 1.0), (7, 1)]):
        detail = json.dumps({"guess": guess, "measured": measured, "error": 0.0})
        progress.record(f"01-guess{number}", "guess", "incorrect", detail)
    events = progress.events()
    submission.export(tmp_path / "progress.json", "Ádám 🙂")
    text = (tmp_path / "progress.json").read_text(encoding="utf-8")
    told = json.loads(text)
    number = 'predict("01-n", "How many?", between=(1, 500), unit=" times")'
    choice = 'predict("01-c", "Which?", options=(A, "b"))'
    ranking = 'predict("01-r", "In which order?", ranking=("x", "y", "z"))'
    cases = [
        [number, "Predict 01-n: How many?", "≈ 55.1 times", 20, "You said 20 times; it is ≈ 55.1 times."],
        [choice, "Predict 01-c: Which?\n  - a, *c*\n  - b", "“b”", 0, "You said “a, *c*”; it is “b”."],
        [ranking, "Predict 01-r: And?\n  - x\n  - y\n  - z", "z, y, x", [2, 1, 0], "You said z, y, x; it is z, y, x."],
        [number, "Predict 01-s: How many?", "≈ 55.1 times", None, "No guess here: it is ≈ 55.1 times."],
    ]  # fmt: skip
    no_guesses = {number: [0, 501, "20", [20], None], choice: [2, -1, 0.5, [0], None]}
    no_guesses[ranking] = [[0, 1], [0, 1, 1], 0, [1, 2, 3]]
    data = {
        "script": alive.kernel_script(),
        "events": [asdict(event) for event in events],
        "due": {lesson.number: due(lesson.number, events) for lesson in lessons()},
        "improvement": guesses.improvement(),
        "items": [asdict(item) for item in submission.items()],
        "quiz": alive.quiz_state(question),
        "results": results,
        "file": text,
        "told": told,
        "guesses": [
            [alive.prediction_state(call, asked, words), guess, said, no_guesses[call]]
            for call, asked, words, guess, said in cases
        ],
        "exercise": alive.exercise_state("03-merge"),
    }
    assert any(data["due"].values())
    run_node_tests("page_kernel.test.js", data, tmp_path)


def test_a_page_asks_what_the_widget_asks():
    asked = "Predict 01-n: How *many*?"
    state = alive.prediction_state(
        'predict("01-n", "How *many*?", between=(1, 500), unit=" times")', asked, "≈ 5 times"
    )
    assert state["asked"] == Prediction("01-n", "How *many*?", kind_of(between=(1, 500)), " times").asked


def test_a_style_sheet_loses_what_no_page_uses():
    css = """@charset "utf-8"; /* .a{} */ .a, .gone > b{color:red} .gone{x:y} p{m:0} #here .a{y:url("}")}
        @media print{.gone{a:b} .a:hover{c:d}} @media screen{.gone{a:b}} @font-face{font-family:"gone"}
        .a:not(.gone){e:f} :is(.gone,.a) i{g:h} [data-x=".gone"]{i:j} .md\\:gone{k:l}"""
    assert styles.pruned(css, {"a", "here"}) == (
        '@charset "utf-8";.a{color:red}p{m:0}#here .a{y:url("}")}@media print{.a:hover{c:d}}'
        '@font-face{font-family:"gone"}'
        '.a:not(.gone){e:f}:is(.gone,.a) i{g:h}[data-x=".gone"]{i:j}.md\\:gone{k:l}'
    )
