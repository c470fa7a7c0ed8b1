"""What shall the model predict?

A picture x and noise ε are joined by a straight line, x_t = (1 − t) ε + t x: noise at t = 0, the picture at t = 1.
Write `my_loss(velocity, images, noise, times)`: the mean over all pixels of (v − (x − ε))², where v is what the model
says at the points x_t, `velocity(x_t, times)`. `images` and `noise` are (batch, size, size), `times` is (batch,): each
picture of a batch has a time of its own.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peft_lessons.classroom.exercises.cases import Case, compare

TITLE = "A straight line from noise to letter"
MINUTES = 6

STARTER = '''\
def my_loss(velocity, images, noise, times):
    """Mean of (v − (x − ε))² at x_t = (1 − t) ε + t x"""
    return ...
'''

HINTS = [
    "Every picture of the batch has a time of its own: `t = times[:, None, None]` fits (batch, size, size).",
    "`between = (1 - t) * noise + t * images` are the points on the lines. What does the model say there?",
    "`v = velocity(between, times)`, and `((v - (images - noise)) ** 2).mean()`.",
]

SOLUTION = '''\
def my_loss(velocity, images, noise, times):
    """Mean of (v − (x − ε))² at x_t = (1 − t) ε + t x"""
    t = times[:, None, None]
    between = (1 - t) * noise + t * images
    return ((velocity(between, times) - (images - noise)) ** 2).mean()
'''

RIGHT = {
    "torch's functions": """\
def my_loss(velocity, images, noise, times):
    between = torch.lerp(noise, images, times.view(-1, 1, 1))
    return torch.nn.functional.mse_loss(velocity(between, times), images - noise)
""",
    "from the noise on": """\
def my_loss(velocity, images, noise, times):
    way = images - noise
    there = noise + times.reshape(len(times), 1, 1) * way
    return (velocity(there, times) - way).square().mean()
""",
    "picture by picture": """\
def my_loss(velocity, images, noise, times):
    points = torch.stack([(1 - t) * e + t * x for x, e, t in zip(images, noise, times)])
    errors = velocity(points, times) - images + noise
    return (errors * errors).sum() / errors.numel()
""",
}

_WRONG = """\
def my_loss(velocity, images, noise, times):
    t = times[:, None, None]
    between = {between}
    return {loss}
"""
_BETWEEN, _LOSS = "(1 - t) * noise + t * images", "((velocity(between, times) - (images - noise)) ** 2).mean()"
WRONG = {
    "runs backwards": (
        _WRONG.format(between="(1 - t) * images + t * noise", loss=_LOSS),
        "at t = 0 this is the picture, and at t = 1 the noise; here time runs from noise to picture",
    ),
    "aims at the noise": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - (noise - images)) ** 2).mean()"),
        "noise less picture leads away from the picture; the velocity is x − ε",
    ),
    "aims at the picture": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - images) ** 2).mean()"),
        "this asks for the picture itself; wanted is the way there, x − ε",
    ),
    "asks for the noise": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - noise) ** 2).mean()"),
        "this asks for the noise, as older diffusion models do; here the model says the velocity, x − ε",
    ),
    "aims from where it is": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - (images - between)) ** 2).mean()"),
        "x − x_t is the way that is left; the velocity is the whole way, x − ε, at every point of the line",
    ),
    "adds noise to the picture": (
        _WRONG.format(between="images + (1 - t) * noise", loss=_LOSS),
        "the picture must fade in as the noise fades out: it is weighed by t",
    ),
    "asks at the picture": (
        _WRONG.format(between="images", loss=_LOSS),
        "the model is asked at the picture itself, not at a point between",
    ),
    "asks at the noise": (
        _WRONG.format(between="noise", loss=_LOSS),
        "the model is asked at the noise itself, not at a point between",
    ),
    "sums": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - (images - noise)) ** 2).sum()"),
        "this is the sum over all pixels; wanted is their mean",
    ),
    "sums over pixels": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - (images - noise)) ** 2).sum((1, 2)).mean()"),
        "this sums over the pixels of a picture; wanted is the mean over all pixels of all pictures",
    ),
    "does not square": (
        _WRONG.format(between=_BETWEEN, loss="(velocity(between, times) - (images - noise)).abs().mean()"),
        "this is the mean of absolute errors; wanted are squares",
    ),
    "one time for all": (
        _WRONG.format(between="(1 - times[0]) * noise + times[0] * images", loss=_LOSS),
        "this uses the first time for all pictures; each has its own",
    ),
    "a loss for each picture": (
        _WRONG.format(between=_BETWEEN, loss="((velocity(between, times) - (images - noise)) ** 2).mean((1, 2))"),
        "it should have shape ()",
    ),
}


def check(student: Callable[..., Any]) -> None:
    compare(student, [_case(1, 2), _case(2, 4), _case(3, 3), _case(4, 4)], WRONG)


def bent(points: Tensor, times: Tensor) -> Tensor:
    """A velocity that depends on point and time, so that a wrong one of either shows."""
    return torch.tanh(3 * points) - times[:, None, None]


def _case(batch: int, size: int) -> Case:
    generator = torch.Generator().manual_seed(10 * batch + size)
    images, noise = (torch.randn(batch, size, size, generator=generator) for _ in range(2))
    times = torch.rand(batch, generator=generator)
    t = times[:, None, None]
    expected = ((bent((1 - t) * noise + t * images, times) - (images - noise)) ** 2).mean()
    words = f"{batch} picture{'s' * (batch > 1)} of {size} × {size}"
    return Case((bent, images, noise, times), expected, words)
