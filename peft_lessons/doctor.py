"""`peft-lessons doctor`: say in plain words what of the course's set-up is fine and what is not.

One line a check: `ok`, `note` (worth knowing, nothing is broken) or `problem`, and under it what mends it. The exit
status is 1 when there is a problem. A check imports what it looks at only when it runs, so that the doctor can speak
where torch, or anything else, is missing or broken.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from peft_lessons import course

OLDEST_PYTHON = (3, 11)
MEMORY_GIB = 4  # a LoRA step on SmolLM2, fp32, batch 4 of 128 tokens, peaks at 2.5 GB; full fine-tuning at 3.3 GB
DISK_GIB = 1


@dataclass(frozen=True)
class Finding:
    """What one check found: `verdict` is "ok", "note" or "problem"; `fix` is a command, or what to do."""

    verdict: str
    says: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.verdict:<9}{self.says}" + (f"\n{'':9}fix it: {self.fix}" if self.fix else "")


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding(
            "problem", f"Python {version} is too old: 3.11 or newer is needed", "install a newer Python first"
        )
    return Finding("ok", f"Python {version} ({sys.executable})")


def place() -> Finding:
    """Check where notebooks import from: a folder that was moved or copied leaves this Python with the old place."""
    ask = "import importlib.util as i; spec = i.find_spec('peft_lessons'); print(spec.origin if spec else '')"
    with tempfile.TemporaryDirectory() as elsewhere:  # else the folder one stands in is searched first
        told = subprocess.run([sys.executable, "-c", ask], cwd=elsewhere, capture_output=True, text=True).stdout.strip()
    if not told:
        return Finding("problem", f"notebooks do not find the course: {sys.prefix} was moved", course.point_here())
    if Path(told).resolve().parent != course.PACKAGE:
        says = f"notebooks import the course from {Path(told).parent}, not from {course.PACKAGE}: a folder was copied"
        return Finding("problem", says, course.point_here())
    return Finding("ok", f"notebooks import the course from {course.PACKAGE}")


def packages() -> Finding:
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("peft-lessons") or []
    except metadata.PackageNotFoundError:
        return Finding("problem", "the package peft-lessons is not installed in this Python", course.reinstall())
    needed = [requirement for requirement in map(Requirement, lines) if not requirement.marker]
    pins = {pin.name: pin for pin in map(Requirement, read_pins()) if not pin.marker or pin.marker.evaluate()}
    missing, different = [], []
    for requirement in needed:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        pin = pins.get(requirement.name.lower().replace("_", "-"))
        if pin and version not in pin.specifier:
            different.append(f"{requirement.name} {version} ({pin.specifier})")
    if missing:
        return Finding("problem", f"packages are missing: {', '.join(missing)}", course.reinstall())
    if different:
        says = f"packages at other versions than the lessons were checked with: {', '.join(different)}"
        return Finding("note", says, course.reinstall())
    return Finding("ok", f"{len(needed)} packages, at the versions that the lessons were checked with")


def read_pins() -> list[str]:
    """Read the lines of requirements/pins.txt."""
    lines = course.PINS.read_text(encoding="utf-8").splitlines() if course.PINS.exists() else []
    return [line for line in lines if line and not line.startswith("#")]


def torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that torch was built against does not load
        missing = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        anew = course.pip(f"install --force-reinstall --no-deps --constraint {shlex.quote(str(course.PINS))} torch")
        return Finding("problem", f"torch cannot be imported: {error}", course.reinstall() if missing else anew)
    return Finding("ok", f"torch {torch.__version__}, computing with {torch.get_num_threads()} threads")


def waiting() -> Finding:
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.lower() == "passive":
        return Finding("ok", "threads that wait leave the processor to others (OMP_WAIT_POLICY=passive)")
    # 0.9 instead of 10.3 tokens a second: SmolLM2 on two threads beside another program that computes
    return Finding(
        "note",
        "threads that wait keep the processor busy: beside other programs, lessons can run ten times slower",
        f"start the course with `{course.program()}`, or set OMP_WAIT_POLICY=passive before JupyterLab starts",
    )


def processor() -> Finding:
    """bf16 arithmetic: torch's own check can mislead, the processor's flags do not."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    fast = sorted(words & {"avx512_bf16", "amx_bf16"})
    if fast:
        return Finding("ok", f"this processor computes bf16 in hardware ({', '.join(fast)}); lessons use fp32")
    return Finding("ok", "lessons use fp32; nothing says that bf16 would be faster on this processor")


def gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        return Finding("ok", f"a GPU is there for those who choose it: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("ok", "Apple's GPU is there for those who choose it")
    return Finding("ok", "no GPU is found, and none is needed")


def memory() -> Finding:
    from peft_lessons.memory import available_memory

    gib = available_memory() / 2**30
    if gib < MEMORY_GIB:
        says = f"{gib:.1f} GiB of memory are available, and some lessons need {MEMORY_GIB}"
        return Finding("problem", says, "close other programs and notebooks (Kernel, Shut Down All Kernels)")
    return Finding("ok", f"{gib:.1f} GiB of memory are available ({MEMORY_GIB} are needed)")


def disk() -> Finding:
    gib = shutil.disk_usage(course.FILES).free / 2**30
    if gib < DISK_GIB:
        says = f"{gib:.1f} GiB of disk are free in {course.FILES}, and {DISK_GIB} is needed"
        return Finding("problem", says, course.pip("cache purge") + "   (often frees gigabytes)")
    return Finding("ok", f"{gib:.1f} GiB of disk are free ({DISK_GIB} is needed)")


def weights() -> Finding:
    from peft_lessons.models import smollm2

    command = course.program("weights")
    status = smollm2.weights_status()
    if status.path is None:
        return Finding("problem", "SmolLM2's weights are missing", command)
    if not status.intact:
        return Finding("problem", f"SmolLM2's weights are damaged: {status.path} has a wrong checksum", command)
    return Finding("ok", "SmolLM2's weights are here, and their checksum is right")


def tiny_gpt() -> Finding:
    from peft_lessons.models import load_tiny_gpt

    try:
        load_tiny_gpt()  # compares the checksums
    except (OSError, ValueError) as error:
        what = str(error).partition(". Run:")[0]
        return Finding("problem", f"the tiny GPT: {what}", course.restore("peft_lessons/models/tiny_gpt"))
    return Finding("ok", "the tiny GPT is here, and its checksums are right")


def texts() -> Finding:
    from peft_lessons import data

    sets = [entry["name"] for entry in data.manifest()]
    try:
        for name in sets:
            getattr(data, name)()  # reads the whole set and compares its checksum
    except (OSError, ValueError) as error:
        what = str(error).partition(". Mend it")[0]
        return Finding("problem", f"a text is missing or damaged: {what}", course.restore("peft_lessons/data"))
    return Finding("ok", f"{len(sets)} sets of texts are here, and their checksums are right")


def notebooks() -> Finding:
    from peft_lessons.lessons.catalogue import lessons

    names = [lesson.notebook for lesson in lessons()]
    missing = [name for name in names if not (course.NOTEBOOKS / name).exists()]
    if missing:
        return Finding(
            "problem",
            f"notebooks are missing in {course.NOTEBOOKS}: {', '.join(missing)}",
            course.restore("notebooks"),
        )
    return Finding("ok", f"{len(names)} notebooks in {course.NOTEBOOKS}")


def progress() -> Finding:
    from peft_lessons.classroom.progress import store_status

    status = store_status()
    return Finding("ok" if status.ok else "problem", status.message, status.remedy)


CHECKS: tuple[Callable[[], Finding], ...] = (
    python,
    place,
    packages,
    torch,
    waiting,
    processor,
    gpu,
    memory,
    disk,
    weights,
    tiny_gpt,
    texts,
    notebooks,
    progress,
)


def examine() -> list[Finding]:
    """Run every check. One that cannot be made, since something that it needs does not work, is itself a problem."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings.append(check())
        except Exception as error:
            says = f"{check.__name__} could not be checked: {type(error).__name__}: {error}"
            above = any(finding.verdict == "problem" for finding in findings)
            findings.append(Finding("problem", says, "what is named above, first" if above else course.reinstall()))
    return findings


def report(findings: list[Finding]) -> str:
    """Put the findings in plain words, a line each with what mends it below, and a sentence that sums them up."""
    lines = [str(finding) for finding in findings]
    problems = sum(finding.verdict == "problem" for finding in findings)
    if problems:
        lines.append(f"\n{problems} {'problem' if problems == 1 else 'problems'}. Each command works in any folder.")
    else:
        lines.append("\nEverything that the lessons need is here.")
    return "\n".join(lines)


def doctor() -> int:
    """Print the report; return 1 when something must be mended, else 0."""
    findings = examine()
    print(report(findings))
    return int(any(finding.verdict == "problem" for finding in findings))
