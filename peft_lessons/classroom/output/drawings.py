"""Drawings of an idea, to scale: the matrices of LoRA."""

from collections.abc import Mapping

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from peft_lessons.classroom.output.colours import PALETTE

FROZEN = "#8b929a"
GAP = 0.12  # between the matrices, as a share of the larger side
THINNEST = 0.008  # of the larger side: a thinner matrix would vanish on the screen


def draw_lora(axes: Axes, inputs: int, outputs: int, rank: int) -> dict[str, Artist]:
    """Draw W₀ beside B and A, to scale, with their shapes; return what `resize_lora` changes, by name.

    Args:
        axes: where to draw; its ticks and frame are switched off.
        inputs, outputs: the shape of W₀, (outputs, inputs).
        rank: that of the two thin matrices, (outputs, rank) and (rank, inputs); there is room for no larger one.
    """
    gap = GAP * max(inputs, outputs)
    thick = max(rank, THINNEST * max(inputs, outputs))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    left = inputs + 2 * gap
    parts: dict[str, Artist] = {}
    for name, shape, corner, size, colour in (
        ("W₀", (outputs, inputs), (0, 0), (inputs, outputs), FROZEN),
        ("B", (outputs, rank), (left, 0), (thick, outputs), PALETTE[0]),
        ("A", (rank, inputs), (left + thick + gap, outputs - thick), (inputs, thick), PALETTE[0]),
    ):
        parts[name] = axes.add_patch(Rectangle(corner, *size, facecolor=colour))
        parts[f"{name} shape"] = axes.annotate(
            _words(name, shape),
            (corner[0] + size[0] / 2, corner[1]),
            xytext=(0, -5),
            textcoords="offset points",
            ha="center",
            va="top",
        )
    axes.annotate("+", (inputs + gap, outputs / 2), ha="center", va="center", fontsize="x-large")
    axes.set_xlim(-gap, left + thick + 2 * gap + inputs)
    axes.set_ylim(-3.5 * gap, outputs + gap / 2)
    return {name: part for name, part in parts.items() if not name.startswith("W₀")}


def resize_lora(parts: Mapping[str, Artist], rank: int) -> dict[str, str]:
    """Draw the matrices that `draw_lora` returned with another rank; returns no readouts, for `live_figure`."""
    B, A = parts["B"], parts["A"]
    assert isinstance(B, Rectangle) and isinstance(A, Rectangle)
    outputs, inputs = B.get_height(), A.get_width()
    thick = max(rank, THINNEST * max(outputs, inputs))
    top = A.get_y() + A.get_height()
    B.set_width(thick)
    A.set_bounds(A.get_x(), top - thick, inputs, thick)
    for name, shape in (("B", (outputs, rank)), ("A", (rank, inputs))):
        label = parts[f"{name} shape"]
        assert isinstance(label, Annotation)
        label.set_text(_words(name, shape))
    return {}


def _words(name: str, shape: tuple[float, float]) -> str:
    return f"{name}\n{shape[0]:.0f} × {shape[1]:.0f}"
