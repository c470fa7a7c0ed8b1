"""What a student does with an exercise: check a solution, ask for a hint, see ours.

Nothing here raises because of the student's code, so a notebook with unsolved exercises runs to its end.
"""

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from IPython.display import display

from peft_lessons.classroom import progress
from peft_lessons.classroom.exercises import Incorrect, NotAttempted, Specification, describe, load_exercise
from peft_lessons.classroom.exercises.watched import watched
from peft_lessons.classroom.output.cards import Card
from peft_lessons.classroom.output.show import Source
from peft_lessons.classroom.widgets.exercise_card import ExerciseCard

NOTHING = object()  # what a call without an argument passes


def exercise(exercise_id: str) -> "Exercise":
    """Return the exercise with this id, such as "03-merge"; raise ValueError that lists the ids when there is none."""
    return Exercise(load_exercise(exercise_id))


class Exercise:
    """One exercise: `check`, `hint`, `solution` and `use`; as a cell's value it shows its task."""

    def __init__(self, specification: Specification) -> None:
        self._specification = specification
        self._hints_given = 0

    @property
    def id(self) -> str:
        return self._specification.id

    @property
    def hints_in_all(self) -> int:
        return len(self._specification.hints)

    def assess(self, student: Any) -> tuple[str, str]:
        """Return the outcome for `student`, a function or class, and what to tell them; show and note nothing."""
        return assess(self._specification, student)

    def check(self, student: Any = NOTHING, *others: Any) -> None:
        """Show a card that says whether `student`, a function or class, solves the exercise, and note the outcome.

        The card checks again whenever the student's cell has run, and has buttons for hints and our solution.
        """
        given = NOTHING if others else student
        name = self._specification.build(self._specification.starter).__name__
        display(ExerciseCard(self, given, self.judged(given), name))

    def use(self, student: Any) -> Any:
        """Return `student` if it solves the exercise, else our solution, and say which: later cells run with it."""
        outcome, _ = self.assess(student)
        if outcome == "correct":
            print(f"Yours: `{student.__name__}` has passed its check, and runs here.")
            return student
        print("Ours: as soon as yours passes its check, yours runs here.")
        return self._specification.build(self._specification.solution)

    def hint(self) -> None:
        """Show the next hint; after the last one, that one again."""
        text, notice = self.next_hint()
        last = "" if self._hints_given < self.hints_in_all else "This was the last hint; `.solution()` shows our way."
        display(self._card("note", f"hint {self._hints_given} of {self.hints_in_all}", text, last, notice))

    def solution(self) -> None:
        """Show the reference solution."""
        source, notice = self.our_solution()
        display(source)
        if notice:
            display(self._card("note", "solution", notice))

    def judged(self, student: Any) -> Card:
        """Assess `student`, note the outcome, and return the card that says it."""
        outcome, message = self.assess(student)
        return self._card(outcome, outcome, message, progress.record(self.id, "exercise", outcome, message))

    def next_hint(self) -> tuple[str, str]:
        """Return the next hint, or the last one again, and what to say about the progress; note that it was shown."""
        self._hints_given = min(self._hints_given + 1, self.hints_in_all)
        notice = progress.record(self.id, "hint", "shown", str(self._hints_given))
        return self._specification.hints[self._hints_given - 1], notice

    def our_solution(self) -> tuple[Source, str]:
        """Return the reference solution, and what to say about the progress; note that it was shown."""
        notice = progress.record(self.id, "solution", "shown")
        return Source(f"Exercise {self.id}, one solution", self._specification.solution), notice

    def _card(self, outcome: str, title: str, *lines: str) -> Card:
        return Card(outcome, f"Exercise {self.id}: {title}", tuple(line for line in lines if line))

    def __repr__(self) -> str:
        specification = self._specification
        return f"Exercise {specification.id}: {specification.title} ({specification.minutes} minutes)"

    def _repr_markdown_(self) -> str:
        return f"**{self!r}**\n\n{self._specification.task}"


def assess(specification: Specification, student: Any) -> tuple[str, str]:
    """Return the outcome, "correct", "incorrect" or "not attempted", and what to tell the student."""
    starter = specification.build(specification.starter)
    if student is NOTHING:
        return "not attempted", f"`check` takes one thing, {_asked(starter)} itself: `.check({starter.__name__})`."
    if student is ... or student is None or _unchanged(student, starter):
        if "..." in specification.starter:
            return "not attempted", "Replace the `...` in the cell above with your code, then run both cells again."
        return "not attempted", "Repair what stands in the cell above, then run both cells again."
    if wrong := _wrong_thing(student, starter):
        return "incorrect", wrong
    try:
        with _torch_as_it_was():
            specification.check(watched(student, starter))
    except NotAttempted:
        return "not attempted", "There is still a `...` in what your code returns."
    except Incorrect as reason:
        return "incorrect", _sentence(str(reason))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if isinstance(error, TypeError) and "ellipsis" in str(error):
            return "not attempted", "There is still a `...` in your code: " + _explain(error, student)
        return "incorrect", _explain(error, student)
    return "correct", "All cases agree."


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Undo at the end what the code inside does to torch's state; `torch.empty` makes NaN inside, not chance."""
    mode = torch.get_deterministic_debug_mode()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)


def _asked(starter: Any) -> str:
    return f"your {'class' if inspect.isclass(starter) else 'function'} `{starter.__name__}`"


def _wrong_thing(student: Any, starter: Any) -> str:
    """Say what is wrong with `student` as the thing to check; return "" when it can be tried."""
    if inspect.isclass(starter) and not inspect.isclass(student) and type(student).__module__ != "builtins":
        return "Pass the class itself, not an object of it."
    name = starter.__name__
    if not callable(student):
        given = f"it was given {describe(student)}"
        return f"`check` takes {_asked(starter)} itself, `.check({name})` without more brackets; {given}."
    if inspect.isclass(student) and not inspect.isclass(starter):
        return f"`check` takes {_asked(starter)}, it was given the class `{student.__name__}`."
    return ""


def _sentence(message: str) -> str:
    """`message` with a capital and a full stop; a code span or an identifier at its beginning keeps its case."""
    if re.match(r"[a-z]+(?![\w.(\[])", message):
        message = message[0].upper() + message[1:]
    return message if message.endswith((".", "?", "!")) else message + "."


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


PLAIN = {  # what an error says → what that means here
    "math domain error": "a root or logarithm was taken of a number below zero",
    "Boolean value of Tensor": "a whole tensor stands where one yes or no is needed, as in `if`, `in` or `==` of lists",
    "invalid value encountered in cast": "0 / 0 is NaN, and which integer a NaN becomes depends on the machine",
    "maximum recursion depth": "your function calls itself without an end",
    "to numpy() on Tensor that requires grad": "stay in torch: through NumPy no gradient comes back",
}


def _explain(error: BaseException, student: Any) -> str:
    """Put an exception in words: what it says, the student's line that raised it, and the arguments that led there."""
    if isinstance(error, SystemExit):
        return "Your code calls `sys.exit()`, `exit()` or `quit()`, which ends Python: leave a function with `return`."
    lines = traceback.format_exception_only(error)
    summary = re.sub(r"\b0x[0-9a-fA-F]+", "0x…", lines[0].strip())
    meaning = getattr(error, "__notes__", []) or [plain for said, plain in PLAIN.items() if said in summary]
    summary += "".join(f"\nThat is: {part}" for part in meaning)
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
    """List the arguments of the student's call as they stood when it failed."""
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    given = [
        f"{name} = {describe(frame.f_locals[name])}" for name in names if name in frame.f_locals and name != "self"
    ]
    return ", ".join(given) or "there were no arguments"
