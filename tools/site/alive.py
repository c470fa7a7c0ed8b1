"""Lessons alive on the site: what their stored outputs become, and the one script that works them.

The widgets' scripts are JupyterLab's; `page/kernel.js` answers them in a kernel's place. A quiz, a guess or an exercise
has its state in the page; a figure with controls or a stored conversation has it in a file of `docs/site/figures`,
which a build of the lesson wrote and the page fetches when it comes near. Until then, and without scripts, the stored
result stands there.
"""

import ast
import base64
import html
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from peft_lessons import __version__
from peft_lessons.classroom.exercises import exercise_ids, load_exercise
from peft_lessons.classroom.output.cards import inline_html
from peft_lessons.classroom.output.show import Source
from peft_lessons.classroom.widgets.parts import source
from peft_lessons.classroom.widgets.predict import asked_of, kind_of
from peft_lessons.lessons.catalogue import find_lesson, lessons
from peft_lessons.lessons.parts import calls, calls_any
from peft_lessons.lessons.questions import Question, load_lesson, load_question, question_ids
from tools.lessons.notebooks import figure_file, sources
from tools.lessons.predictions import answers

PAGE = Path(__file__).with_name("page")
SCRIPTS = {  # by the name that page.js gives it, what the widget's script is made of
    "quiz": ("quiz.js",),
    "predict": ("predict.js",),
    "exercise_card": ("exercise_card.js",),
    "progress": ("progress.js",),
    "compare": ("compare.js",),
    "sweep": ("sliders.js", "sweep.js"),
    "live_figure": ("sliders.js", "live_figure.js"),
}
STYLES = ("theme", "parts", "quiz", "predict", "exercise_card", "progress", "compare", "sliders")
REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "")  # owner/name, where GitHub builds the site


# Scripts and data of the whole site


def site_script() -> str:
    """Return the script of all pages: no module, so that it runs from a file, too."""
    widgets = ",\n".join(f"{name}: (() => {{\n{_script(files)}\n}})()" for name, files in SCRIPTS.items())
    page = (PAGE / "page.js").read_text(encoding="utf-8")
    return f"(() => {{\n{kernel_script()}\nconst SCRIPTS = {{\n{widgets}\n}};\n{page}\n}})();\n"


def kernel_script() -> str:
    """Return the part of it that stands in for a kernel: the course's lists, the progress, and the models."""
    course = [
        {
            "number": lesson.number,
            "title": lesson.title,
            "notebook": lesson.notebook.replace(".ipynb", ".html"),
            "reading": lesson.reading_minutes,
            "running": lesson.running_minutes,
            "questions": question_ids(lesson.number),
            "exercises": exercise_ids(lesson.number),
        }
        for lesson in lessons()
    ]
    lists = f"const VERSION = {json.dumps(__version__)}, COURSE = {json.dumps(course, ensure_ascii=False)};"
    files = ((PAGE / name).read_text(encoding="utf-8") for name in ("progress.js", "kernel.js"))
    return "\n".join((lists, source("parts.js"), *files))


def _script(files: tuple[str, ...]) -> str:
    return source(*files).replace("export default {", "return {")


def site_styles() -> str:
    """Return the style sheet of all widgets."""
    return source(*(f"{name}.css" for name in STYLES))


def all_questions() -> dict[str, Any]:
    """Return every question by its id, as a page needs it."""
    return {question.id: quiz_state(question) for lesson in lessons() for question in _questions(lesson.number)}


def _questions(lesson: str) -> list[Question]:
    return load_lesson(lesson) if question_ids(lesson) else []


# Places for widgets


def place(kind: str, fallback: str = "", state: Any = None, **data: str) -> str:
    """Return the HTML of a place where page.js shows a widget of this kind; `fallback` stands there until then."""
    attributes = "".join(f' data-{name}="{html.escape(value)}"' for name, value in data.items())
    inline = f'<script type="application/json">{_json(state)}</script>' if state is not None else ""
    return f'<div class="peft-live" data-kind="{kind}"{attributes}>{fallback}{inline}</div>'


def _json(state: Any) -> str:
    return json.dumps(state, ensure_ascii=False).replace("<", "\\u003c")


def sealed(what: Any) -> str:
    """Return `what` as text that nobody reads in passing."""
    return base64.b64encode(json.dumps(what, ensure_ascii=False).encode()).decode("ascii")


def quiz_state(question: Question) -> dict[str, Any]:
    options = [{"letter": option.letter, "html": inline_html(option.text)} for option in question.options]
    feedback = {option.letter: inline_html(option.feedback) for option in question.options}
    return {
        "question": {"id": question.id, "html": inline_html(question.text), "options": options},
        "sealed": sealed({"key": question.key, "feedback": feedback, "digest": question.digest}),
    }


def exercise_state(exercise_id: str) -> dict[str, Any]:
    exercise = load_exercise(exercise_id)
    solution = Source(f"Exercise {exercise_id}, one solution", exercise.solution)._repr_html_()
    hints = [inline_html(hint) for hint in exercise.hints]
    return {
        "exercise": exercise_id,
        "places": where_it_runs(exercise_id[:2]),
        "sealed": sealed({"hints": hints, "solution": solution}),
    }


def where_it_runs(lesson: str) -> str:
    """Return links to a lesson where its code can run."""
    notebook = find_lesson(lesson).notebook
    ways = [f'<a href="{notebook}" download>the notebook</a>, for your own JupyterLab or Colab']
    if REPOSITORY:
        ways = [
            f'<a href="https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{notebook}">Colab</a>',
            f'<a href="https://mybinder.org/v2/gh/{REPOSITORY}/main?urlpath=lab/tree/my_lessons/{notebook}">Binder</a>',
            *ways,
        ]
    ways.append("<code>pip install peft-lessons</code>, then <code>peft-lessons</code>")
    return f"Write and check your code where it can run: {'; '.join(ways)}."


# A lesson's notebook


def enliven(notebook: NotebookNode, path: Path) -> None:
    """Give the outputs of the lesson whose text is `path` their places, and the answers of guesses their tags."""
    for cell, guess in answered_guesses(notebook.cells):
        cell.metadata["tags"] = [*cell.metadata.get("tags", []), f"answers-{guess}"]
    said = {}  # by guess, what was measured
    asking = None
    for cell in notebook.cells:
        for output in list(cell.get("outputs", [])):
            text = output.get("data", {}).get("text/plain", "")
            if found := re.match(r"Predict (\S+): ", text):
                asking = found[1]
            elif found := re.match(r"· No guess here: it is (.*)\.$", text, re.DOTALL):
                said[asking] = found[1]
                cell.outputs.remove(output)  # the guess's own place says it
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if shown := _place_for(cell, output.get("data", {}), path, said):
                output.data = nbformat.from_dict({"text/html": shown, "text/plain": output.data["text/plain"]})


def answered_guesses(cells: list[NotebookNode]) -> Iterator[tuple[NotebookNode, str]]:
    """Each cell whose outputs answer a `predict`, with its id."""
    folded = {id(cell) for cell in answers(cells)}
    asking = None
    for cell in cells:
        if cell.cell_type == "code" and (found := re.search(r'(?<![.\w])predict\(\s*"([\w-]+)"', cell.source)):
            asking = found[1]
        elif id(cell) in folded and asking:
            yield cell, asking


def _place_for(cell: NotebookNode, data: dict[str, str], path: Path, said: dict[str | None, str]) -> str:
    """Return the HTML of the place that an output becomes, or nothing for one that no widget showed."""
    text, picture = data.get("text/plain", ""), data.get("text/html", "")
    if found := re.match(r"Quiz (\S+): ", text):
        state = quiz_state(load_question(found[1]))
        return place("quiz", _asked(state["question"]), state)
    if found := re.match(r"Predict (\S+): ", text):
        return place("prediction", picture, prediction_state(cell.source, text, said[found[1]]))
    if found := re.match(r"○ Exercise (\S+): ", text):
        return place("exercise", f"<p>{where_it_runs(found[1][:2])}</p>", exercise_state(found[1]))
    if text.startswith("Lessons\n"):
        return place("progress", _list_of_lessons())
    if text.startswith("Review: "):
        return place("review", f"<p>{html.escape(text)}</p>", lesson=path.stem[:2])
    if text.startswith("Draw by hand: "):
        return '<p><a href="../handwriting.html">Draw your letters here</a>: a page that trains without a kernel.</p>'
    if calls_any(cell.source, alive=True) and ("<figure>" in picture or "<caption>" in picture):
        return figure_place(path, cell.id, picture)
    return ""


def _asked(question: dict[str, Any]) -> str:
    """Return a question for a page whose scripts do not run: without its answers."""
    options = "".join(f"<li>{option['html']}</li>" for option in question["options"])
    return f'<p><strong>Quiz.</strong> {question["html"]}</p><ol type="a">{options}</ol>'


def _list_of_lessons() -> str:
    rows = "".join(
        f'<li><a href="{lesson.notebook.replace(".ipynb", ".html")}">{html.escape(lesson.title)}</a></li>'
        for lesson in lessons()
    )
    return f"<ol start=0>{rows}</ol>"


def figure_place(path: Path, cell: str, picture: str) -> str:
    """Return the place of a figure, `picture` being its stored form; a line says why, where it cannot come to life."""
    file = figure_file(path, cell)
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"kernel": "it trains a model first"}
    if why := told.get("kernel"):
        line = f"Here it stands still: {why}. In JupyterLab it moves."
        return f'{picture}<p class="peft-still">{html.escape(line)}</p>'
    return place(told["widget"], picture, file=f"figures/{file.name}")


def write_figure(file: Path, site: Path) -> None:
    """Write what the figure that `file` tells of needs into `site`: its state, and its frames one by one."""
    told = json.loads(file.read_text(encoding="utf-8"))
    if "state" not in told:
        return
    state = told["state"]
    if told["widget"] == "Compare":
        state = conversation(state)
    if told["widget"] == "LiveFigure":
        frames = site / "figures" / file.stem
        frames.mkdir()
        for number, frame in enumerate(state["frames"]):
            path = frames / f"{number}.webp"
            path.write_bytes(base64.b64decode(frame["url"].partition(",")[2]))
            frame["url"] = path.relative_to(site).as_posix()
    (site / "figures" / file.name).write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")


def conversation(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"only": "Answers as the model gave them. Your own questions need JupyterLab."}


def named_figure(lesson: str, title: str) -> str:
    """Return the place of the figure of this lesson that has this title, for another page."""
    (path,) = sources([lesson])
    for cell in nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells:
        for output in cell.get("outputs", []):
            if re.match(rf"\[\w+\] {re.escape(title)} \(", output.get("data", {}).get("text/plain", "")):
                return figure_place(path, cell.id, output.data["text/html"])
    raise ValueError(f"lesson {lesson} has no figure called {title!r}")


def adapter_switch() -> str:
    """Return the place of the first conversation of lesson 00, with its answers in the page: they are seen at once."""
    (path,) = sources(["00"])
    cells = nbformat.read(path.with_suffix(".ipynb"), as_version=4).cells
    cell = next(cell for cell in cells if calls(cell.source, "compare"))
    told = json.loads(figure_file(path, cell.id).read_text(encoding="utf-8"))
    return place("Compare", cell.outputs[0].data["text/html"], conversation(told["state"]))


def source_link() -> str:
    """Return where the source is, as Markdown, if the build knows."""
    return f"[{REPOSITORY}](https://github.com/{REPOSITORY})" if REPOSITORY else "in the repository"


# Guesses


def prediction_state(source: str, text: str, words: str) -> dict[str, Any]:
    """Return the state of the guess that a cell asks for; `text` is its stored form, `words` what was measured."""
    asked, *rest = text.split("\n  - ")
    prediction_id, question = re.match(r"Predict (\S+): (.*)", asked, re.DOTALL).groups()  # type: ignore[union-attr]
    call = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "predict"
    )
    given = {argument.arg: argument.value for argument in call.keywords}
    said: dict[str, Any] = {
        name: ast.literal_eval(given[name]) for name in ("between", "curve", "unit") if name in given
    }
    said |= {name: rest for name in ("options", "ranking") if name in given}  # may be computed: as they were shown
    unit = said.pop("unit", "")
    kind = kind_of(**said)
    return {
        "asked": asked_of(prediction_id, question, kind, unit),
        "sealed": sealed({"truth": truth(kind, words.removesuffix(unit)), "words": words, "texts": rest}),
    }


def truth(kind: dict[str, Any], words: str) -> Any:
    """Return what was measured, read from the words that the lesson stored for it, as a guess is: places or numbers."""
    if kind["kind"] == "choice":
        return kind["texts"].index(words.strip("“”"))
    if kind["kind"] == "ranking":
        return next(_order(tuple(kind["texts"]), words))
    if kind["kind"] == "curve":
        return [_number(word) for word in words.split(", ")]
    return _number(words)


def _order(texts: tuple[str, ...], words: str, chosen: tuple[int, ...] = ()) -> Iterator[list[int]]:
    """Yield the orders in which all texts, joined by commas, are the words; texts may hold commas themselves."""
    if len(chosen) == len(texts) and not words:
        yield list(chosen)
    for place, text in enumerate(texts):
        if place not in chosen and (words == text or words.startswith(f"{text}, ")):
            yield from _order(texts, words[len(text) :].removeprefix(", "), (*chosen, place))


def _number(words: str) -> float:
    return float(words.removeprefix("≈ ").replace("−", "-").replace(",", ""))
