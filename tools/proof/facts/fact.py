"""A fact: what the course says or takes for granted about somebody else's library, and how to measure whether it holds.

A fact is a function behind `@fact(…)`. Its docstring is the statement, its argument the library's module, its result
what the library does now. `expected` is what it did in the version that `READ_IN` names.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# The version of each library that its facts were read in. After `make pins` these follow, once every fact holds again.
READ_IN = {
    "anywidget": "0.11.0",
    "bitsandbytes": "0.50.2",
    "ipywidgets": "8.1.9",
    "jupyter-server": "2.21.1",
    "jupyterlab": "4.6.6",
    "nbformat": "5.11.1",
    "peft": "0.21.2",
    "safetensors": "0.8.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
}


@dataclass(frozen=True, kw_only=True)
class Fact:
    id: str
    statement: str  # one plain sentence
    library: str  # whose behaviour it is: a key of READ_IN
    where: str  # a file of the course that says so, or whose code builds on it
    says: str  # what stands there
    expected: Any
    measure: Callable[[Any], Any]  # of the library's module

    @property
    def read_in(self) -> str:
        return READ_IN[self.library]

    def now(self) -> Any:
        """What the installed library does. Raises whatever importing or using it raises."""
        return self.measure(importlib.import_module(self.library.replace("-", "_")))


FACTS: list[Fact] = []


def fact(library: str, *, where: str, says: str, expected: Any) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Add the decorated function to `FACTS`."""

    def add(measure: Callable[[Any], Any]) -> Callable[[Any], Any]:
        FACTS.append(
            Fact(
                id=measure.__name__.replace("_", "-"),
                statement=" ".join((inspect.getdoc(measure) or "").split()),
                library=library,
                where=where,
                says=says,
                expected=expected,
                measure=measure,
            )
        )
        return measure

    return add
