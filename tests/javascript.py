"""Runs the widgets' scripts under node in a simulated browser (jsdom), with data that the real Python side made."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent / "js"


def run_node_tests(script: str, data: Any, folder: Path) -> None:
    """Run tests/js/`script` with node's own test runner; it finds `data` as JSON at $WIDGET_DATA.

    Without node_modules this fails and says what to do, unless PEFT_LESSONS_SKIP_JS is set.
    """
    if os.environ.get("PEFT_LESSONS_SKIP_JS"):
        pytest.skip("PEFT_LESSONS_SKIP_JS is set")
    if not (FOLDER / "node_modules" / "jsdom").exists():
        pytest.fail("tests/js/node_modules is missing: run `npm ci --prefix tests/js`, or set PEFT_LESSONS_SKIP_JS=1")
    path = folder / "widget.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    # Exit status 1 when any test fails; a script without tests would pass, hence the count.
    result = subprocess.run(
        ["node", "--test", "--test-reporter=tap", script],
        cwd=FOLDER,
        env={**os.environ, "WIDGET_DATA": str(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    summary = dict(
        line[2:].split() for line in result.stdout.splitlines() if line.startswith(("# pass ", "# skipped "))
    )
    assert int(summary["pass"]) > 0 and int(summary["skipped"]) == 0, result.stdout


def node_answer(script: str, data: Any, folder: Path) -> Any:
    """Run tests/js/`script`, which finds `data` as JSON at $WIDGET_DATA; returns what it prints, read as JSON."""
    if os.environ.get("PEFT_LESSONS_SKIP_JS"):
        pytest.skip("PEFT_LESSONS_SKIP_JS is set")
    path = folder / "data.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    result = subprocess.run(
        ["node", script],
        cwd=FOLDER,
        env={**os.environ, "WIDGET_DATA": str(path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)
