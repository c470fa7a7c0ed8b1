"""What a figure with controls shows at every setting, told by the kernel that drew it: for pages that have no kernel.

A build asks each such cell right after it ran (tools/lessons/notebooks.py), since later cells may give the names that its
functions use to something else.
"""

import json
from typing import Any

import torch


def told(widget: Any) -> str:
    """Return all that `widget` can show, as JSON, or why it cannot be told; chance goes on as if nobody had asked."""
    with torch.random.fork_rng(devices=[]):
        try:
            return json.dumps({"widget": type(widget).__name__, "state": widget.all_it_shows()}, ensure_ascii=False)
        except ValueError as error:
            return json.dumps({"widget": type(widget).__name__, "kernel": str(error)})
