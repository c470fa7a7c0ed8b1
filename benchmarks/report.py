"""From what the sections found to docs/benchmarks.md and its figure."""

import importlib
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch


@dataclass(frozen=True)
class Section:
    """One table, and the rows of it that the figure shows."""

    title: str
    text: str  # what is compared, and how
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    ratios: tuple[tuple[str, float], ...] = ()  # (label, our time or memory / the peer's), for the figure

    def markdown(self) -> str:
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, *self.rows)]
        return "\n".join(
            [f"## {self.title}", "", self.text, "", lines[0], "|" + "---|" * len(self.columns), *lines[1:]]
        )


def measured(name: str) -> Section:
    """Run one section, called in a process of its own, since what one leaves in memory would disturb the next."""
    module = importlib.import_module(f"benchmarks.{name}")
    found: Section = module.section()
    return found


def number(value: float, digits: int = 2, unit: str = "") -> str:
    """A cell of a table; what was not measured says so."""
    return "machine busy" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def machine() -> str:
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text(encoding="utf-8").splitlines() if line.startswith("model name")]
        processor = names[0].partition(":")[2].strip() if names else processor
    return (
        f"{processor}, {torch.get_num_threads()} cores, torch {torch.__version__}, Python {platform.python_version()}"
    )


def page(sections: Sequence[Section], versions: str) -> str:
    """The whole of docs/benchmarks.md."""
    head = f"""# How fast, beside the peers

Written by `make bench` on {date.today().isoformat()}: {machine()}; {versions}.

Times are medians over rounds, ratios are medians of each round's ratio: variants take turns in shuffled order. One
thread is timed by its own processor time; several threads by the wall clock, and a sample counts only if no other
process worked meanwhile, or else the cell says "machine busy". Memory is the peak of a fresh process without its
imports. How it is measured: `benchmarks/measure.py`.

![Our time and memory as a share of the peer's](benchmarks.svg)
"""
    return "\n\n".join([head.rstrip(), *(section.markdown() for section in sections)]) + "\n"


def draw(sections: Sequence[Section], path: Path) -> None:
    """Bars to both sides of 1, where both are equal, on a scale on which half and twice are equally far away."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "benchmarks"
    import matplotlib.pyplot as plt

    bars = [bar for section in sections for bar in section.ratios if not math.isnan(bar[1])]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.27 * len(bars)), layout="constrained")
    for place, (_, ratio) in enumerate(bars):
        axes.barh(place, ratio - 1, left=1, color="#2a7f62" if ratio <= 1 else "#b5543a")
        side, gap = ("right", -4) if ratio <= 1 else ("left", 4)
        axes.annotate(f"{ratio:.2f}", (ratio, place), (gap, 0), textcoords="offset points", ha=side, va="center")
    axes.set_xscale("log", base=2)
    logarithms = [math.log2(ratio) for _, ratio in bars]
    doublings = range(math.floor(min([-1.0, *logarithms])), math.ceil(max([1.0, *logarithms])) + 1)
    axes.set_xlim(2.0 ** (doublings[0] - 0.4), 2.0 ** (doublings[-1] + 0.4))  # room for the numbers
    axes.set_xticks([2.0**n for n in doublings], [f"1/{2**-n}" if n < 0 else f"{2**n}" for n in doublings])
    axes.minorticks_off()
    axes.grid(axis="x", color="#d9d9d9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(bars)), [label for label, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("ours / the peer's: to the left of 1 is less time or memory")
    axes.tick_params(axis="y", length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
