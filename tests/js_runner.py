"""Runs a widget's own script in a simulated browser (node and jsdom), with the state that Python would send."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

JS = Path(__file__).parent / "js"


def front_end(widget: Any, moves: list[tuple[int, int]], from_python: dict[str, Any] | None = None) -> dict[str, Any]:
    """What `tests/js/sliders.mjs` sees: at the start, after each move (slider, value), and after a change by Python."""
    node = shutil.which("node")
    assert node, "node is not installed; the widgets' scripts are tested with it"
    assert (JS / "node_modules" / "jsdom").is_dir(), f"jsdom is not installed: run `npm ci` in {JS}"
    state = {key: list(value) if isinstance(value, bytes) else value for key, value in widget.get_state().items()}
    esm = state["_esm"]
    state = {key: value for key, value in state.items() if not key.startswith("_") and key not in ("layout", "comm")}
    message = {"esm": esm, "state": state, "moves": moves, "from_python": from_python or {}}
    run = subprocess.run(
        [node, "sliders.mjs"], input=json.dumps(message), capture_output=True, text=True, cwd=JS, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
