"""`python -m peft_lessons COMMAND`."""

import sys
from collections.abc import Callable

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

    try:
        results = experiments.run(name, bar=tqdm)
    except ValueError as error:
        print(f"python -m peft_lessons experiment: {error}", file=sys.stderr)
        return 2
    print(f"{experiments.store(name, results)}: {len(results.rows)} rows, {results.about}")
    return 0


def talk(number: str) -> int:
    """Prints the speaker's notes for a lesson: minutes, what to say or ask, where students stumble."""
    from peft_lessons.classroom import talks

    try:
        print(talks.notes(talks.load_talk(number)))
    except ValueError as error:
        print(f"python -m peft_lessons talk: {error}", file=sys.stderr)
        return 2
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "doctor": doctor,
    "lessons": lessons,
    "experiment NAME": experiment,
    "talk NN": talk,
}


def main(arguments: list[str]) -> int:
    """Runs the command that `arguments` names and returns its exit status; 2 when there is no such command."""
    for usage, command in COMMANDS.items():
        name, *names = usage.split()
        if arguments[:1] == [name] and len(arguments) == 1 + len(names):
            return command(*arguments[1:])
    given = f"there is no command {' '.join(arguments)!r};" if arguments else "no command is given;"
    print(f"python -m peft_lessons: {given} there is: {', '.join(COMMANDS)}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
