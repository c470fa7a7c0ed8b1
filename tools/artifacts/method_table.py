"""Writes docs/methods.md: every method, its page and its paper, and how near it is to Hugging Face peft, measured.

python -m tools.artifacts.method_table
"""

import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import parity  # noqa: E402
import peft  # noqa: E402
from method_cases import CASES, NOT_FOLDABLE  # noqa: E402

from peft_lessons import merge, save_adapter  # noqa: E402
from peft_lessons.adapters import named_adapters  # noqa: E402
from peft_lessons.checkpoints.peft_names import layout_of  # noqa: E402
from peft_lessons.methods.registry import METHODS  # noqa: E402

HEADER = """# Methods

One file each in `peft_lessons/methods`: the paper, its equation, one config, one layer. Every one passes the same
contract (`tests/test_contract.py`) on dense, NF4 and double-quantized layers. `lora_plus.py` has LoRA+'s parameter
groups, and `partial.py` what adapters are measured against: the head, the last layers, everything. Beside the pages,
`experts.py` is LoRA on stacks of experts (`target_parameters`), and `biases.py` trains the base's own biases (`bias`).

*Trains* counts the numbers that train in one of the places where a method goes, in words of its config and its layer;
tests count them. The last four columns compare with Hugging Face peft {version} in float32, on a small language model
whose adapters were moved away from their start: the largest difference, relative to the largest entry. Outputs,
gradients and merged weights are those of an adapter that peft saved and we loaded; *there* is the outputs of one that
we saved and peft loaded. A dash: nothing to fold, or nothing that peft does on a CPU.

Made from `peft_lessons/methods/registry.py` by `python -m tools.artifacts.method_table`.

| method | config | page | paper | trains | folds into W | in peft | outputs | gradients | merged | there |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def compare(method: str) -> list[str]:
    """Largest differences from peft: outputs, gradients, merged weights, and the way there."""
    with tempfile.TemporaryDirectory() as folder:
        mine, reference = parity.pair(method, "decoder", Path(folder) / "theirs")
        config = next(named_adapters(mine))[1].config
        save_adapter(mine, config, Path(folder) / "ours")
        loaded = peft.PeftModel.from_pretrained(parity.decoders()[1], Path(folder) / "ours").eval()
    x = parity.inputs("decoder")
    outputs = [parity.outputs(model, x) for model in (mine, reference, loaded)]
    for y in outputs[:2]:
        y.square().mean().backward()
    gradients, layout = parity.named_gradients(reference), layout_of(config)
    off = [
        difference(layout.encode(layer, p.grad), gradients[layout.name(module, name)])
        for module, layer in named_adapters(mine)
        for name, p in layer.named_parameters()
        if p.grad is not None
    ]
    there = difference(outputs[2], outputs[0])
    merged = None if (method, "decoder") in parity.NOT_MERGED else merged_difference(mine, reference)
    figures = [difference(outputs[0], outputs[1]), max(off), merged, there]
    return ["–" if figure is None else f"{figure:.0e}" for figure in figures]


def merged_difference(mine: nn.Module, reference: peft.PeftModel) -> float:
    ours, theirs = merge(mine).state_dict(), reference.merge_and_unload().state_dict()
    return max(difference(ours[name], theirs[name]) for name in theirs)


def row(name: str) -> str:
    method = METHODS[name]
    page, *_ = method.pages
    cells = [
        name,
        f"`{method.config}`",
        f"[{page}.py](../peft_lessons/methods/{page}.py)",
        f"[{method.paper}](https://arxiv.org/abs/{method.paper})",
        method.trains,
        "no" if name in NOT_FOLDABLE else "yes",
        method.peft_type if method.peft_type in peft.PeftType.__members__ else "–",
        *(compare(name) if CASES[name].peft else ["–"] * 4),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = [row(method) for method in METHODS]
    (ROOT / "docs" / "methods.md").write_text(HEADER.format(version=peft.__version__) + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
