"""Experiments that take minutes. Their results are shipped, and every one can be run again.

An experiment is a module of this package with

    its docstring   what is measured, and on what
    cases()         the settings of every run, a dict each
    measure(**case) one run: a dict of numbers, which depends on nothing but the case

`stored(name)` reads results/NAME.json, as `peft-lessons experiment NAME` wrote it. A test measures a case of
each again. Trained numbers agree between machines to a few per cent at best, times not at all.
"""

import importlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from peft_lessons.course import program
from peft_lessons.files import write_text

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"

Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Rows, each a case and what was measured, and how they came about."""

    rows: list[Row]
    about: str

    def where(self, **settings: Any) -> list[Row]:
        """Return the rows with these settings. Raises ValueError when there is none."""
        found = [row for row in self.rows if all(row.get(key) == value for key, value in settings.items())]
        if not found:
            known = {key: sorted({str(row.get(key)) for row in self.rows}) for key in settings}
            raise ValueError(f"no row has {settings}; there are {known}")
        return found

    def one(self, **settings: Any) -> Row:
        """Return the row with these settings. Raises ValueError unless there is exactly one."""
        found = self.where(**settings)
        if len(found) > 1:
            raise ValueError(f"{len(found)} rows have {settings}; say more")
        return found[0]


def names() -> list[str]:
    """List the experiments, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def experiment(name: str) -> Any:
    """Return the experiment's module. Raises ValueError that lists the names when there is none."""
    if name not in names():
        raise ValueError(f"no experiment is called {name!r}; there are {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{name}")


def stored(name: str) -> Results:
    """Read the results that are shipped with the course.

    Raises ValueError for an unknown name, FileNotFoundError when the experiment was never run to its end.
    """
    experiment(name)
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Run:\n{program(f'experiment {name}')}")
    return _read(path)


def run(name: str, bar: Callable[[list[Row]], Iterable[Row]] = iter) -> Results:
    """All cases, measured here and now; takes as many minutes as the stored results say. `bar` shows progress."""
    module = experiment(name)
    started = time.perf_counter()
    rows = [case | module.measure(**case) for case in bar(module.cases())]
    return Results(rows, _about(time.perf_counter() - started))


def store(name: str, results: Results, folder: Path = RESULTS) -> Path:
    """Write results/NAME.json: a line a row, floats with six digits. Raises ValueError when a number is not finite."""
    rows = [json.dumps(_rounded(row), ensure_ascii=False, allow_nan=False) for row in results.rows]
    text = f'{{"about": {json.dumps(results.about)},\n"rows": [\n' + ",\n".join(rows) + "\n]}\n"
    path = folder / f"{name}.json"
    write_text(path, text)
    return path


def _read(path: Path) -> Results:
    found = json.loads(path.read_text(encoding="utf-8"))
    return Results(found["rows"], found["about"])


def _about(seconds: float) -> str:
    return (
        f"{math.ceil(seconds / 60)} minutes on {torch.get_num_threads()} threads ({platform.machine()}), "
        f"torch {torch.__version__.partition('+')[0]}"
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
