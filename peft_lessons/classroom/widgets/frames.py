"""What a figure with controls shows at every setting, told by the kernel that drew it: for pages that have no kernel.

A build asks for it right after the figure's cell ran (tools/lessons/notebooks.py), since later cells may give the names
that its functions use to something else.
"""

import json
from pathlib import Path
from typing import Any

import torch


def tell(widget: Any, path: str) -> None:
    """Write to `path` all that `widget` can show, as JSON, or why not; chance goes on as if nobody had asked."""
    told = {"widget": type(widget).__name__}
    with torch.random.fork_rng(devices=[]):
        try:
            told["state"] = widget.all_it_shows()
        except ValueError as error:
            told["kernel"] = str(error)
    Path(path).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
