"""Try a student's function on cases, and say of the first that fails which mistake explains the result.

A mistake is known by what it does: where the student's result is wrong, each of the exercise's WRONG solutions runs on
the same arguments, and the one that does the same gives the reason. When several do, the one that stays the same on the
most other cases is meant.
"""

import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, build, describe, number_of, require_tensor

TOLERANCE = 1e-4  # float32 is right; bfloat16 and half are not


@dataclass(frozen=True)
class Case:
    """Arguments, what is right for them, and how the message calls them: "n = 10 and rank 1"."""

    arguments: tuple[Any, ...]
    expected: Any
    words: str
    right: Callable[[Any, Any], bool] | None = None  # when more than one result is right: (returned, expected) → bool


def compare(
    student: Callable[..., Any],
    cases: Iterable[Case],
    wrong: Mapping[str, tuple[str, str]],
    parts: tuple[str, ...] = ("the result",),
    read: Callable[[Any, Case], Any] = lambda returned, case: returned,
    tolerance: float = TOLERANCE,
) -> None:
    """Nothing, if `student` is right in all cases; otherwise `Incorrect` for the first in which it is not.

    `parts` says what the function returns: one thing, or the things of a tuple. `read` brings what was returned into
    the form of the expected result, or raises `Incorrect`. `tolerance` is relative, to the largest entry of a tensor.
    """
    trial = _Trial(
        student, list(cases), [(build(source), reason) for source, reason in wrong.values()], read, tolerance
    )
    for case in trial.cases:
        did = trial.done(student, case)
        if isinstance(did.error, Incorrect | NotAttempted):
            raise did.error
        if trial.right(did, case):
            continue
        reason = trial.reason(did, case)
        if did.error is not None:
            if reason:
                did.error.add_note(reason)
            raise did.error
        if not reason:
            _require_kind(did.result, case, parts)
        said = _difference(did.result, case.expected, parts)
        raise Incorrect(f"for {case.words} {said}" + (f": {reason}" if reason else ""))


def agree(one: Any, other: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two results are the same, as exactly as float32 can say."""
    if isinstance(other, Tensor):
        return isinstance(one, Tensor) and _agree_tensors(one, other, tolerance)
    if isinstance(other, Mapping):
        return (
            isinstance(one, Mapping)
            and one.keys() == other.keys()
            and all(agree(one[key], other[key], tolerance) for key in other)
        )
    if isinstance(other, list | tuple):
        same_length = isinstance(one, list | tuple) and len(one) == len(other)
        return same_length and all(agree(a, b, tolerance) for a, b in zip(one, other, strict=True))
    a, b = number_of(one), number_of(other)
    if a is None or b is None:
        return a is None and b is None and type(one) is type(other) and bool(one == other)
    if a != a or b != b:
        return a != a and b != b
    if isinstance(b, numbers.Integral):
        return a == b
    return bool(abs(a - b) <= tolerance * abs(b) + 1e-9)


def _agree_tensors(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not other.is_floating_point():
        return torch.equal(one, other)
    a, b = one.detach().double(), other.detach().double()
    if not torch.equal(a.isfinite(), b.isfinite()):
        return False
    a, b = a[a.isfinite()], b[b.isfinite()]
    return a.numel() == 0 or bool((a - b).abs().max() <= tolerance * b.abs().max())


@dataclass(frozen=True)
class _Done:
    """What a call did: its result, or the error that it raised."""

    result: Any = None
    error: Exception | None = None

    def like(self, other: "_Done") -> bool:
        if self.error is None and other.error is None:
            return agree(self.result, other.result)
        return type(self.error) is type(other.error) and str(self.error) == str(other.error)


@dataclass(frozen=True)
class _Trial:
    student: Callable[..., Any]
    cases: list[Case]
    mistakes: list[tuple[Callable[..., Any], str]]  # with the reason to give
    read: Callable[[Any, Case], Any]
    tolerance: float

    def done(self, function: Callable[..., Any], case: Case) -> _Done:
        try:
            return _Done(self.read(function(*map(_copy, case.arguments)), case))
        except Exception as error:
            return _Done(error=error)

    def right(self, did: _Done, case: Case) -> bool:
        if did.error is not None:
            return False
        if case.right:
            return case.right(did.result, case.expected)
        return agree(did.result, case.expected, self.tolerance)

    def reason(self, did: _Done, case: Case) -> str:
        """Why the student did this: the reason of the mistake that does the same; "" when none does."""
        same = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a mistake warns of is not the student's
            for mistake, reason in self.mistakes:
                done = self.done(mistake, case)
                if done.like(did) and not self.right(done, case):
                    same.append((mistake, reason))
            if len(same) > 1:
                everywhere = [(other, self.done(self.student, other)) for other in self.cases]
                same.sort(key=lambda pair: -sum(self.done(pair[0], other).like(done) for other, done in everywhere))
        return same[0][1] if same else ""


def _copy(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return argument.clone()
    if isinstance(argument, dict):
        return {key: _copy(value) for key, value in argument.items()}
    return type(argument)(map(_copy, argument)) if isinstance(argument, list | tuple) else argument


def _require_kind(returned: Any, case: Case, parts: tuple[str, ...]) -> None:
    """Raise `Incorrect` when what came back is not even of the right kind: another type, shape, dtype or number."""
    returned, expected, names = [returned], [case.expected], [f"for {case.words} {parts[0]}"]
    if len(parts) > 1:
        (pair,), (wanted,) = returned, expected
        if not isinstance(pair, tuple | list) or len(pair) != len(parts):
            given = f"{len(pair)} things" if isinstance(pair, tuple | list) else describe(pair)
            things = f"{len(parts)} things, {' and '.join(parts)}"
            raise Incorrect(f"for {case.words} you return {given}{_return(pair)}; return {things}")
        returned, expected, names = list(pair), list(wanted), [f"for {case.words} {part}" for part in parts]
    for value, right, name in zip(returned, expected, names, strict=True):
        if isinstance(right, Tensor):
            require_tensor(value, tuple(right.shape), right.dtype, name, plural=name.endswith("s"))
        elif isinstance(right, int | float) and number_of(value) is None:
            raise Incorrect(f"{name} is {describe(value)}{_return(value)}, it should be a number")


def _return(value: Any) -> str:
    return " (is there a `return` on every way through?)" if value is None else ""


def _difference(returned: Any, expected: Any, parts: tuple[str, ...]) -> str:
    """Say what came back and what should have."""
    if len(parts) > 1 and isinstance(returned, tuple | list) and len(returned) == len(parts):
        off = [i for i in range(len(parts)) if not agree(returned[i], expected[i])] or [0]
        told = [(parts[i], *_differing(returned[i], expected[i])) for i in off]
        got = " and ".join(f"{part} {value}" for part, value, _ in told)
        return f"you return {got}; right is {' and '.join(right for *_, right in told)}"
    got, right = _differing(returned, expected)
    return f"you return {got}, it should be {right}"


def _differing(returned: Any, expected: Any) -> tuple[str, str]:
    """Say what came back and what should have, in words, for large things at the place where they differ most."""
    got, right = alike(returned, expected)
    if isinstance(returned, Mapping) and isinstance(expected, Mapping):
        for key in expected:
            if key not in returned:
                return f"without {key!r}, but {', '.join(map(repr, list(returned)[:2]))}, …", f"{key!r}"
            if not agree(returned[key], expected[key]):
                got, right = _differing(returned[key], expected[key])
                return f"{key!r}: {got}", f"{key!r}: {right}"
        return f"with {next(key for key in returned if key not in expected)!r}", "none such"
    if isinstance(returned, Tensor) and isinstance(expected, Tensor) and got == right:
        off = (returned.detach().double() - expected.double()).abs().nan_to_num(torch.inf)
        place = tuple(int(i) for i in torch.unravel_index(off.argmax(), off.shape))
        value, wanted = alike(returned[place], expected[place])
        return f"{got} with {value} at {list(place)}", f"{wanted} there"
    return got, right


def _with_dtype(tensor: Tensor) -> str:
    return describe(tensor) + f" in {str(tensor.dtype).removeprefix('torch.')}" * (tensor.numel() <= 9)


def alike(returned: Any, expected: Any) -> tuple[str, str]:
    """Both in words, numbers with as many decimals as show a difference, the same for both."""
    if isinstance(returned, Tensor) and isinstance(expected, Tensor):
        if returned.shape != expected.shape:
            return f"a tensor of shape {tuple(returned.shape)}", f"one of shape {tuple(expected.shape)}"
        if returned.dtype != expected.dtype:
            return _with_dtype(returned), _with_dtype(expected)
    a, b = number_of(returned), number_of(expected)
    if a is None or b is None or isinstance(a, complex) or not (math.isfinite(a) and math.isfinite(b)):
        return describe(returned), describe(expected)
    if a == int(a) and b == int(b):
        return f"{int(a):,}", f"{int(b):,}"
    first = max(3, 3 - math.floor(math.log10(abs(b)))) if b else 3
    for decimals in range(first, first + 15):
        shown = f"{a:,.{decimals}f}", f"{b:,.{decimals}f}"
        if shown[0] != shown[1]:
            break
    return shown
