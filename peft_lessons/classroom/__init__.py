"""The classroom: everything that needs a notebook."""

from peft_lessons.classroom.bar import progress_bar
from peft_lessons.classroom.claims import claim
from peft_lessons.classroom.compare import compare
from peft_lessons.classroom.exercise import exercise
from peft_lessons.classroom.figures import Measured, figure, new_figure, table
from peft_lessons.classroom.kept import trained_once
from peft_lessons.classroom.labels import label_lines
from peft_lessons.classroom.live_figure import live_figure
from peft_lessons.classroom.progress import progress_map
from peft_lessons.classroom.quiet import quietly
from peft_lessons.classroom.quiz import quiz
from peft_lessons.classroom.show import show
from peft_lessons.classroom.sweep import Frame, sweep

__all__ = [
    "Frame",
    "Measured",
    "claim",
    "compare",
    "exercise",
    "figure",
    "label_lines",
    "live_figure",
    "new_figure",
    "progress_bar",
    "progress_map",
    "quietly",
    "quiz",
    "show",
    "sweep",
    "table",
    "trained_once",
]
