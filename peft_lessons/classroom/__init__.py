"""The classroom: everything that needs a notebook."""

from peft_lessons.classroom.exercises.exercise import exercise
from peft_lessons.classroom.output.bar import progress_bar
from peft_lessons.classroom.output.claims import claim, fact, say
from peft_lessons.classroom.output.figures import Measured, figure, new_figure, table
from peft_lessons.classroom.output.labels import label_lines
from peft_lessons.classroom.output.quiet import quietly
from peft_lessons.classroom.output.show import show
from peft_lessons.classroom.progress.saved_training import trained_once
from peft_lessons.classroom.widgets.compare import compare
from peft_lessons.classroom.widgets.hand import draw_letters
from peft_lessons.classroom.widgets.live_figure import live_figure
from peft_lessons.classroom.widgets.predict import predict, reveal
from peft_lessons.classroom.widgets.progress_map import progress_map
from peft_lessons.classroom.widgets.quiz import evidence, quiz
from peft_lessons.classroom.widgets.review import review
from peft_lessons.classroom.widgets.sweep import Frame, sweep

__all__ = [
    "Frame",
    "Measured",
    "claim",
    "compare",
    "draw_letters",
    "evidence",
    "exercise",
    "fact",
    "figure",
    "label_lines",
    "live_figure",
    "new_figure",
    "predict",
    "progress_bar",
    "progress_map",
    "quietly",
    "quiz",
    "reveal",
    "review",
    "say",
    "show",
    "sweep",
    "table",
    "trained_once",
]
