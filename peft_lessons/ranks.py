"""What the configs of methods with a rank share: the rank and α of each module, and what rank makes sense there."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from torch import Tensor, nn

from peft_lessons.adapters import AdapterConfig
from peft_lessons.bases import check_linear, is_linear, sizes
from peft_lessons.checks import check_count, check_positive, check_rank_fits

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class RankedConfig(AdapterConfig):
    """A rank and an α, which may differ from module to module.

    Attributes:
        rank: r, the inner dimension of each product; at most min(in, out) of every adapted matrix.
        alpha: α, which divided by the rank scales the update.
        rank_pattern: Other ranks for some modules: from names, ends of names or regular expressions for these to
            ranks, such as {"v_proj": 4}. The first that fits a module counts, as in peft.
        alpha_pattern: As `rank_pattern`, for α.

    Raises:
        ValueError: for a rank below 1 and an α that is not positive, anywhere.
    """

    rank: int
    alpha: float
    rank_pattern: tuple[tuple[str, int], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("rank", self.rank)
        check_positive("alpha", self.alpha)
        for field, check in (("rank_pattern", check_count), ("alpha_pattern", check_positive)):
            pairs = _pairs(field, getattr(self, field))
            object.__setattr__(self, field, pairs)
            for pattern, value in pairs:
                check(f"{field}[{pattern!r}]", value)

    def at(self, name: str) -> "RankedConfig":
        rank, alpha = _value(self.rank_pattern, name, self.rank), _value(self.alpha_pattern, name, self.alpha)
        return self if (rank, alpha) == (self.rank, self.alpha) else replace(self, rank=rank, alpha=alpha)

    def modules(self, model: nn.Module) -> dict[nn.Module, str]:
        found = super().modules(model)
        names = self.ranked_names(found)
        for field in ("rank_pattern", "alpha_pattern"):
            for pattern, _ in getattr(self, field):
                if not any(_fits(pattern, name) for name in names):
                    raise ValueError(f"{field} names {pattern!r}, which is none of {', '.join(names):.400}")
        return found

    def ranked_names(self, found: Mapping[nn.Module, str]) -> list[str]:
        """Names of all that has a rank of its own in the modules `found`."""
        return list(found.values())

    def check(self, name: str, base_layer: nn.Module) -> None:
        require_rank_fits(self.at(name), base_layer)


def require_rank_fits(config: Any, base_layer: nn.Module) -> None:
    """Raise ValueError for a `config.rank` above min(out, in) of the weight; a kernel has a row for each output."""
    if is_linear(base_layer):
        check_linear(base_layer, config.layer.__name__)
        check_rank_fits(config.rank, *sizes(base_layer))
    elif isinstance(weight := getattr(base_layer, "weight", None), Tensor) and weight.ndim > 1:
        rows, *window = weight.shape
        check_rank_fits(config.rank, math.prod(window), rows)


def _pairs(field: str, pattern: Any) -> tuple[tuple[str, Any], ...]:
    """Turn a mapping into a tuple, which can be hashed and compared. Raises ValueError for a name that is no regex."""
    try:
        pairs = tuple((str(name), value) for name, value in dict(pattern).items())
    except (TypeError, ValueError) as error:
        raise TypeError(f"{field} maps names to numbers, such as {{'q_proj': 4}}; got {pattern!r}") from error
    for name, _ in pairs:
        try:
            re.compile(name)
        except re.error as error:
            raise ValueError(f"{field} names {name!r}, which is no regular expression: {error}") from error
    return pairs


def _value(pattern: tuple[tuple[str, Value], ...], name: str, otherwise: Value) -> Value:
    return next((value for one, value in pattern if _fits(one, name)), otherwise)


def _fits(pattern: str, name: str) -> bool:
    return _compiled(pattern).fullmatch(name) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Kept here, since EVA gives each module of a large model its own pattern, more than `re` keeps."""
    return re.compile(rf"(.*\.)?({pattern})")
