"""Plants faults in a copy of the course, one at a time, and records which check of the proof catches each.

    python -m tools.proof.plant_faults                      every fault of faults.py
    python -m tools.proof.plant_faults --list
    python -m tools.proof.plant_faults --only quiz NF4      those whose names hold one of these words
    python -m tools.proof.plant_faults --checkout FOLDER    in the files of another commit, for comparison

With `python -m tools.proof.offline` before it, as in `make test`, nothing that is planted reaches the network.
A fault that no check catches is a survivor. A change of the proof has made it weaker when the survivors become more.

A fault is looked for where its `look` says, cheapest first, until a check fails; Python files go through the linter
before. At the end, all that failed runs again on the unchanged copy: what fails there, too, has caught nothing. Exit
status 0 when every fault was caught.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Self

from tools.proof.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
OWN_TEST = "tests/test_faults.py"  # stays out of the copy: it notices every fault by its text

# Forks for each run of pytest, which then need not import again what takes seconds and no fault touches.
NURSERY = """
import contextlib, importlib, json, os, sys
for name in ("torch", "transformers", "peft", "matplotlib.figure", "IPython", "nbformat", "xdist", "pytest"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
for line in sys.stdin:
    arguments, output = json.loads(line)
    child = os.fork()
    if not child:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        status = sys.modules["pytest"].main(arguments)
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# How a step of the proof is run, narrowed to what follows; and where its tests are.
NO_TEST = 5  # pytest's exit status when it finds none: nobody looks
PYTEST = ("-m", "pytest", "-p", "no:nbval", "-p", "no:cacheprovider", "-q", "--color=no")
STEPS: dict[str, tuple[str, ...]] = {
    "lint": ("-m", "ruff", "check"),
    "format": ("-m", "ruff", "format", "--check"),
    "types": ("-m", "mypy"),
    "unit": (*PYTEST, "-m", "not browser and not notebooks and not hub"),  # slow ones of the file's area, too
    "slow": (*PYTEST, "-m", "notebooks"),
    "browser": (*PYTEST, "-m", "browser"),
    "hub": (*PYTEST, "-m", "hub"),
}
TESTS = {"unit": "tests", "slow": "tests/notebooks", "browser": "tests/browser", "hub": "tests/hub"}

# Which unit tests look at a file: how its path begins, and how the names of theirs go on after test_.
AREAS = {
    "peft_lessons/methods/combining.py": "multi_adapter",
    "peft_lessons/methods/registry.py": "completeness documents",
    "peft_lessons/methods/": "completeness help adapters contract methods peft_parity lora_elsewhere exact",
    "peft_lessons/adapters.py": "adapters contract bases",
    "peft_lessons/bases.py": "bases contract",
    "peft_lessons/biases.py": "biases",
    "peft_lessons/exact.py": "exact contract",
    "peft_lessons/experts.py": "experts",
    "peft_lessons/linear.py": "adapters contract bases",
    "peft_lessons/low_rank.py": "low_rank",
    "peft_lessons/checkpoints/files.py": "checkpoint security",
    "peft_lessons/checkpoints/gguf.py": "gguf",
    "peft_lessons/checkpoints/": "checkpoint peft_parity",
    "peft_lessons/quantization/simulated.py": "fake_quantization",
    "peft_lessons/quantization/": "quantization exact",
    "peft_lessons/models/tiny_gpt": "tiny_gpt",
    "peft_lessons/models/decoder.py": "decoder",
    "peft_lessons/models/diffusion.py": "diffusion",
    "peft_lessons/models/stacks.py": "methods prompts_in_transformers",
    "peft_lessons/models/gguf_blocks.py": "gguf smollm2",
    "peft_lessons/models/llama_gguf.py": "gguf smollm2",
    "peft_lessons/models/chat.py": "chat compare",
    "peft_lessons/models/": "smollm2 hub security",
    "peft_lessons/training.py": "training resuming imports",
    "peft_lessons/training_state.py": "resuming",
    "peft_lessons/interrupts.py": "resuming",
    "peft_lessons/files.py": "files resuming",
    "peft_lessons/multi_adapter.py": "multi_adapter",
    "peft_lessons/llama_server.py": "serving",
    "peft_lessons/serving.py": "serving",
    "peft_lessons/preference.py": "preference",
    "peft_lessons/suspicions.py": "suspicions",
    "peft_lessons/tasks.py": "tasks",
    "peft_lessons/distributed.py": "distributed",
    "peft_lessons/accounting/": "accounting",
    "peft_lessons/data/": "data",
    "peft_lessons/experiments/": "experiments",
    "peft_lessons/doctor.py": "doctor",
    "peft_lessons/classroom/exercise": "exercises mutants",
    "peft_lessons/lessons/": "exercises mutants quiz talks lessons",
    "peft_lessons/classroom/widgets/quiz": "quiz security",
    "peft_lessons/classroom/widgets/progress": "progress security",
    "peft_lessons/classroom/widgets/ink.js": "hand",
    "peft_lessons/classroom/widgets/theme.css": "quiz",
    "peft_lessons/classroom/widgets/sliders": "sweep live_figure security",
    "peft_lessons/classroom/widgets/parts": "sweep live_figure compare",
    "peft_lessons/classroom/widgets/chart.py": "sweep",
    "peft_lessons/classroom/output/colours.py": "figures sweep live_figure",
    "peft_lessons/classroom/output/labels.py": "figures",
    "peft_lessons/classroom/progress/submission.py": "class_report",
    "peft_lessons/classroom/progress": "progress security {stem}",
    "peft_lessons/classroom/progress/certificate.py": "progress",
    "peft_lessons/classroom/output/cards.py": "claims security",
    "peft_lessons/classroom/": "{stem}",
    "notebooks/": "lessons slides predictions talks security",
    "deploy/": "deploy",
    "docs/instructors.md": "talks",
    "tools/site/playground/": "playground drawing_page",
    "tools/site/build_playground.py": "playground",
    "tools/site/": "alive",
    "tools/artifacts/make_letters.py": "letters",
    "tools/": "{stem}",
    "peft_lessons/jupyter/slides.py": "slides lessons",
    "peft_lessons/jupyter/": "security setup present",
    "peft_lessons/cli.py": "cli",
    "peft_lessons/course.py": "cli doctor wheel",
    "Makefile": "setup",
    "docs/methods.md": "documents",
    "README.md": "setup documents",
    "requirements/": "setup",
    "tests/nbval_sanitize.cfg": "stored_outputs",
}


def tracked(checkout: Path) -> list[str]:
    """List the files of a checkout that git knows, but for those that were deleted."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, check=True, capture_output=True, text=True)
    return [name for name in listed.stdout.split("\0") if name != OWN_TEST and (checkout / name).is_file()]


class Copy:
    """A copy of a checkout in `folder`, in which checks are run with `python`."""

    def __init__(self, checkout: Path, folder: Path, python: str, modules: Path) -> None:
        self.checkout, self.folder, self.python = checkout, folder, python
        self.files = tracked(checkout)
        self.folder.chmod(0o755)  # the class server's students read it
        self.restore()
        for part in ("tests/js/node_modules", "deploy/node_modules"):
            if (modules / part).exists():
                (folder / part).symlink_to(modules / part)
        # Without compiled files: they know a source by its size and second, and a fault may leave both as they were.
        uncompiled = {"PYTHONDONTWRITEBYTECODE": "1"}
        self.environment = os.environ | uncompiled | {"PYTHONPATH": str(folder), "OMP_WAIT_POLICY": "passive"}

    @cached_property
    def nursery(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self.python, "-c", NURSERY],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "nursery" in vars(self):
            self.nursery.communicate()

    def restore(self) -> None:
        """Put back every file that differs from the checkout's, and take away what a fault or a check has left."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.relative_to(self.folder).as_posix() not in self.files:
                path.unlink()
        for name in self.files:
            source, own = self.checkout / name, self.folder / name
            if not own.exists() or own.read_bytes() != source.read_bytes():
                own.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, own)
                shutil.copymode(source, own)

    def plant(self, fault: Fault) -> None:
        """Plant a fault; raise ValueError when it does not fit these files, or what follows it fails."""
        path = self.folder / self.place(fault)
        path.write_text(fault.planted(path.read_text(encoding="utf-8")), encoding="utf-8", newline="")
        if fault.then:
            status, output = self.run(fault.then)
            if status:
                raise ValueError(f"{fault.name}: {' '.join(fault.then)} fails:\n{output[-2000:]}")

    def place(self, fault: Fault) -> str:
        """Where the fault's text is: in its own file, or in the one of this name to which that file has moved."""
        if fault.file in self.files:
            return fault.file
        same = [name for name in self.files if Path(name).name == Path(fault.file).name]
        holding = [name for name in same if fault.old in (self.folder / name).read_text(encoding="utf-8")]
        if len(holding) != 1:
            raise ValueError(f"{fault.name}: there is no {fault.file}, and its text is in {holding or 'no file'}")
        return holding[0]

    def run(self, command: tuple[str, ...]) -> tuple[int, str]:
        """Exit status and output of a Python command in the copy."""
        if command[:2] == ("-m", "pytest"):
            assert self.nursery.stdin and self.nursery.stdout
            output = self.folder / "output.txt"
            print(json.dumps([command[2:], str(output)]), file=self.nursery.stdin, flush=True)
            return int(self.nursery.stdout.readline()), output.read_text(encoding="utf-8", errors="replace")
        done = subprocess.run(
            [self.python, *command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def checks(self, fault: Fault) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(step, command), cheapest first."""
        if fault.file.endswith(".py"):
            yield from ((step, STEPS[step]) for step in ("lint", "format"))
        for look in fault.look:
            step, _, words = look.partition(": ")
            where = self.unit_tests(fault.file) if step == "unit" else [TESTS[step]] if step in TESTS else []
            yield step, (*STEPS[step], *(["-x", *where] if where else []), *(["-k", words] if words else []))

    def unit_tests(self, file: str) -> list[str]:
        """Return the test files of the area that a file belongs to; all where there are none."""
        area = next((words for start, words in AREAS.items() if file.startswith(start)), "")
        names = tuple(f"test_{word}" for word in area.format(stem=Path(file).stem).split())
        return [name for name in self.files if Path(name).name.startswith(names)] or [TESTS["unit"]]

    def caught(self, fault: Fault, thorough: bool = False) -> tuple[str, str]:
        """(step, check) that fails first with the fault, ("", "") when none does.

        Raises ValueError when the fault does not fit these files, and when pytest does not run or skips all that looks.
        """
        everything = ("unit", (*STEPS["unit"], "-x", "-n", "2", TESTS["unit"]))
        try:
            self.plant(fault)
            for step, command in (*self.checks(fault), *([everything] if thorough else [])):
                status, output = self.run(command)
                if status == 0 and step in TESTS and " passed" not in output:
                    raise ValueError(f"{fault.name}: here the tests that look at it are skipped ({step})")
                if status not in (0, NO_TEST):
                    named = failed(output) if step in TESTS else [step]
                    if not named:
                        raise ValueError(f"{fault.name}: {' '.join(command)} fails without a test:\n{output[-1000:]}")
                    return step, named[0]
            return "", ""
        finally:
            self.restore()

    def fails_anyway(self, found: Iterable[tuple[str, str]]) -> list[str]:
        """Those of the (step, check) that fail without any fault, too."""
        by_step: dict[str, list[str]] = defaultdict(list)
        for step, check in dict.fromkeys(found):
            by_step[step].append(check)
        unsound = []
        for step, checks in by_step.items():
            where = [TESTS["hub"]] if step == "hub" else checks if step in TESTS else []  # a class's day is one story
            status, output = self.run((*STEPS[step], *where))
            if status:
                unsound += (failed(output) if step in TESTS else checks) or [f"{step}: {output[-2000:]}"]
        return unsound


def failed(output: str) -> list[str]:
    """List the tests that pytest's summary names as failed."""
    return re.findall(r"^(?:FAILED|ERROR) (tests/.+?)(?: - .*)?$", output, re.MULTILINE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the faults and plant none")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="faults whose names hold one of these")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="where the course is; this one if not said")
    parser.add_argument("--python", default=sys.executable, help="that has the course's test tools")
    parser.add_argument("--modules", type=Path, help="a checkout with node_modules in tests/js and deploy")
    parser.add_argument("--thorough", action="store_true", help="all unit tests before a fault counts as a survivor")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if options.list:
        print(*(f"{fault.name} ({', '.join(fault.look)})" for fault in chosen), sep="\n")
        return 0
    print("| fault | step | caught by | seconds |\n|---|---|---|---|", flush=True)
    survivors, found, wrong = [], [], []
    checkout = options.checkout.resolve()
    modules = (options.modules or checkout).resolve()
    with (
        tempfile.TemporaryDirectory(prefix="peft-lessons-") as folder,
        Copy(checkout, Path(folder).resolve(), options.python, modules) as copy,
    ):
        for fault in chosen:
            start = time.monotonic()
            try:
                step, check = copy.caught(fault, options.thorough)
            except ValueError as error:
                wrong.append(str(error))
                step, check = "", "not known: see below"
            else:
                survivors += [] if step else [fault.name]
                found += [(step, check)] if step else []
            row = (fault.name, step, check or "SURVIVED", f"{time.monotonic() - start:.0f}")
            print(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |", flush=True)
        wrong += [f"fails without a fault, too: {check}" for check in copy.fails_anyway(found)]
    print(f"\nCaught {len(found)} of {len(chosen)}, survived {len(survivors)}.")
    print(*(f"- {line}" for line in (*survivors, *wrong)), sep="\n")
    return 1 if survivors or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
