"""One step towards a letter.

Drawing begins with noise x at time 0 and follows the velocity to time 1 in small steps of equal length. Write
`my_step(velocity, x, time, step)`: from the pictures x (batch, size, size) at `time`, those at `time + step`, when each
moves with the velocity that the model says *at this time*: `velocity(x, times)` wants the pictures and a tensor of
times, one for each picture. `time` and `step` are numbers with a decimal point. Do not change `x` itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "One step of Euler's"
MINUTES = 4

STARTER = '''\
def my_step(velocity, x, time, step):
    """Pictures at `time` → pictures at `time + step`"""
    return ...
'''

HINTS = [
    "Where is something that is at x and moves with velocity v for the time `step`?",
    "`times = torch.full((len(x),), time)` are the times, one for each picture.",
    "`x + step * velocity(x, times)`.",
]

SOLUTION = '''\
def my_step(velocity, x, time, step):
    """Pictures at `time` → pictures at `time + step`"""
    times = torch.full((len(x),), time)
    return x + step * velocity(x, times)
'''

RIGHT = {
    "times by another way": """\
def my_step(velocity, x, time, step):
    return x.add(velocity(x, time * torch.ones(x.shape[0])), alpha=step)
""",
    "a list of times": """\
def my_step(velocity, x, time, step):
    moved = velocity(x, torch.tensor([time for _ in x])) * step
    return moved + x
""",
    "a new tensor, filled": """\
def my_step(velocity, x, time, step):
    new = x.clone()
    new += step * velocity(x, x.new_full((x.size(0),), time))
    return new
""",
}

_WRONG = "def my_step(velocity, x, time, step):\n    {}\n"
_AT = "torch.full((len(x),), {})"
WRONG = {
    "goes back": (
        _WRONG.format(f"return x - step * velocity(x, {_AT.format('time')})"),
        "this moves away from the letter: add the step, do not subtract it",
    ),
    "goes all the way": (
        _WRONG.format(f"return x + velocity(x, {_AT.format('time')})"),
        "this moves for a whole unit of time; the step is shorter",
    ),
    "goes to the end": (
        _WRONG.format(f"return x + (1 - time) * velocity(x, {_AT.format('time')})"),
        "this moves for all the time that is left; wanted is one step",
    ),
    "asks at the end of the step": (
        _WRONG.format(f"return x + step * velocity(x, {_AT.format('time + step')})"),
        "this asks for the velocity at the end of the step; Euler's method asks at its beginning",
    ),
    "asks in the middle of the step": (
        _WRONG.format(f"return x + step * velocity(x, {_AT.format('time + step / 2')})"),
        "this asks for the velocity in the middle of the step; Euler's method asks at its beginning",
    ),
    "asks at the length of the step": (
        _WRONG.format(f"return x + step * velocity(x, {_AT.format('step')})"),
        "the model is asked at time `step`; it is `time` now",
    ),
    "steps for so long as time has passed": (
        _WRONG.format(f"return x + time * velocity(x, {_AT.format('time')})"),
        "this moves for as long as has passed already; the step is `step`",
    ),
    "gives the velocity": (
        _WRONG.format(f"return velocity(x, {_AT.format('time')})"),
        "this is the velocity; the pictures have moved with it, for the time of the step",
    ),
    "gives the movement": (
        _WRONG.format(f"return step * velocity(x, {_AT.format('time')})"),
        "this is by how much they move; it comes on top of where they were",
    ),
    "shrinks what was": (
        _WRONG.format(f"return (1 - step) * x + step * velocity(x, {_AT.format('time')})"),
        "this mixes place and velocity; where they were counts in full",
    ),
}


def bent(points: Tensor, times: Tensor) -> Tensor:
    """A velocity that depends on point and time, so that a wrong one of either shows."""
    return torch.tanh(points) - 3 * times[:, None, None]


def check(student: Callable[..., Any]) -> None:
    compare(student, [_case(*each) for each in ((1, 2, 0.6, 0.3), (2, 3, 0.0, 0.1), (3, 2, 0.7, 0.3))], WRONG)


def _case(batch: int, size: int, time: float, step: float) -> Case:
    x = torch.randn(batch, size, size, generator=torch.Generator().manual_seed(batch))
    expected = x + step * bent(x, torch.full((batch,), time))
    words = f"{batch} picture{'s' * (batch > 1)} at time {time} and a step of {step}"
    return Case((bent, x, time, step), expected, words)
