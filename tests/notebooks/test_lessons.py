"""The course's own lessons: text and notebook agree, and the guards find nothing."""

import pytest

import notebooks
from peft_lessons.classroom.progress import lessons

TEXTS = notebooks.sources()


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_text_and_notebook_agree(path):
    assert notebooks.differences(path) == []


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_guards_find_nothing(path):
    assert notebooks.faults(path) == []


def test_the_course_is_what_its_list_says():
    assert notebooks.orphans() == []
    assert [path.with_suffix(".ipynb").name for path in TEXTS] == [lesson.notebook for lesson in lessons()]
