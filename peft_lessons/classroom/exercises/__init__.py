"""The exercises: one Python file each, read here.

The file of exercise "03-merge" is `merge.py` in the folder of lesson 03, below peft_lessons/lessons: the rest of the
id, with underscores. It holds

    its docstring   the task, in markdown
    TITLE           a few words
    MINUTES         how long a student needs
    STARTER         the source that the notebook gives to the student; it must not pass
    HINTS           at least three, from a nudge to almost the answer
    SOLUTION        the reference source, which passes
    RIGHT           name → source of a right solution of another shape, which passes as well; at least three
    WRONG           name → (source of a typical wrong solution, phrase that its message must contain)
    check(student)  returns None for a right solution, raises `Incorrect` with the smallest failing case for a wrong one

The name that STARTER, SOLUTION and every other source define (the last one, when there are several) is what a student
hands to `check`. The sources may use `torch` and `nn`, which a notebook with an exercise imports at its top. Cases go
from small to large, so that the first failure is the easiest to understand.

Most checks are a list of cases, which `compare` in `cases.py` tries. It finds the reason for a wrong result
by running the WRONG solutions on the same arguments: the phrase of the one that does the same is the reason given.
What can go wrong in any exercise is seen by `watched.py` and `exercise.py`, before a check looks at
a result: arguments that were changed, counts of arguments, printing in place of returning, a `...` left over.
Cases must tell right from nearly right: the tests try mutants of every SOLUTION, and each must fail.
"""

import functools
import importlib
import numbers
import re
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from peft_lessons.lessons.catalogue import folders


class Incorrect(Exception):  # noqa: N818 - an outcome, not an error
    """The student's solution is wrong; the message says what, with the smallest failing case."""


class NotAttempted(Exception):  # noqa: N818 - an outcome, not an error
    """The student has not written anything yet: an Ellipsis came back."""


@dataclass(frozen=True)
class Specification:
    """An exercise file, read."""

    id: str
    title: str
    minutes: int
    task: str
    starter: str
    hints: tuple[str, ...]
    solution: str
    right: dict[str, str]
    wrong: dict[str, tuple[str, str]]
    module: ModuleType

    def check(self, student: Any) -> None:
        self.module.check(student)

    def build(self, source: str) -> Any:
        """Return what this source of the exercise defines."""
        return build(source)


@functools.cache
def build(source: str) -> Any:
    """Run `source`, with torch and nn imported, and return the last function or class that it defines."""
    namespace: dict[str, Any] = {"__name__": "an exercise", "torch": torch, "nn": torch.nn}
    exec(compile(source, "<exercise>", "exec"), namespace)
    defined = [value for value in namespace.values() if getattr(value, "__module__", None) == "an exercise"]
    if not defined:
        raise ValueError(f"this source defines no function or class:\n{source}")
    return defined[-1]


def files() -> dict[str, Path]:
    """Return the file of each exercise, by its id and in alphabetical order."""
    return {
        f"{number}-{path.stem.replace('_', '-')}": path
        for number, folder in folders().items()
        for path in sorted(folder.glob("[a-z]*.py"))
    }


def exercise_ids(lesson: str | None = None) -> list[str]:
    """Return the ids of all exercises, or of one lesson's, in alphabetical order."""
    return [name for name in files() if lesson is None or name.startswith(f"{lesson}-")]


def load_exercise(exercise_id: str) -> Specification:
    """Return the exercise with this id; ValueError that lists what there is when there is none."""
    if exercise_id not in exercise_ids():
        raise ValueError(f"no exercise {exercise_id!r}; there are {', '.join(exercise_ids())}")
    path = files()[exercise_id]
    module = importlib.import_module(f"peft_lessons.lessons.{path.parent.name}.{path.stem}")
    return Specification(
        id=exercise_id,
        title=module.TITLE,
        minutes=module.MINUTES,
        task=(module.__doc__ or "").strip(),
        starter=module.STARTER,
        hints=tuple(module.HINTS),
        solution=module.SOLUTION,
        right=getattr(module, "RIGHT", {}),
        wrong=module.WRONG,
        module=module,
    )


def require_tensor(
    returned: Any, shape: tuple[int, ...], dtype: torch.dtype, name: str = "the result", plural: bool = False
) -> torch.Tensor:
    """Return `returned`, if it is a finite tensor of this shape and dtype; else raise the outcome that says what it is.

    `name` is how the message calls it, and `plural` whether that is a plural, as "the codes".
    """
    be, have, it = ("are", "have", "they") if plural else ("is", "has", "it")
    if returned is ...:
        raise NotAttempted
    if returned is None:
        raise Incorrect(f"{name} {be} None: is there a `return` on every way through?")
    if isinstance(returned, np.ndarray):
        raise Incorrect(f"{name} {be} a NumPy array, not a tensor: `torch.from_numpy(…)` makes one of it")
    if not isinstance(returned, torch.Tensor):
        raise Incorrect(f"{name} {be} {a(type(returned).__name__)}, not a tensor")
    if tuple(returned.shape) != shape:
        raise Incorrect(f"{name} {have} the shape {tuple(returned.shape)}, {it} should have {shape}")
    if returned.dtype != dtype:
        raise Incorrect(f"{name} {be} {_short(returned.dtype)}, {it} should be {_short(dtype)}")
    if not torch.isfinite(returned).all():
        raise Incorrect(f"{name} {have} values that are NaN or infinite: {describe(returned)}")
    return returned


def number_of(value: Any) -> Any:
    """Return the number that `value` is: Python's, NumPy's or a tensor with one element; None when it is no number."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic) and all(side == 1 for side in value.shape):
        value = value.item()
    return value if isinstance(value, numbers.Complex) and not isinstance(value, bool) else None


def describe(value: Any) -> str:
    """Describe a value in a few words: small tensors in full, large ones by shape and dtype."""
    if isinstance(value, torch.Tensor):
        if value.numel() <= 9:
            return str(_rounded(value.tolist()))
        return f"{a(_short(value.dtype))} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy array of shape {value.shape}"
    if isinstance(value, torch.nn.Module):
        return a(type(value).__name__)
    if isinstance(value, dict):
        text = f"{{{', '.join(f'{key!r}: {describe(part)}' for key, part in value.items())}}}"
    elif isinstance(value, tuple | list) and any(isinstance(part, torch.Tensor) for part in value):
        text = ", ".join(map(describe, value))
        text = f"({text})" if isinstance(value, tuple) else f"[{text}]"
    else:
        text = re.sub(r"\b0x[0-9a-fA-F]+", "0x…", repr(_rounded(value)))
    return text if len(text) <= 80 else text[:77] + "…"


def a(noun: str) -> str:
    """Return the noun with its article."""
    return f"{'an' if noun[:1].lower() in 'aeio' else 'a'} {noun}"


def _rounded(values: Any) -> Any:
    """Numbers, in lists of any depth, to six significant digits."""
    if isinstance(values, list | tuple) and type(values) in (list, tuple):
        return type(values)(_rounded(value) for value in values)
    return float(f"{values:.6g}") if isinstance(values, float) else values


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
