"""`python -m peft_lessons COMMAND`."""

import sys

from peft_lessons.doctor import doctor

COMMANDS = {"doctor": doctor}


def main(arguments: list[str]) -> int:
    """Runs the command that `arguments` names and returns its exit status; 2 when there is no such command."""
    if len(arguments) != 1 or arguments[0] not in COMMANDS:
        given = f"there is no command {' '.join(arguments)!r};" if arguments else "no command is given;"
        print(f"python -m peft_lessons: {given} there is: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[arguments[0]]()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
