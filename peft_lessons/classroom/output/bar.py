"""A progress bar for `training.train` in a notebook, which leaves nothing in the stored output but a line of text."""

from collections.abc import Iterator, Sequence

import ipywidgets
from IPython.display import display


class Bar(ipywidgets.IntProgress):
    """A bar of a known length. Stored outputs show `[60 steps]`, whatever the clock said."""

    def __repr__(self) -> str:
        return f"[{self.max} steps]"


def progress_bar(steps: Sequence[int]) -> Iterator[int]:
    """Yield `steps` and move a bar along; `train(…, bar=progress_bar)`."""
    bar = Bar(max=len(steps), description=f"{len(steps)} steps", layout={"width": "60%"})
    display(bar)
    for step in steps:
        yield step
        bar.value += 1
