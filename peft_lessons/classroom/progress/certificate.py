"""A page to print when the whole course is done: `peft-lessons certificate "Ada Lovelace"`, or the map's button.

It is made from the student's own progress file and says so: what was done and when, not who did it, nor how well it
would go in an examination. The name is what the student typed.
"""

import html
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from peft_lessons import __version__
from peft_lessons.classroom import progress
from peft_lessons.classroom.progress import submission
from peft_lessons.files import write_text
from peft_lessons.lessons import catalogue

FILE = "peft-lessons-certificate.html"
KINDS = {"quiz": "question", "exercise": "exercise"}
STYLE = """
:root { color-scheme: light; }
body { background: #fff; color: #1c2024; font: 15px/1.5 Georgia, "Times New Roman", serif; margin: 0; }
main { border: 1px solid #858c94; margin: 24px auto; max-width: 40em; padding: 40px 48px; }
.course { color: #5b626a; letter-spacing: 0.08em; margin: 0; text-transform: uppercase; }
h1 { font-size: 1.4em; font-weight: 400; margin: 1.2em 0 0; }
.name { border-bottom: 1px solid #858c94; font-size: 2em; margin: 0.2em 0 0.6em; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: 0.9em; margin: 1.5em 0; width: 100%; }
th, td { border-bottom: 1px solid #d5d9dd; font-weight: 400; padding: 3px 12px 3px 0; text-align: left; }
thead th { color: #5b626a; }
td:last-child, th:last-child { padding-right: 0; text-align: right; white-space: nowrap; }
.about { color: #5b626a; font-size: 0.85em; margin: 0; }
@media (max-width: 500px) { main { border: 0; margin: 0; padding: 20px; } }
@page { margin: 18mm; size: A4; }
@media print { main { border: 0; margin: 0; max-width: none; padding: 0; } tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Lesson:
    """A finished lesson: how many questions and exercises it has, and the day on which the last was right."""

    title: str
    questions: int
    exercises: int
    day: str


def missing() -> list[str]:
    """List what is not done yet, a line for each lesson, such as "03 LoRA from scratch: 2 questions, 1 exercise"."""
    found = []
    for row in progress.lesson_progress():
        left = {name: row[kind]["total"] - row[kind]["done"] for kind, name in KINDS.items()}
        parts = [_counted(count, name) for name, count in left.items() if count]
        if parts:
            found.append(f"{row['number']} {row['title']}: {', '.join(parts)}")
    return found


def write(path: Path, name: str) -> None:
    """Write the certificate to `path` (HTML), which must be new.

    Raises ValueError that lists what is missing when not all is done, or says why a name cannot stand there, and
    FileExistsError; nothing is written then.
    """
    name = name.strip()
    if not name or not submission.is_name(name):
        raise ValueError(
            f"the name {name!r} does not fit: 1 to {submission.LONGEST_NAME} characters, all of them printable"
        )
    if left := missing():
        raise ValueError("not all is done yet. What is missing:\n" + "\n".join(f"  {line}" for line in left))
    if path.exists():
        raise FileExistsError(f"{path} is there already; give another file, or move it away")
    write_text(path, page(name))


def unused(folder: Path) -> Path:
    """Return a name for the certificate in `folder` that no file has."""
    path, number = folder / FILE, 2
    while path.exists():
        path, number = (folder / FILE).with_stem(f"{Path(FILE).stem}-{number}"), number + 1
    return path


def page(name: str) -> str:
    """Return the certificate of one who has done all, as HTML."""
    items = submission.items()
    days = {event.item: _day(event.time) for event in reversed(progress.events()) if event.outcome == "correct"}
    lessons = [
        Lesson(
            f"{lesson.number} {lesson.title}",
            sum(item.kind == "quiz" for item in own),
            sum(item.kind == "exercise" for item in own),
            max(days[item.item] for item in own),
        )
        for lesson in catalogue.lessons()
        if (own := [item for item in items if item.lesson == lesson.number])
    ]
    quizzes = [item for item in items if item.kind == "quiz"]
    exercises = [item for item in items if item.kind == "exercise"]
    at_once = sum(item.first_verdict == "correct" for item in quizzes)
    shown = sum(item.solution_shown for item in exercises)
    first, last = min(_day(item.first_time) for item in items), max(lesson.day for lesson in lessons)
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(lesson.title)}</th><td>{lesson.questions}</td><td>{lesson.exercises}</td>'
        f"<td>{lesson.day}</td></tr>"
        for lesson in lessons
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>PEFT Lessons: {html.escape(name)}</title>
<style>{STYLE}</style>
<main>
<p class="course">PEFT Lessons</p>
<h1>This course on parameter-efficient fine-tuning was worked through by</h1>
<p class="name">{html.escape(name)}</p>
<p>from {first} to {last}: all {len(lessons)} lessons, with {len(quizzes)} questions answered, {at_once} of them right
at the first try, and {len(exercises)} exercises solved, {shown or "none"} of them after the solution was shown.</p>
<table>
<thead><tr><th scope="col">Lesson</th><th scope="col">Questions</th><th scope="col">Exercises</th>
<th scope="col">Finished</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p class="about">Made on {_day(datetime.now(UTC).isoformat())} by the program peft-lessons {__version__} from the
student's own progress file. It says what was done there, and when. It is not an examination: nobody watched, and the
name is what the student typed.</p>
</main>
</html>
"""


def _day(time: str) -> str:
    return datetime.fromisoformat(time).strftime("%Y-%m-%d")


def _counted(count: int, name: str) -> str:
    return f"{count} {name}{'s' * (count > 1)}"
