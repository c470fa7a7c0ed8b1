"""Run the proof, step after step, and end with a table of what held and how long it took.

    python -m tools.proof.prove                 everything
    python -m tools.proof.prove quick           lint, format, types, unit tests: what one runs while working
    python -m tools.proof.prove lint browser    these steps alone

A step that fails does not stop the others. What this machine cannot run is named once at the end, with the command that
would run it. The exit status is 0 when every step held.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


def processors() -> int:
    """How many processors this process may use: affinity and a container's quota count, where the system tells."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        share, _, period = quota.read_text().partition(" ")
        if share != "max":
            count = min(count, max(1, round(int(share) / int(period))))
    return count


def workers(gib_each: float) -> str:
    """How many tests to run at once: one a processor, as far as there are `gib_each` of memory for each."""
    return str(max(1, min(processors(), int(psutil.virtual_memory().available / GIB / gib_each))))


def pytest(*arguments: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-p", "no:nbval", "--durations", "30", "--durations-min", "2", *arguments)


QUICK: dict[str, tuple[str, ...]] = {
    "lint": ("-m", "ruff", "check"),
    "format": ("-m", "ruff", "format", "--check"),
    "types": ("-m", "mypy", "--num-workers", str(processors())),
    "unit": pytest(
        "-n", workers(1.5), "--dist", "worksteal", "-m", "not browser and not notebooks and not hub and not slow"
    ),
}
FULL: dict[str, tuple[str, ...]] = QUICK | {
    "slow": pytest("-n", workers(3), "--dist", "worksteal", "-m", "slow or notebooks"),
    "browser": pytest("-n", workers(4), "--dist", "loadscope", "-m", "browser", "tests/browser"),
    "hub": pytest("-s", "-m", "hub", "tests/hub"),  # it prints what it measured
}


def run(command: tuple[str, ...]) -> tuple[bool, list[str]]:
    """Whether the step held, and the reasons for which it skipped what another machine would run."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # tests run side by side; lessons set their own number
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, errors="replace"
    )
    skipped = []
    for line in process.stdout or ():
        print(line, end="", flush=True)
        skipped += re.findall(r"^SKIPPED \[\d+\] \S+ (.*to run it: .*)", line)
    return process.wait() == 0, skipped


def main(names: list[str]) -> int:
    if unknown := [name for name in names if name not in (*FULL, "quick")]:
        sys.exit(f"there is no step {', '.join(unknown)}; there are quick, {', '.join(FULL)}")
    chosen = [name for name in FULL if not names or name in names or ("quick" in names and name in QUICK)]
    table, skipped = [], []
    for name in chosen:
        print(f"\n== {name}: python {' '.join(FULL[name])}", flush=True)
        start = time.monotonic()
        held, reasons = run(FULL[name])
        table.append((name, held, time.monotonic() - start))
        skipped += reasons
    if skipped:
        print("\n== not run on this machine", *dict.fromkeys(skipped), sep="\n")
    print("\n== proof")
    for name, held, seconds in table:
        print(f"{'held' if held else 'FAILED':8}{name:14}{seconds / 60:6.1f} min")
    failed = [name for name, held, _ in table if not held]
    minutes = sum(seconds for *_, seconds in table) / 60
    print(f"{minutes:.1f} minutes; {'failed: ' + ', '.join(failed) if failed else 'everything held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
