"""Writes the two tables of docs/transformers.md: which method goes into which model, and what modules are called there.

python -m tools.artifacts.transformers_table
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import contract  # noqa: E402
import transformers_models  # noqa: E402

from peft_lessons import OFTConfig  # noqa: E402
from peft_lessons.methods.registry import METHODS  # noqa: E402

PAGE = ROOT / "docs" / "transformers.md"
KINDS, REFUSED = transformers_models.KINDS, transformers_models.REFUSED
ROWS = {name: contract.METHODS[name] for name in METHODS}
ROWS |= {"oft": OFTConfig(block_size=4, targets=contract.BOTH)}  # which has to divide a width
NAMED = {
    "IA³": "scaled",
    "its `feedforward_targets`": "down",
    "serial": "after",
    "parallel": "beside",
    "layer-norm": "norms",
    "prompt, prefix": "stack",
    "a new head": "head",
}


def table(*rows: list[str]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body)) + "\n"


def works() -> str:
    exceptions = [method for method in ROWS if any((method, kind) in REFUSED for kind in KINDS)]
    cells = [[method, *("–" if (method, kind) in REFUSED else "yes" for kind in KINDS)] for method in exceptions]
    return table(["method", *KINDS], ["all others", *["yes"] * len(KINDS)], *cells)


def names() -> str:
    def cell(value: str | tuple[str, ...]) -> str:
        return ", ".join(f"`{name}`" for name in ((value,) if isinstance(value, str) else value)) or "–"

    cells = [[kind, *(cell(getattr(one, field)) for field in NAMED.values())] for kind, one in KINDS.items()]
    return table(["model", *NAMED], *cells)


def with_tables(page: str) -> str:
    """Return the page with its tables as they are now."""
    for first, new in (("method", works()), ("model", names())):
        page = re.sub(rf"^\| {first} \|.*?\n(?!\|)", new, page, count=1, flags=re.M | re.S)
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
