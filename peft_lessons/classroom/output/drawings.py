"""Drawings of an idea, to scale: the matrices of LoRA."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

FROZEN = "#8b929a"
TRAINED = "#1d7a8c"
GAP = 0.12  # between the matrices, as a share of the larger side
THINNEST = 0.008  # of the larger side: a thinner matrix would vanish on the screen


def draw_lora(axes: Axes, inputs: int, outputs: int, rank: int, sizes: bool = True) -> dict[str, Rectangle]:
    """Draw W₀ beside B and A, to scale, and return B and A by name, for `resize_lora`.

    Args:
        axes: where to draw; its ticks and frame are switched off.
        inputs, outputs: the shape of W₀, (outputs, inputs).
        rank: that of the two thin matrices, (outputs, rank) and (rank, inputs).
        sizes: whether to write the shapes beside the names.
    """
    gap = GAP * max(inputs, outputs)
    thick = max(rank, THINNEST * max(inputs, outputs))
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.grid(visible=False)
    left = inputs + 2 * gap
    parts = {
        "W₀": Rectangle((0, 0), inputs, outputs, facecolor=FROZEN),
        "B": Rectangle((left, 0), thick, outputs, facecolor=TRAINED),
        "A": Rectangle((left + thick + gap, outputs - thick), inputs, thick, facecolor=TRAINED),
    }
    shapes = {"W₀": (outputs, inputs), "B": (outputs, rank), "A": (rank, inputs)}
    for name, part in parts.items():
        axes.add_patch(part)
        text = f"{name}\n{shapes[name][0]} × {shapes[name][1]}" if sizes else name
        middle = part.get_x() + part.get_width() / 2, part.get_y()
        axes.annotate(text, middle, xytext=(0, -5), textcoords="offset points", ha="center", va="top")
    axes.annotate("+", (inputs + gap, outputs / 2), ha="center", va="center", fontsize="x-large")
    axes.set_xlim(-gap, left + thick + 2 * gap + inputs)
    axes.set_ylim((-3.5 if sizes else -1.5) * gap, outputs + gap / 2)
    return {name: parts[name] for name in ("B", "A")}


def resize_lora(parts: Mapping[str, Rectangle], rank: int) -> dict[str, str]:
    """Draw the matrices that `draw_lora` returned with another rank; returns no readouts, for `live_figure`."""
    B, A = parts["B"], parts["A"]
    thick = max(rank, THINNEST * B.get_height())
    top = A.get_y() + A.get_height()
    B.set_width(thick)
    A.set_bounds(A.get_x(), top - thick, A.get_width(), thick)
    return {}
