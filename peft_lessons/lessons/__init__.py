"""The lessons' own files, one folder each: what belongs to a lesson beside its text in `notebooks/`.

    lesson.toml      title and minutes (catalogue.py)
    questions.toml   its quiz questions (questions.py)
    notes.toml       the speaker's notes (notes.py)
    *.py             its exercises, one file each (peft_lessons/classroom/exercises)

`parts.py` says what lessons are made of.
"""
