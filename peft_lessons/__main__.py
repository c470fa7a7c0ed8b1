"""`python -m peft_lessons` is the command `peft-lessons`."""

import sys

from peft_lessons.cli import main

if __name__ == "__main__":
    sys.exit(main())
