"""A student's function or class, watched: what goes wrong around a call, whatever the exercise asks.

The check of an exercise sees results. Here is seen what no result shows, or shows as something else: a call that takes
other arguments, an argument that the code changed, a result that was printed and not returned, a `...` left over.
"""

import functools
import inspect
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch

from peft_lessons.classroom.exercises import Incorrect, NotAttempted, describe


def watched(student: Any, starter: Any) -> Callable[..., Any]:
    """`student`, for a check to call; each call raises the outcome for what it sees. `starter` names the arguments."""
    if not inspect.isclass(student):
        return functools.wraps(student)(lambda *given: _call(student, given, parameters(starter), "the check"))

    def made(*given: Any) -> Any:
        names = parameters(starter)
        made = _call(student, given, names, "the check", freezing=True)
        if any(value is ... for value in getattr(made, "__dict__", {}).values()):
            raise NotAttempted
        if isinstance(made, torch.nn.Module):
            forward = made.forward
            made.forward = lambda *inputs: _call(forward, inputs, parameters(starter.forward)[1:], "calling the layer")
        return made

    return made


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters, of a class those of its `__init__`."""
    return list(inspect.signature(function).parameters)


def _call(
    function: Callable[..., Any], given: tuple[Any, ...], names: list[str], caller: str, freezing: bool = False
) -> Any:
    """Return the result of function(*given); `freezing` allows it to freeze parameters."""
    called = _names_of_arguments(function, given, names, caller)
    before = [_state(value, freezing) for value in given]
    with _printed() as printed:
        returned = function(*given)
    if _holds_ellipsis(returned):
        raise NotAttempted
    for name, was, value in zip(called, before, given, strict=True):
        if change := _change(name, was, _state(value, freezing)):
            raise Incorrect(change)
    if returned is None and printed.getvalue().strip():
        raise Incorrect("your code prints its result and returns nothing: write `return` in place of `print`")
    return returned


def _names_of_arguments(
    function: Callable[..., Any], given: tuple[Any, ...], names: list[str], caller: str
) -> list[str]:
    """Return what `function` itself calls the arguments `given`; raise `Incorrect` when it does not take so many."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some built-in functions have none
        return names
    try:
        bound = signature.bind(*given).arguments
    except TypeError:
        takes, passes = [_count(list(map(str, part))) for part in (signature.parameters.values(), names[: len(given)])]
        name = getattr(function, "__name__", "your function")
        raise Incorrect(f"`{name}` takes {takes}, {caller} passes {passes}") from None
    own = [name for name in bound if signature.parameters[name].kind is not inspect.Parameter.VAR_POSITIONAL]
    return own + names[len(own) : len(given)]


def _count(names: list[str]) -> str:
    if not names:
        return "no arguments"
    return f"{len(names)} argument{'s' * (len(names) > 1)} ({', '.join(names)})"


@contextmanager
def _printed() -> Iterator[io.StringIO]:
    """Yield what is printed inside the context; it is printed all the same, at the end."""
    heard = io.StringIO()
    try:
        with redirect_stdout(heard):
            yield heard
    finally:
        print(heard.getvalue(), end="")


def _holds_ellipsis(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_ellipsis, [*value.keys(), *value.values()]))
    return value is ... or (isinstance(value, list | tuple | set) and any(map(_holds_ellipsis, value)))


def _state(value: Any, freezing: bool) -> Any:
    """Copy what a call must leave as it is: of tensors the values, of modules also what trains."""
    if isinstance(value, torch.nn.Module):
        state = {name: _state(tensor, freezing) for name, tensor in value.state_dict().items()}
        trains = {f"{name}.requires_grad": p.requires_grad for name, p in value.named_parameters()}
        return state if freezing else state | trains
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: _state(part, freezing) for key, part in value.items()}
    return [_state(part, freezing) for part in value] if isinstance(value, list | tuple) else value


def _change(name: str, was: Any, now: Any) -> str:
    """In words what of the argument `name` differs from what it was; "" when nothing does."""
    if isinstance(was, dict) and isinstance(now, dict) and was.keys() == now.keys():
        return next(filter(None, (_change(f"{name}: {key}", was[key], now[key]) for key in was)), "")
    if _same(was, now):
        return ""
    before, after = describe(was), describe(now)
    if before == after:
        return f"`{name}`, {before}, was changed in place: after the call it has other values. Compute new ones"
    return f"`{name}` was {before} before the call and is {after} after it: it was changed in place; make a new one"


def _same(was: Any, now: Any) -> bool:
    if isinstance(was, torch.Tensor) and isinstance(now, torch.Tensor):
        same_kind = was.shape == now.shape and was.dtype == now.dtype
        return same_kind and bool(((was == now) | (was.isnan() & now.isnan())).all())
    if isinstance(was, np.ndarray):
        return np.array_equal(was, now)
    if isinstance(was, list) and isinstance(now, list):
        return len(was) == len(now) and all(map(_same, was, now))
    if isinstance(was, dict) and isinstance(now, dict):
        return list(was) == list(now) and all(_same(was[key], now[key]) for key in was)
    return type(was) is type(now) and was == now
