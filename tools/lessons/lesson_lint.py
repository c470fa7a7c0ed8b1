"""What makes a notebook a lesson: its parts, the numbers in its prose, its links. Rules over the notebook's JSON.

The rule about numbers: a number in a lesson's prose, in a markdown cell or in the text of a `say`, is checked in the
same notebook, in the sentence of a `claim` or as what a `fact` expects, so that running the lesson checks it.
`prose_of` first takes out what is exempt: formulas, code, names, references, quotations, and sentences that report what
a paper found and give its arXiv number.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from pathlib import Path

from nbformat import NotebookNode

from peft_lessons.classroom import exercises
from peft_lessons.lessons import catalogue, questions
from tools.lessons.notebook_lint import cells, name_of, outputs, tags_of, without_code


@dataclass(frozen=True)
class Facts:
    """What the course knows of a lesson: number ("03"), minutes to read and to run, starters by exercise, questions.

    `computed` are the questions that mark an option whose truth the lesson computes.
    """

    number: str
    minutes: tuple[int, int] | None = None
    starters: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()


def facts_of(stem: str) -> Facts:
    """Return the facts of the lesson called `stem`, such as 03_lora_from_scratch, from the package's data."""
    number = stem[:2]
    row = next((lesson for lesson in catalogue.lessons() if lesson.notebook == f"{stem}.ipynb"), None)
    starters = {name: exercises.load_exercise(name).starter for name in exercises.exercise_ids(number)}
    minutes = (row.reading_minutes, row.running_minutes) if row else None
    asked = tuple(questions.question_ids(number))
    computed = (which for which in asked if any(option.evidence for option in questions.load_question(which).options))
    return Facts(number, minutes, starters, asked, tuple(computed))


# Numbers


@dataclass(frozen=True)
class Number:
    """A number as prose has it: `value` without sign, 57.7 for 57.7 %, 135e6 for 135M."""

    text: str
    value: Decimal
    percent: bool
    small: bool


SUFFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9, "T": 10**12}
NUMBER = re.compile(
    r"(?<![\w.])(?P<digits>(?>\d+(?:[,\u00a0\u2009\u202f]\d{3})*(?:\.\d+)?(?:e[−+-]?\d+)?))"
    r"(?:(?P<suffix>[kMGBT])\b|(?P<percent>[\s\u00a0\u202f]?%)|(?P<times>x\b|[\s\u00a0\u202f]?×(?!\s?\d)))?(?![A-Za-z_])"
)
EXEMPT = [
    re.compile(pattern, re.MULTILINE | re.DOTALL)
    for pattern in (
        r"(?:(?!\.\s|\n\s*\n)[^!?])*arXiv:\s?\d{4}\.\d{4,5}(?:(?!\.\s|\n\s*\n).)*",  # sentences that report a paper
        r"\$\$.*?\$\$|\$(?!\s)[^$\n]+?(?<!\s)\$|\\\(.*?\\\)|\\\[.*?\\\]",  # formulas
        r"!?\[[^\]]*\]\([^)]*\)|<?https?://\S+",  # links
        r"</?[A-Za-z][^>]*>|&#?\w+;",  # tags and entities
        r"^#+\s*\d+\b",  # the lesson's number in its heading
        r"^\s*\d+[.)]\s",  # numbered lists
        r"“[^”\n]*”|\"[^\"\n]*\"",  # quotations
        r"(?:(?<=\()|(?<=, )|(?<=in )|(?<=since )|(?<=al\. ))(?:1[5-9]\d|20[0-3])\d(?=[a-z]?[),.;:](?!\d))",  # years
        r"\b(?:[Ll]essons?|[Ss]ections?|[Tt]ables?|[Ff]igures?|[Ee]quations?|[Ee]qs?\.|[Aa]ppendix|[Pp]ages?|Python)"
        r"\s+\(?\d[\d.]*\d?(?:(?:,\s|\s?(?:–|and|to)\s?)\d[\d.]*)*|§+\s?\d[\d.]*\d?",
        r"\b(?:[A-Z]\w*|[A-Za-z_]+\d\w*)(?:[-./]\w+)*",  # names: SmolLM2-135M, GPT-2, NF4, fp32
        r"\b(?:16|32|64)[-\s\u00a0]bits?\b",  # names of number formats
    )
]


def prose_of(markdown: str) -> str:
    """Return the text of a markdown cell without what may hold unchecked numbers."""
    text = without_code(markdown)
    for pattern in EXEMPT:
        text = pattern.sub(" ", text)
    return text


def numbers_in(text: str) -> Iterator[Number]:
    """Every number of the text; `small` is a bare whole number up to ten."""
    for match in NUMBER.finditer(text):
        digits = re.sub(r"[,\u00a0\u2009\u202f](?=\d{3})", "", match["digits"]).replace("−", "-")
        value = Decimal(digits) * SUFFIXES.get(match["suffix"] or "", 1)
        bare = digits.isdigit() and not (match["suffix"] or match["percent"] or match["times"])
        yield Number(match[0], value, bool(match["percent"]), bare and value <= 10)


CHECKED = re.compile(r"^  ✔ (?P<sentence>.*)\n    measured .*?; expected (?P<expected>[^(\n]*)", re.MULTILINE)


def claimed(notebook: NotebookNode) -> set[tuple[Decimal, bool]]:
    """(value, whether in per cent) for every number of a check, but for the measured one and the source."""
    found: set[tuple[Decimal, bool]] = set()
    for _, _, texts in outputs(notebook):
        for check in CHECKED.finditer(texts.get("text/plain", "")):
            found |= {(number.value, number.percent) for number in numbers_in(check["sentence"])}
            for number in numbers_in(check["expected"]):  # 0.577 there may be 57.7 % in the prose
                found |= {(number.value, False), (number.value * 100, True)}
    return found


def calls(notebook: NotebookNode, name: str) -> Iterator[ast.Call]:
    """Every call of a function or method `name` in the notebook's code."""
    for _, cell in cells(notebook, "code"):
        yield from calls_in(cell.source, name)


def calls_in(source: str, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called == name:
                yield node


def first_argument(call: ast.Call) -> str:
    """Return the first argument of a call if it is written out, else ""."""
    return str(call.args[0].value) if call.args and isinstance(call.args[0], ast.Constant) else ""


def parsed(source: str) -> ast.Module:
    """Return the cell's syntax tree, without its IPython lines (%magic, !command)."""
    return ast.parse(re.sub(r"^([ \t]*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))


BOUNDS = ("equals", "within", "at_most", "at_least", "between")


def bounds_are_written_out(notebook: NotebookNode) -> Iterator[str]:
    """Find bounds that are measured themselves: another machine measures another one, and prints it."""
    for number, cell in cells(notebook, "code"):
        for call in chain(calls_in(cell.source, "fact"), calls_in(cell.source, "claim")):
            for bound in (keyword for keyword in call.keywords if keyword.arg in BOUNDS):
                if any(isinstance(part, ast.Subscript | ast.Attribute | ast.Call) for part in ast.walk(bound.value)):
                    given = f"{bound.arg}={ast.unparse(bound.value)}"
                    yield f"{name_of(number, cell)}: {given} is not written out: claim a ratio or a difference"


def numbers_are_claimed(notebook: NotebookNode) -> Iterator[str]:
    known = claimed(notebook)
    texts = [(n, cell, _without_minutes(notebook, n, cell.source)) for n, cell in cells(notebook, "markdown")]
    for n, cell in cells(notebook, "code"):
        texts += [(n, cell, re.sub(r"\{[^}]*\}", "", first_argument(call))) for call in calls_in(cell.source, "say")]
    for number, cell, text in texts:
        for found in numbers_in(prose_of(text)):
            if not found.small and (found.value, found.percent) not in known:
                yield f"{name_of(number, cell)}: nothing in this notebook checks the number {found.text.strip()!r}"


# Parts


def opening(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return the markdown cells before the first code cell."""
    first = next((number for number, _ in cells(notebook, "code")), len(notebook.cells))
    return [(number, cell) for number, cell in cells(notebook, "markdown") if number < first]


def _without_minutes(notebook: NotebookNode, number: int, source: str) -> str:
    """Return a cell's text without the opening's lines on minutes, whose numbers `opens_well` checks."""
    if number not in dict(opening(notebook)):
        return source
    return "\n".join(line for line in source.splitlines() if "minute" not in line.lower())


def opens_well(notebook: NotebookNode, facts: Facts) -> Iterator[str]:
    text = "\n".join(cell.source for _, cell in opening(notebook))
    if not re.match(rf"# {facts.number}\b", text):
        yield f"the first line must be the title with the lesson's number: # {facts.number} …"
    for phrase in ("You will be able to", "need", "minutes"):
        if phrase.lower() not in text.lower():
            yield f"the opening, before the first code cell, does not say {phrase!r}"
    line = " ".join(line for line in text.splitlines() if "minute" in line.lower())
    if facts.minutes and [int(digits) for digits in re.findall(r"\d+", line)][:2] != list(facts.minutes):
        yield f"the opening's minutes must be lesson.toml's, reading then running, {facts.minutes}; it says {line!r}"


def ends_well(notebook: NotebookNode, facts: Facts) -> Iterator[str]:
    headings = [
        line.lower()
        for _, cell in cells(notebook, "markdown")
        for line in without_code(cell.source).splitlines()
        if line.startswith("#")
    ]
    after = -1
    for part in ("summary", "not known", "sources", "next"):
        places = [place for place, heading in enumerate(headings) if part in heading]
        if not places:
            yield f"no heading has {part!r}: a lesson ends with Summary, What is not known, Sources, Next step"
        elif places[-1] < after:
            yield f"the heading with {part!r} stands too early: Summary, What is not known, Sources, Next step"
        after = max([after, *places])


def headings_begin_cells(notebook: NotebookNode, _: Facts) -> Iterator[str]:
    for number, cell in cells(notebook, "markdown"):
        for heading in re.findall(r"^#+ .*", without_code(cell.source).strip(), re.MULTILINE):
            if not cell.source.startswith(heading):
                yield f"{name_of(number, cell)}: write +++ before {heading!r}, so that it begins a cell and a slide"


def exercises_are_whole(notebook: NotebookNode, facts: Facts) -> Iterator[str]:
    checks = dict(checked_exercises(notebook))
    starters = [(number, cell) for number, cell in cells(notebook, "code") if "exercise" in tags_of(cell)]
    if not starters:
        yield 'no exercise: a starter cell has the tag "exercise" and in its metadata exercise: "03-…"'
    for number, cell in starters:
        name, which = name_of(number, cell), cell.metadata.get("exercise")
        if which not in facts.starters:
            yield f"{name}: is the starter of {which!r}; this lesson has {', '.join(facts.starters) or 'no exercises'}"
        elif cell.source.strip() != facts.starters[which].strip():
            yield f"{name}: differs from the STARTER in the file of exercise {which!r}"
        elif checks.get(which, -1) < number:
            yield f"{name}: no later cell calls .check(…) of exercise {which!r}"
    for which in facts.starters.keys() - {cell.metadata.get("exercise") for _, cell in starters}:
        yield f"exercise {which!r} has no starter cell"


def checked_exercises(notebook: NotebookNode) -> Iterator[tuple[str, int]]:
    """(exercise, number of the cell) for every `.check(…)`; it belongs to the last `exercise("…")` before it."""
    current = ""
    for number, cell in cells(notebook, "code"):
        found = [(call, False) for call in calls_in(cell.source, "exercise")]
        found += [(call, True) for call in calls_in(cell.source, "check")]
        for call, checks in sorted(found, key=lambda pair: (pair[0].end_lineno, pair[0].end_col_offset)):
            if checks:
                yield current, number
            else:
                current = first_argument(call)


def quizzes_are_known(notebook: NotebookNode, facts: Facts) -> Iterator[str]:
    asked = {first_argument(call) for call in calls(notebook, "quiz")}
    if not asked:
        yield "no quiz: call quiz(…) at least once"
    for unknown in sorted(asked - set(facts.questions)):
        yield f"quiz {unknown!r} is not among this lesson's questions: {', '.join(facts.questions) or 'none'}"
    for unasked in sorted(set(facts.questions) - asked):
        yield f"question {unasked!r} of this lesson is never asked"


def quizzes_give_nothing_away(notebook: NotebookNode, facts: Facts) -> Iterator[str]:
    """Check that a cell that asks does nothing else, and that a cell above it computed what the question is about."""
    evident = []
    for number, cell in cells(notebook, "code"):
        evident += [first_argument(call) for call in calls_in(cell.source, "evidence")]
        for call in calls_in(cell.source, "quiz"):
            which = first_argument(call)
            if cell.source.strip() != f'quiz("{which}")':
                yield f'{name_of(number, cell)}: holds more than quiz("{which}"), which may give the answer away'
            if evident.count(which) != (which in facts.computed):
                wanted = "one evidence(…) call" if which in facts.computed else "no evidence(…) call"
                yield f"question {which!r} needs {wanted} in the cells above it, and has {evident.count(which)}"


def guesses_are_revealed_next(notebook: NotebookNode, _: Facts) -> Iterator[str]:
    """Check that the cell below a guess reveals it: the page veils the cell below a question, and that one alone."""
    for number, cell in cells(notebook, "code"):
        for call in calls_in(cell.source, "predict"):
            below = notebook.cells[number + 1] if number + 1 < len(notebook.cells) else None
            revealed = calls_in(below.source, "reveal") if below is not None and below.cell_type == "code" else ()
            if first_argument(call) not in map(first_argument, revealed):
                yield f"{name_of(number, cell)}: the next cell must reveal {first_argument(call)!r}"


def broken_links(notebook: NotebookNode, folder: Path) -> list[str]:
    """Links to files beside the notebook that are not there."""
    return [
        f"{name_of(number, cell)}: the link to {target!r} leads nowhere"
        for number, cell in cells(notebook, "markdown")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", without_code(cell.source))
        if not re.match(r"[a-z]+:", target) and not (folder / target).exists()
    ]


def problems(notebook: NotebookNode, facts: Facts) -> list[str]:
    """Return what every rule of this file says of the notebook as the lesson that `facts` describe."""
    rules = (
        opens_well,
        ends_well,
        headings_begin_cells,
        exercises_are_whole,
        quizzes_are_known,
        quizzes_give_nothing_away,
        guesses_are_revealed_next,
    )
    found = [problem for rule in rules for problem in rule(notebook, facts)]
    return [*found, *numbers_are_claimed(notebook), *bounds_are_written_out(notebook)]
