"""Prose that measures: `say` writes a paragraph whose numbers were just measured, `claim` checks a sentence behind it.

Both raise `ClaimError` when a number is not what it must be, so a lesson whose numbers have gone wrong cannot run to
its end. What was measured, what was expected and where that comes from is one click away: a line "✔ 3 numbers checked"
that opens, one below each `say` and one for all the claims of a cell.
"""

import html
import math
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Real
from typing import Any

from IPython.core.getipython import get_ipython
from IPython.display import display

from peft_lessons.classroom.output.cards import UNSEEN, inline_html, link_arxiv
from peft_lessons.classroom.output.figures import Measured
from peft_lessons.classroom.output.figures import number as figures_number

Number = int | float


class ClaimError(AssertionError):
    """The sentence does not hold for the value that was measured."""


@dataclass(frozen=True)
class Fact:
    """A number that was measured, and what it must be: `holds`, and both in words. Made by `fact`."""

    value: Number
    holds: bool
    expected: str
    exact: bool  # the same on every machine
    source: str | None
    measured: str  # the value as it is printed after "measured"

    @property
    def words(self) -> str:
        """What was measured, what was expected, and the source."""
        origin = f" ({self.source})" if self.source else ""
        return f"measured {self.measured}; expected {self.expected}{origin}"

    def __format__(self, spec: str) -> str:
        """Write the number as prose has it: exact ones in full, others with ≈ and three digits, or as `spec` says."""
        if self.exact:
            return format(self.value, spec) if spec else self.measured
        return f"≈ {format(self.value, spec)}" if spec else figures_number(Measured(self.value))


def fact(
    measured: Any,
    *,
    equals: Any = None,
    within: Any = None,
    at_most: Any = None,
    at_least: Any = None,
    between: tuple[Any, Any] | None = None,
    source: str | None = None,
) -> Fact:
    """Compare `measured` with exactly one bound, for `say`.

    Args:
        measured: an int, float or bool, or a tensor or array of one element, as are the bounds.
        equals: what it must be; a float needs `within`.
        within: the absolute tolerance of `equals`, in the same unit; 0 asks for exact equality.
        at_most, at_least: a bound on one side, itself allowed.
        between: the lowest and the highest that it may be.
        source: where the expected value comes from. The lesson's own measurement needs none.

    Raises:
        ValueError, TypeError: it could not be checked, such as when no bound is given or two are.
    """
    if source is not None and not source.strip():
        raise ValueError("source is empty: name where the expected value comes from, or leave source out")
    value = _number("measured", measured)
    holds, expected = _compare(value, equals, within, at_most, at_least, between)
    tolerance = None if within is None else _number("within", within)
    exact = equals is not None and not tolerance
    return Fact(value, holds, expected, exact, source, _show(value, tolerance))


def say(text: str, **facts: Fact) -> None:
    """Show a paragraph in which `{name}` stands for the number of the fact of that name.

        say("LoRA of rank 8 trains {lora} numbers.", lora=fact(count, equals=16_896, source="8 · (576 + 1536)"))

    Exact numbers are written in full; those with a tolerance or a bound have ≈ in front and three digits, or the digits
    of a format, as in `{share:.1f}`. The text is markdown-light: `code`, *emphasis*, paragraphs, lists that begin with
    "- ". Hovering over a number shows what was expected, and so does the line below the text, which opens.

    Raises:
        ClaimError: a number is not what it must be.
        ValueError: the text names a number that is not given, or leaves one out that is.
    """
    named = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    if named != facts.keys():
        missing, unused = sorted(named - facts.keys()), sorted(facts.keys() - named)
        raise ValueError(f"the text names {missing or 'no number'} that is not given; given and not named: {unused}")
    for name, one in facts.items():
        _require(one, text, name)
    display(Paragraph(text, facts))


def claim(sentence: str, measured: Any, **bound: Any) -> None:
    """Check that `sentence` holds for `measured`; `fact` says how `bound` is given.

    All claims of a cell appear as one line at its end, "✔ 3 numbers checked", which opens.

    Raises `ClaimError` when the sentence does not hold (NaN never holds), ValueError or TypeError for a claim that
    could not be checked.
    """
    if not isinstance(sentence, str) or not sentence.strip():
        raise ValueError(f"a claim needs a sentence, got {sentence!r}")
    one = fact(measured, **bound)
    _require(one, sentence)
    _CELL.add(sentence, one)


def _require(one: Fact, sentence: str, name: str = "") -> None:
    if not one.holds:
        raise ClaimError(f"this does not hold: {sentence!r}: {f'{name} ' if name else ''}{one.words}")


@dataclass
class _Cell:
    """The claims of the cell that runs; at its end they are shown together, outside of a notebook at once."""

    claims: list[tuple[str, Fact]] = field(default_factory=list)
    shell: Any = None

    def add(self, sentence: str, one: Fact) -> None:
        self.claims.append((sentence, one))
        shell = get_ipython()
        if shell is None:
            self.show()
        elif shell is not self.shell:
            shell.events.register("post_run_cell", self.show)
            self.shell = shell

    def show(self, _result: object = None) -> None:
        claims, self.claims = self.claims, []
        if claims:
            display(Checks(claims))


_CELL = _Cell()


class Checks:
    """A line "✔ 3 numbers checked" that opens: each sentence, what was measured, expected, and the source."""

    def __init__(self, claims: list[tuple[str, Fact]]) -> None:
        self._claims = claims

    def __repr__(self) -> str:
        lines = [line for sentence, one in self._claims for line in (f"  ✔ {sentence}", f"    {one.words}")]
        return "\n".join([self._title, *lines])

    @property
    def _title(self) -> str:
        kind = "fact" if any(isinstance(one.value, bool) for _, one in self._claims) else "number"
        return f"✔ {len(self._claims)} {kind}{'s' if len(self._claims) > 1 else ''} checked"

    def _repr_html_(self) -> str:
        items = "".join(
            f"<li>{inline_html(sentence)}<br><small>{link_arxiv(inline_html(one.words))}</small></li>"
            for sentence, one in self._claims
        )
        return f'{UNSEEN}<details class="peft-checks"><summary>{self._title}</summary><ul>{items}</ul></details>'


class Paragraph:
    """What `say` shows: prose, and the checks of its numbers behind one line."""

    def __init__(self, text: str, facts: dict[str, Fact]) -> None:
        self._text = text
        self._facts = facts
        shown = [(f"{name} = {one:{spec}}", one) for name, spec, one in self._fields()]
        self._checks = Checks(shown)

    def _fields(self) -> Iterator[tuple[str, str, Fact]]:
        """Each number of the text once: its name, its format, and the fact."""
        specs = {name: spec or "" for _, name, spec, _ in string.Formatter().parse(self._text) if name is not None}
        return ((name, spec, self._facts[name]) for name, spec in specs.items())

    def __repr__(self) -> str:
        text = self._text.format(**self._facts)
        return f"{text}\n{self._checks!r}" if self._facts else text

    def _repr_html_(self) -> str:
        blocks = [_block(block) for block in re.split(r"\n\s*\n", self._text.strip())]
        numbers = {name: _HtmlNumber(one) for name, one in self._facts.items()}
        prose = "".join(blocks).format(**numbers)
        return f'{UNSEEN}<div class="peft-say">{prose}{self._checks._repr_html_() if self._facts else ""}</div>'


class _HtmlNumber:
    """A number in HTML: what was expected shows on hovering, whatever the page strips."""

    def __init__(self, one: Fact) -> None:
        self._one = one

    def __format__(self, spec: str) -> str:
        shown = html.escape(format(self._one, spec))
        return f'<abbr class="peft-number" title="{html.escape(self._one.words)}">{shown}</abbr>'


def _block(text: str) -> str:
    """Turn a paragraph or a list into HTML whose fields are still open."""
    lines = text.strip().splitlines()
    if lines[0].startswith("- "):
        items = re.split(r"(?m)^- ", text.strip())[1:]
        return "<ul>" + "".join(f"<li>{link_arxiv(inline_html(item.strip()))}</li>" for item in items) + "</ul>"
    return f"<p>{link_arxiv(inline_html(' '.join(line.strip() for line in lines)))}</p>"


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
    """Bools in words, integers in full with thousands separated, floats with four significant digits.

    With a tolerance, a float has as many more as reach the tolerance's last digit; with a tolerance of 0, all it needs.
    """
    if isinstance(number, bool):
        return "yes" if number else "no"
    if isinstance(number, int):
        return f"{number:,}"
    digits = 4
    if tolerance == 0:
        digits = next((digits for digits in range(4, 17) if float(f"{number:.{digits}g}") == number), 17)
    elif tolerance and number and math.isfinite(number):
        last_place = int(Decimal(f"{tolerance:.4g}").as_tuple().exponent)
        digits = min(max(4, math.floor(math.log10(abs(number))) - last_place + 1), 17)
    return f"{number:.{digits}g}"
