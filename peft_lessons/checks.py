"""What configs refuse, in one wording."""

import math
from numbers import Integral, Real
from typing import Any


def check_count(name: str, value: Any, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a number, got {value!r}")


def check_positive(name: str, value: Any) -> None:
    check_number(name, value)
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")


def check_probability(name: str, value: Any) -> None:
    check_number(name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a probability in [0, 1), got {value}")


def check_rank_fits(rank: int, in_features: int, out_features: int) -> None:
    if rank > (limit := min(in_features, out_features)):
        raise ValueError(f"rank {rank} is above min(in, out) = {limit}: a matrix of this shape has no higher rank")
