"""The exercises as nbgrader has them: what students get, and what it makes of a right and of a wrong hand-in."""

import nbformat
import pytest

from peft_lessons.classroom.exercises import exercise_ids, load_exercise
from peft_lessons.lessons.catalogue import lessons
from tools.lessons import assignment

GRADED = "lesson-03"  # three exercises


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    folder = tmp_path_factory.mktemp("class")
    assert assignment.make(folder) == [f"lesson-{lesson.number}" for lesson in lessons()]
    return folder


def released(course, name):
    (path,) = (course / "release" / name).glob("*.ipynb")
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("which", exercise_ids())
def test_the_hidden_test_is_the_exercises_own_check(which, tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    exercise = load_exercise(which)
    *_, test = assignment.cells(exercise)
    name = exercise.build(exercise.starter).__name__
    exec(test.source, {name: exercise.build(exercise.solution)})
    for source, phrase in exercise.wrong.values():
        with pytest.raises(AssertionError) as failed:
            exec(test.source, {name: exercise.build(source)})
        assert phrase.lower() in str(failed.value).lower(), "the student reads why"
    with pytest.raises(AssertionError, match=r"Replace the `\.\.\.`|Repair what stands"):
        exec(test.source, {name: exercise.build(exercise.starter)})


@pytest.mark.notebooks
def test_students_get_starters_and_nothing_that_gives_the_answer_away(course):
    seen = []
    for lesson in lessons():
        cells = released(course, f"lesson-{lesson.number}").cells
        text = "\n".join(cell.source for cell in cells)
        assert "SOLUTION" not in text and "HIDDEN" not in text and "assess(" not in text
        for which in exercise_ids(lesson.number):
            exercise = load_exercise(which)
            (cell,) = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade_id") == which]
            assert cell.source == exercise.starter.rstrip("\n")
            assert exercise.task in text
            seen.append(which)
        assert not any(cell.get("outputs") for cell in cells)
    assert seen == exercise_ids()


@pytest.mark.notebooks
def test_a_right_and_a_wrong_student_get_their_points_and_feedback(course):
    ids = exercise_ids(GRADED[-2:])
    students = {
        "right": {which: load_exercise(which).solution for which in ids},
        # one mistake of each exercise, but for the last, which is not attempted
        "wrong": {which: next(iter(load_exercise(which).wrong.values()))[0] for which in ids[:-1]},
    }
    for student, sources in students.items():
        notebook = released(course, GRADED)
        for cell in notebook.cells:
            cell.source = sources.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
        folder = course / "submitted" / student / GRADED
        folder.mkdir(parents=True)
        nbformat.write(notebook, folder / next((course / "release" / GRADED).glob("*.ipynb")).name)
    api = assignment.course(course)
    for student in students:
        graded = api.autograde(GRADED, student)
        assert graded["success"], graded["log"]
        told = api.generate_feedback(GRADED, student)
        assert told["success"], told["log"]
    most = sum(load_exercise(which).minutes for which in ids)
    scores = {entry["student"]: entry["score"] for entry in api.get_submissions(GRADED)}
    assert scores == {"right": most, "wrong": 0}
    assert api.get_assignment(GRADED)["max_score"] == most
    (page,) = (course / "feedback" / "wrong" / GRADED).glob("*.html")
    feedback = page.read_text(encoding="utf-8")
    assert "Replace the `...` in the cell above" in feedback.replace("&#39;", "'")
    (page,) = (course / "feedback" / "right" / GRADED).glob("*.html")
    assert f"(Score: {float(most)} / {float(most)})" in page.read_text(encoding="utf-8")


@pytest.mark.notebooks
def test_to_make_it_again_leaves_what_students_handed_in(course):
    handed_in = course / "submitted" / "ada" / GRADED / "mine.ipynb"
    handed_in.parent.mkdir(parents=True)
    handed_in.write_text("mine")
    assignment.make(course)
    assert handed_in.read_text() == "mine"
    assert {entry["student"] for entry in assignment.course(course).get_submissions(GRADED)} >= {"right", "wrong"}
