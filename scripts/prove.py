"""Runs the proof, step after step, and ends with a table of what held and how long it took.

    python scripts/prove.py quick     lint, types, unit tests: what one runs while working
    python scripts/prove.py           that, then every notebook, JupyterLab and the site in a browser, a class server

A step that fails does not stop the others. The exit status is 0 when every step held.
"""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ("-m", "pytest", "-p", "no:nbval")
QUICK: dict[str, tuple[str, ...]] = {
    "lint": ("-m", "ruff", "check"),
    "format": ("-m", "ruff", "format", "--check"),
    "types": ("-m", "mypy"),
    "unit tests": (*PYTEST, "-n", "2", "--dist", "worksteal", "-m", "not browser and not notebooks and not hub"),
}
FULL: dict[str, tuple[str, ...]] = QUICK | {
    "notebooks": (*PYTEST, "-n", "2", "--dist", "worksteal", "-m", "notebooks"),
    "browser": (*PYTEST, "-n", "2", "--dist", "loadscope", "-m", "browser", "tests/browser"),
    "class server": (*PYTEST, "-s", "-m", "hub", "tests/hub"),  # it prints what it measured
}


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["quick"]):
        sys.exit(f"usage: python scripts/prove.py [quick]   (not {' '.join(arguments)!r})")
    table = []
    for name, command in (QUICK if arguments else FULL).items():
        print(f"\n== {name}: python {' '.join(command)}", flush=True)
        start = time.monotonic()
        status = subprocess.run([sys.executable, *command], cwd=ROOT).returncode
        table.append((name, status == 0, time.monotonic() - start))
    print("\n== proof")
    for name, held, seconds in table:
        print(f"{'held' if held else 'FAILED':8}{name:14}{seconds / 60:6.1f} min")
    failed = [name for name, held, _ in table if not held]
    minutes = sum(seconds for *_, seconds in table) / 60
    print(f"{minutes:.1f} minutes; {'failed: ' + ', '.join(failed) if failed else 'everything held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
