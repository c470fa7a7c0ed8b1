"""The exercises as an nbgrader course: `make assignment`, or `python -m tools.lessons.assignment [--out FOLDER]`.

Each lesson with exercises becomes an assignment, `lesson-03` for one, of a single notebook. In `source` it holds task,
solution and a hidden test that calls the exercise's own check; in `release`, which nbgrader makes of it and students
get, the starter stands in place of the solution and the test is cut. Points are the exercise's minutes. From there on
everything is nbgrader's: collect, `nbgrader autograde lesson-03`, `nbgrader generate_feedback lesson-03`,
`nbgrader export`. To make it anew touches `source`, `release` and the settings alone, never what students handed in.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from nbgrader.apps import NbGraderAPI
from traitlets.config import Config, PyFileConfigLoader

from peft_lessons.classroom.exercises import Specification, exercise_ids, load_exercise
from peft_lessons.lessons.catalogue import Lesson, lessons

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = "import math\n\nimport torch\nfrom torch import nn\n\nfrom peft_lessons.classroom import exercise"
OPENING = """# {lesson.number} · {lesson.title}: exercises

They are those of the lesson, with the same checks and hints. Replace each `...` by your code, then run the cell below.
{points} points in all."""
# nbgrader cuts everything between the two lines.
HIDDEN_TEST = """\
### BEGIN HIDDEN TESTS
from peft_lessons.classroom.exercises.exercise import assess
from peft_lessons.classroom.exercises import load_exercise

outcome, message = assess(load_exercise("{which}"), {name})
assert outcome == "correct", message
### END HIDDEN TESTS"""
SETTINGS = '''\
"""nbgrader's settings for the course in this folder, made by tools/lessons/assignment.py of PEFT Lessons."""

import os
from pathlib import Path

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    IncludeHeaderFooter,
    LockCells,
    SaveCells,
)


class StarterInPlaceOfSolution(ClearSolutions):
    def preprocess_cell(self, cell, resources, cell_index):
        self.code_stub = {"python": cell.metadata.get("starter", "")}
        return super().preprocess_cell(cell, resources, cell_index)


HERE = Path(__file__).resolve().parent
os.environ["PEFT_LESSONS_HOME"] = str(HERE / "progress")  # what is graded is nobody's progress here
c = get_config()
c.CourseDirectory.course_id = "peft-lessons"
c.CourseDirectory.root = str(HERE)
c.ExecutePreprocessor.timeout = 600
c.GenerateAssignment.preprocessors = [
    IncludeHeaderFooter,
    LockCells,
    StarterInPlaceOfSolution,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    ClearHiddenTests,
    ComputeChecksums,
    CheckCellMetadata,
]
'''


def nbgrader_cell(which: str, **settings: object) -> dict[str, object]:
    """Return the metadata by which nbgrader knows a cell."""
    own = {"schema_version": 3, "grade_id": which, "grade": False, "solution": False, "locked": True, "task": False}
    return {"nbgrader": own | settings}


def cells(exercise: Specification) -> list[NotebookNode]:
    """Return the task, the cell to write in, a cell that shows the check's verdict, and the one that gives points."""
    which, name = exercise.id, exercise.build(exercise.starter).__name__
    whole = f"### BEGIN SOLUTION\n{exercise.solution}### END SOLUTION"
    writing = nbgrader_cell(which, solution=True, locked=False) | {"starter": exercise.starter.rstrip("\n")}
    grading = nbgrader_cell(f"{which}-test", grade=True, points=exercise.minutes)
    task = f"## {exercise.title}\n\n*{exercise.minutes} points.*\n\n{exercise.task}"
    check = f'exercise("{which}").check({name})'
    return [
        new_markdown_cell(task, metadata=nbgrader_cell(f"{which}-task")),
        new_code_cell(whole, metadata=writing),
        new_code_cell(check, metadata=nbgrader_cell(f"{which}-check")),
        new_code_cell(HIDDEN_TEST.format(which=which, name=name), metadata=grading),
    ]


def notebook(lesson: Lesson) -> NotebookNode:
    """Return a lesson's exercises as nbgrader's source notebook."""
    exercises = [load_exercise(which) for which in exercise_ids(lesson.number)]
    opening = OPENING.format(lesson=lesson, points=sum(exercise.minutes for exercise in exercises))
    first = [
        new_markdown_cell(opening, metadata=nbgrader_cell(f"{lesson.number}-opening")),
        new_code_cell(IMPORTS, metadata=nbgrader_cell(f"{lesson.number}-imports")),
    ]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    made = new_notebook(
        cells=first + [cell for exercise in exercises for cell in cells(exercise)],
        metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
    )
    for number, cell in enumerate(made.cells):
        cell.id = f"{lesson.number}-{number}"  # the same each time
    return made


def course(folder: Path) -> NbGraderAPI:
    """nbgrader on the course in `folder`, with the settings that lie there."""
    here = str(Path(sys.executable).parent)  # where alembic is, which nbgrader starts by its name
    if here not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([here, os.environ["PATH"]])
    config = Config(PyFileConfigLoader("nbgrader_config.py", path=str(folder)).load_config())
    return NbGraderAPI(config=config)


def make(folder: Path) -> list[str]:
    """Make source, release and settings in `folder`; returns the assignments. RuntimeError with nbgrader's log."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nbgrader_config.py").write_text(SETTINGS, encoding="utf-8")
    api, made = course(folder), []
    for lesson in lessons():
        if not exercise_ids(lesson.number):
            continue
        name = f"lesson-{lesson.number}"
        source = folder / "source" / name
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        nbformat.write(notebook(lesson), source / f"{Path(lesson.notebook).stem}.ipynb")
        done = api.generate_assignment(name, force=True, create=True)
        if not done["success"]:
            raise RuntimeError(f"nbgrader could not make {name}:\n{done['error']}\n{done['log']}")
        made.append(name)
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "my_class", help="the course's folder; my_class if not said")
    folder = parser.parse_args().out.resolve()
    made = make(folder)
    print(f"{len(made)} assignments, {made[0]} to {made[-1]}. Give students {folder / 'release'}.")
    print(f"What they hand in goes to {folder / 'submitted'}/STUDENT/{made[0]}/; then, in {folder}:")
    print(f"  nbgrader autograde {made[0]}\n  nbgrader generate_feedback {made[0]}\n  nbgrader export")
    return 0


if __name__ == "__main__":
    sys.exit(main())
