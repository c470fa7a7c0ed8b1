"""`python -m peft_lessons COMMAND`."""

import sys
from collections.abc import Callable
from pathlib import Path

from peft_lessons.doctor import doctor


def lessons() -> int:
    """Prints what each lesson holds: claims, widgets, figures, exercises, questions, minutes."""
    from peft_lessons.classroom.contents import contents

    print(contents())
    return 0


def experiment(name: str) -> int:
    """Runs an experiment of `peft_lessons.experiments` anew and replaces its stored results."""
    from tqdm import tqdm

    from peft_lessons import experiments

    results = experiments.run(name, bar=tqdm)
    print(f"{experiments.store(name, results)}: {len(results.rows)} rows, {results.about}")
    return 0


def talk(number: str) -> int:
    """Prints the speaker's notes for a lesson: minutes, what to say or ask, where students stumble."""
    from peft_lessons.classroom import talks

    print(talks.notes(talks.load_talk(number)))
    return 0


def progress() -> int:
    """Prints what is done of each lesson."""
    from peft_lessons.classroom import handing_in

    print(handing_in.table())
    return 0


def progress_export(file: str, name: str = "") -> int:
    """Writes the progress to a new JSON file that an instructor can read; with a name in it only if one is given."""
    from peft_lessons.classroom import handing_in

    items = handing_in.export(Path(file), name)
    print(
        f"{file}: {len(items)} items, {'by ' + name if name else 'without a name'}. It is text: look at what it says."
    )
    return 0


def class_report(folder: str) -> int:
    """Merges the exported files in a folder into a table and a page with a figure, FOLDER/class-report.html."""
    from peft_lessons.classroom import class_report

    print(class_report.class_report(Path(folder)))
    return 0


def copy() -> int:
    """Copies the lessons to where they are worked on, and overwrites nothing that was changed there."""
    from peft_lessons.classroom import working_copies

    print(working_copies.copy_lessons())
    return 0


def reset(number: str) -> int:
    """Puts a fresh copy of a lesson in place and keeps the old one beside it."""
    from peft_lessons.classroom import working_copies

    fresh, backup = working_copies.reset(number)
    print(f"A fresh copy is in {fresh}." + (f" Yours is now {backup.name}, beside it." if backup else ""))
    return 0


# As one types it; what stands in capitals is filled in.
COMMANDS: dict[str, Callable[..., int]] = {
    "doctor": doctor,
    "lessons": lessons,
    "experiment NAME": experiment,
    "talk NN": talk,
    "copy": copy,
    "reset NN": reset,
    "progress": progress,
    "progress export FILE": progress_export,
    "progress export FILE NAME": progress_export,
    "class-report FOLDER": class_report,
}


def main(arguments: list[str]) -> int:
    """Runs the command that `arguments` names and returns its exit status; 2 when there is none, or it is refused."""
    for usage, command in COMMANDS.items():
        words = usage.split()
        fits = len(words) == len(arguments) and all(
            word.isupper() or word == given for word, given in zip(words, arguments, strict=True)
        )
        if fits:
            try:
                return command(*(given for word, given in zip(words, arguments, strict=True) if word.isupper()))
            except (OSError, ValueError) as error:
                print(f"python -m peft_lessons {arguments[0]}: {error}", file=sys.stderr)
                return 2
    given = f"there is no command {' '.join(arguments)!r};" if arguments else "no command is given;"
    print(f"python -m peft_lessons: {given} there is: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
