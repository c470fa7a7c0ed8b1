"""What a student does with an exercise: check a solution, ask for a hint, see ours.

Nothing here raises because of the student's code, so a notebook with unsolved exercises runs to its end.
"""

import functools
import inspect
import linecache
import re
import traceback
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import Incorrect, NotAttempted, Specification, describe, load_exercise
from peft_lessons.classroom.output.cards import Card
from peft_lessons.classroom.output.show import Source


def exercise(exercise_id: str) -> "Exercise":
    """The exercise with this id, such as "03-merge"; ValueError that lists the ids when there is none."""
    return Exercise(load_exercise(exercise_id))


class Exercise:
    """One exercise: `check`, `hint` and `solution`; as a cell's value it shows its task."""

    def __init__(self, specification: Specification) -> None:
        self._specification = specification
        self._hints_given = 0

    def assess(self, student: Any) -> tuple[str, str]:
        """The outcome for `student`, a function or class, and what to tell them; nothing is shown or noted."""
        return assess(self._specification, student)

    def check(self, student: Any) -> None:
        """Show whether `student`, a function or class, solves the exercise, and note the outcome."""
        outcome, message = self.assess(student)
        notice = progress.record(self._specification.id, "exercise", outcome, message)
        self._card(outcome, outcome, message, notice)

    def hint(self) -> None:
        """Show the next hint; after the last one, that one again."""
        hints = self._specification.hints
        number = min(self._hints_given + 1, len(hints))
        self._hints_given = number
        notice = progress.record(self._specification.id, "hint", "shown", str(number))
        last = "" if number < len(hints) else "This was the last hint; `.solution()` shows our way."
        self._card("note", f"hint {number} of {len(hints)}", hints[number - 1], last, notice)

    def solution(self) -> None:
        """Show the reference solution."""
        notice = progress.record(self._specification.id, "solution", "shown")
        display(Source(f"Exercise {self._specification.id}, one solution", self._specification.solution))
        if notice:
            self._card("note", "solution", notice)

    def _card(self, outcome: str, title: str, *lines: str) -> None:
        heading = f"Exercise {self._specification.id}: {title}"
        display(Card(outcome, heading, tuple(line for line in lines if line)))

    def __repr__(self) -> str:
        specification = self._specification
        return f"Exercise {specification.id}: {specification.title} ({specification.minutes} minutes)"

    def _repr_markdown_(self) -> str:
        return f"**{self!r}**\n\n{self._specification.task}"


def assess(specification: Specification, student: Any) -> tuple[str, str]:
    """The outcome, "correct", "incorrect" or "not attempted", and what to tell the student."""
    starter = specification.build(specification.starter)
    if student is ... or student is None or _unchanged(student, starter):
        return "not attempted", "Replace the `...` in the cell above with your code, then run both cells again."
    if inspect.isclass(starter) and not inspect.isclass(student) and type(student).__module__ != "builtins":
        return "incorrect", "Pass the class itself, not an object of it."
    if not callable(student):
        return "incorrect", f"`check` takes your function or class itself, it was given {describe(student)}."
    try:
        specification.check(_watched(student))
    except NotAttempted:
        return "not attempted", "There is still a `...` in what your code returns."
    except Incorrect as reason:
        return "incorrect", _sentence(str(reason))
    except Exception as error:
        return "incorrect", _explain(error, student)
    return "correct", "All cases agree."


def _sentence(message: str) -> str:
    """`message` with a capital and a full stop; a code span or an identifier at its beginning keeps its case."""
    if re.match(r"[a-z]+(?![\w.(\[])", message):
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "?", "!")) else message + "."


def _watched(student: Any) -> Any:
    """A function as it is, but for an Ellipsis that it returns; a class, whose methods the check calls, unwatched."""
    if not inspect.isfunction(student):
        return student

    @functools.wraps(student)
    def watched(*arguments: Any, **options: Any) -> Any:
        returned = student(*arguments, **options)
        if returned is ...:
            raise NotAttempted
        return returned

    return watched


def _unchanged(student: Any, starter: Any) -> bool:
    """Whether student and starter compile to the same code, whatever their comments and blank lines."""
    return _fingerprint(student) == _fingerprint(starter)


def _fingerprint(obj: Any) -> Any:
    if inspect.isclass(obj):
        return {name: _fingerprint(value) for name, value in vars(obj).items() if inspect.isfunction(value)}
    code = getattr(obj, "__code__", None)
    return _code_fingerprint(code, obj.__doc__) if code else id(obj)


def _code_fingerprint(code: CodeType, doc: str | None = None) -> tuple[Any, ...]:
    constants = [
        _code_fingerprint(constant) if isinstance(constant, CodeType) else constant
        for constant in code.co_consts
        if constant is not None and constant != doc
    ]
    return (code.co_name, code.co_code, code.co_names, code.co_varnames, constants)


def _explain(error: Exception, student: Any) -> str:
    """An exception in words: what it says, the student's line that raised it, and the arguments that led there."""
    summary = re.sub(r"\b0x[0-9a-fA-F]+", "0x…", "".join(traceback.format_exception_only(error)).strip())
    trace = list(traceback.walk_tb(error.__traceback__))
    codes = _codes(student)
    start = next((index for index, (frame, _) in enumerate(trace) if frame.f_code in codes), None)
    if start is None:
        return f"The check could not work with what your code returned or expects: {summary}"
    first = trace[start][0]
    files = {code.co_filename for code in codes}
    last, line = [entry for entry in trace[start:] if entry[0].f_code.co_filename in files][-1]
    source = linecache.getline(last.f_code.co_filename, line).strip()
    place = f"\nin the line `{source}`" if source else ""
    return f"Your code raised {summary}{place}\nAt that point {_arguments(first)}"


def _codes(student: Any) -> list[CodeType]:
    functions: list[Callable] = list(vars(student).values()) if inspect.isclass(student) else [inspect.unwrap(student)]
    return [function.__code__ for function in functions if hasattr(function, "__code__")]


def _arguments(frame: FrameType) -> str:
    """The arguments of the student's call as they stood when it failed."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [
        f"{name} = {describe(frame.f_locals[name])}" for name in names if name in frame.f_locals and name != "self"
    ]
    return ", ".join(given) or "there were no arguments"
