"""Claims: a sentence of a lesson beside the number that was just measured, and what the number must be.

`claim` shows a small card when the sentence holds and raises `ClaimError` when it does not, so a lesson whose numbers
have gone wrong cannot run to its end.
"""

import math
from decimal import Decimal
from numbers import Real
from typing import Any

from IPython.display import display

from peft_lessons.classroom.output.cards import Card

Number = int | float


class ClaimError(AssertionError):
    """The sentence does not hold for the value that was measured."""


def claim(
    sentence: str,
    measured: Any,
    *,
    equals: Any = None,
    within: Any = None,
    at_most: Any = None,
    at_least: Any = None,
    between: tuple[Any, Any] | None = None,
    source: str | None = None,
) -> None:
    """Show that `sentence` holds for `measured`, or raise.

    Exactly one bound is given: `equals` (with `within`, an absolute tolerance in the same unit, for anything that is
    not an integer or a bool; 0 asks for exact equality), `at_most`, `at_least`, or `between` (both ends included).
    `measured` and the bounds are ints, floats, bools, or tensors and arrays of one element. `source` is where the
    expected value comes from; a claim about the lesson's own measurement alone needs none.

    The card prints "measured <number>", the only part that may differ between machines, and what was expected, with
    four significant digits, or with more where a tolerance needs them.

    Raises `ClaimError` when the sentence does not hold (NaN never holds), ValueError or TypeError for a claim that
    could not be checked.
    """
    if not isinstance(sentence, str) or not sentence.strip():
        raise ValueError(f"a claim needs a sentence, got {sentence!r}")
    if source is not None and not source.strip():
        raise ValueError("source is empty: name where the expected value comes from, or leave source out")
    value = _number("measured", measured)
    holds, expected = _compare(value, equals, within, at_most, at_least, between)
    shown = _show(value, None if within is None else _number("within", within))
    if not holds:
        origin = f" ({source})" if source else ""
        raise ClaimError(f"this does not hold: {sentence!r}: measured {shown}, expected {expected}{origin}")
    facts = [f"measured {shown}", f"expected {expected}", *([source] if source else [])]
    display(Card("correct", sentence, (" · ".join(facts),)))


def _compare(
    value: Number, equals: Any, within: Any, at_most: Any, at_least: Any, between: tuple[Any, Any] | None
) -> tuple[bool, str]:
    """Whether the one bound that was given holds for `value`, and the bound in words."""
    bounds = {"equals": equals, "at_most": at_most, "at_least": at_least, "between": between}
    given = [name for name, bound in bounds.items() if bound is not None]
    if len(given) != 1:
        raise ValueError(
            f"a claim needs exactly one of equals, at_most, at_least and between, got {' and '.join(given) or 'none'}"
        )
    if within is not None and equals is None:
        raise ValueError(f"within= is the tolerance of equals=; it says nothing beside {given[0]}=")
    if at_most is not None:
        high = _bound("at_most", at_most)
        return value <= high, f"at most {_show(high)}"
    if at_least is not None:
        low = _bound("at_least", at_least)
        return value >= low, f"at least {_show(low)}"
    if between is not None:
        low, high = (_bound("between", end) for end in between)
        if low > high:
            raise ValueError(f"between=({_show(low)}, {_show(high)}) is empty: give the lower end first")
        return low <= value <= high, f"between {_show(low)} and {_show(high)}"
    target = _bound("equals", equals)
    if within is None:
        if isinstance(target, float) or isinstance(value, float):
            raise ValueError("a float is compared within a tolerance: give within=, or within=0 for exact equality")
        return value == target, _show(target)
    tolerance = _bound("within", within)
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"within= must be at least 0 and finite, got {tolerance}")
    holds = value == target or abs(value - target) <= tolerance
    shown = _show(target, tolerance)
    return holds, f"{shown} ± {_show(tolerance)}" if tolerance else f"exactly {shown}"


def _number(name: str, value: Any) -> Number:
    """`value` as a Python number; tensors and arrays of one element count as their element."""
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) != 1:
        raise TypeError(f"{name} must be one number, got {type(value).__name__} of shape {tuple(shape)}")
    number = value.item() if hasattr(value, "item") else value
    if not isinstance(number, Real):
        raise TypeError(f"{name} must be a number or a tensor of one element, got {type(number).__name__}")
    return number if isinstance(number, int) else float(number)


def _bound(name: str, value: Any) -> Number:
    number = _number(name, value)
    if math.isnan(number):
        raise ValueError(f"{name} is NaN, which nothing can satisfy")
    return number


def _show(number: Number, tolerance: Number | None = None) -> str:
    """Bools as they are, integers in full with thousands separated, floats with four significant digits.

    With a tolerance, a float has as many more as reach the tolerance's last digit; with a tolerance of 0, all it needs.
    """
    if isinstance(number, bool):
        return str(number)
    if isinstance(number, int):
        return f"{number:,}"
    digits = 4
    if tolerance == 0:
        digits = next((digits for digits in range(4, 17) if float(f"{number:.{digits}g}") == number), 17)
    elif tolerance and number and math.isfinite(number):
        last_place = int(Decimal(f"{tolerance:.4g}").as_tuple().exponent)
        digits = min(max(4, math.floor(math.log10(abs(number))) - last_place + 1), 17)
    return f"{number:.{digits}g}"
